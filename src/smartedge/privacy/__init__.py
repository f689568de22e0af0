"""Releases: the gate, the mechanisms, and the ledger of their cost."""
