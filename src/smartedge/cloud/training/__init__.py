"""The three trainings of the back.

``in_sequence`` learns from the frames of one edge as they were sent. ``from_edges`` chooses among the frames of several
edges while they come, and ``mixed`` learns from their images together. ``from_logs`` learns from complete logs.
"""
