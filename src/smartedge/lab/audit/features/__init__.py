"""The audit of features that did not come from a run of smartedge: a file, or arrays in memory.

``run`` does it. ``files`` reads a ``table`` of features, ``noise`` the law of their noise, ``evidence`` makes what
attackers are given, ``deep`` is the largest of their networks.
"""
