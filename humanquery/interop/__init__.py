"""Everybody else's formats and structures: tables, label files of other tools, supervision, hubs.

Each file imports the package that it speaks to when it is asked to, and says what to install where
it is missing. COCO is the hub of label files: everything else is read into it and written from it.
"""
