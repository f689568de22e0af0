"""Who may send: an authority, a bundle per edge, and the register that the cloud asks.

``bundle`` is what an edge reads, ``register`` what the cloud asks, ``credentials`` what both show to each other: these
need no extra. With the extra ``fleet``, ``authority`` makes ``certificates``, ``broker`` those of a broker, and
``signing`` signs published fronts. ``guarded`` notices that a file was damaged.
"""
