"""The type of a picture's size, importable without numpy and PyTorch."""

Size = tuple[int, int]
"""(height, width) in px"""
