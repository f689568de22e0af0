"""Published defences, re-implemented small from their papers: one file for each. ``benchmarks/defences.py`` runs them.

Defences that the library itself can do (``adversary.confusion``, ``dp``) are settings there and have no file here.
"""
