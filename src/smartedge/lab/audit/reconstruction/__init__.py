"""Reconstruction attacks: they make an image from its release.

``run`` runs all of them. ``decoder``, ``gan`` and ``white_box`` are the attacks, ``networks`` and ``recipe`` what they
train and how, ``pieces`` and ``pixels`` what they share. ``judging`` judges the images by ``measures`` and a
``classifier``, and gives ``figures``; ``samples`` chooses those that the report shows.
"""

from smartedge.lab.audit.reconstruction.run import reconstruct

__all__ = ["reconstruct"]
