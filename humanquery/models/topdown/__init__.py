"""Poses from the top down (AlphaPose): one crop per person, a heat map per joint."""
