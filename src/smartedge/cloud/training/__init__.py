"""The three trainings of the back.

``in_sequence`` learns from the frames of one edge as they were sent, ``mixed`` from images of several edges while they
come, ``from_logs`` from complete logs.
"""
