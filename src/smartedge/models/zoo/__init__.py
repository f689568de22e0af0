"""Networks by name, and their weights.

``names`` looks for a name, ``networks`` builds the network, ``answers`` makes sure that it answers with logits.
``published`` is what libraries know of it. ``weights`` puts weights into it: ``files`` and ``pth`` read them,
``tensor_names`` finds their places.
"""
