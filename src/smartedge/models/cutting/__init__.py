"""Divides a network at a point of its recorded graph.

``cut`` does it. ``crossing`` finds the points (``point``) at which one tensor crosses, or several that ``packing``
makes one. ``part_graph`` writes the operations of a ``part``. ``glance`` refuses a wrong name before anything is
recorded.
"""
