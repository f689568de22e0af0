"""Releases: the gate, the mechanisms, and the ledger of their cost.

``release`` is the gate. ``mechanisms/`` protect, by the probability ``laws`` with numbers from ``noise``. ``ledger``
is the record of every release (``place`` and ``checksum`` guard it), ``balance`` reads it, ``accountant`` composes the
costs, ``calibration`` finds the noise for a budget.
"""
