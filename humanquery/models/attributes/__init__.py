"""Apparent gender and age of people whose boxes are known: how a backbone learns them before
HQNet."""
