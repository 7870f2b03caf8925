"""Scores of what was found against the truth: COCO AP and AR, gender AP, Age-10 AP, plain attribute
numbers."""
