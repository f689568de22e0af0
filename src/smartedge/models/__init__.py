"""Networks by name, cuts, exits, the bottleneck and the losses.

``blueprint`` says what a divided network is built from, and ``network`` builds it: ``zoo/`` knows networks by name and
loads weights (``weight_files`` where they lie in several), ``recording/`` writes down what a network does,
``cutting/`` divides it; ``layout`` says what the axes mean where it is cut. Around the cut lie ``exits``, the
``bottleneck``, a ``codebook`` with the ``prior`` of its levels, and ``entrances`` where edges have different cuts.
``suppression/`` hides sensitive labels, from what is ``released``.

How they learn: ``optim``, with ``adapters`` for frozen layers. ``fixed`` and ``gradients`` tell what does not learn.
``copying`` copies modules, ``compat`` imports libraries, ``blame`` says where the user's own code failed.
"""
