"""What no attacker can exceed: an upper bound, with its confidence, on what one release tells of an attribute.

``certify`` makes it for one attribute, from ``bounds`` of a mean and attackers that know the noise law (``posterior``,
``plugin``). ``sets`` is the same for several images of one person, ``whole`` joins several attributes. ``run`` makes
it of a run with its ``settings``, ``evidence`` of an audit.
"""
