"""The laboratory round the method: it imports the core, and never the other way.

``plan/`` predicts before a run, ``watch/`` shows one that goes on. ``audit/`` attacks it afterwards, ``judging/`` says
in words what was found, and ``report/`` draws it. ``sweep/`` does all this for many runs.
"""
