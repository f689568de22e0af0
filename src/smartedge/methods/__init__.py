"""Methods, schedules, one update of each part of a network, and the training loop.

``base`` lists all methods; ``hierarchical``, ``split``, ``upload`` and ``local`` are these, each a ``learner`` for the
edge. ``schedules`` says which streams a run has. ``loop`` is the loop around every update: ``front_step`` and
``protected_step`` on the edge, ``back_step`` and ``sharded_step`` in the cloud, all with the same ``options``.
``mechanism`` makes the noise from settings, ``differentiable`` its twin for training. ``rate`` trains for few bytes,
``speed`` measures which precision is fastest.
"""
