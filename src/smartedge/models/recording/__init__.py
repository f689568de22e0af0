"""Writes down what a network does with a batch of images, as a graph.

``trace`` does it, and ``graph`` is the result. The network runs on ``fakes``, while ``intercept`` reports its calls,
``counting`` its operations, ``contexts`` where gradients or autocast are off, ``varying`` the numbers that depend on
the batch, ``chance`` draws of random numbers. ``replay`` runs its code again, to find what a graph cannot hold.
``depth`` lets modules be nested deep.
"""
