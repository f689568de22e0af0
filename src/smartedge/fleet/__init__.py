"""Who may send: an authority, a bundle per edge, and the register that the cloud asks.

:mod:`~smartedge.fleet.authority` makes certificates and needs the extra ``fleet``. :mod:`~smartedge.fleet.bundle` is
what an edge reads, and :mod:`~smartedge.fleet.register` what the cloud asks. These two need no extra.
"""
