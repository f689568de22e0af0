"""Reconstruction attacks: what an image looks like that is made from its release.

``run.py`` does them all; ``decoder.py``, ``gan.py`` and ``white_box.py`` are the attacks; ``measures.py`` and
``classifier.py`` judge the images.
"""

from smartedge.lab.audit.reconstruction.run import reconstruct

__all__ = ["reconstruct"]
