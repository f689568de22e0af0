"""Models of every file that is written, so that both sides write and read the same. No torch is imported here.

``base`` is what all of them share. A run writes ``run``, ``task``, ``checkpoint``, ``progress``, ``metrics``,
``summary`` and ``results``; a run of several edges ``fleet_run`` too, and a copy of its store ``store_copy``.
``front`` is a published front, ``fleet`` a fleet. The laboratory writes ``audit``, with ``attacks`` and
``reconstruction`` as its parts, then ``certificate``, ``profile``, ``plan`` and ``sweep``.
"""
