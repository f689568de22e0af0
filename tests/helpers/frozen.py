"""Imported last by the process that others are forked from: they need not look for garbage in what they inherit."""

import gc

gc.collect()
gc.freeze()
