"""The layouts in which data sets lie on disk or are given in Python."""
