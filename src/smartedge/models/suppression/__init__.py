"""Takes a sensitive label out of what the front releases.

``adversary`` learns the label (``trunk`` is its body), ``confusion`` is what the front minimises. ``mixtures`` works
against the best possible attacker.
"""
