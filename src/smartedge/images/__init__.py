"""Images before a network sees them. Both sides use it.

``size`` says how large they are, ``decode`` makes pixels of files, ``augment`` changes them at random.
"""
