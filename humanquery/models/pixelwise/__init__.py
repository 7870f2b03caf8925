"""Poses regressed at every pixel, with a score that means their quality (CIR and QEM)."""
