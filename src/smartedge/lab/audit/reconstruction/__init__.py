"""Reconstruction attacks: they make an image from its release.

``run.py`` runs all of them. ``decoder.py``, ``gan.py`` and ``white_box.py`` are the attacks. ``measures.py`` and
``classifier.py`` judge the images.
"""

from smartedge.lab.audit.reconstruction.run import reconstruct

__all__ = ["reconstruct"]
