"""The cloud: accepts frames, keeps them in the feature log, trains the back from it.

In the order of a frame: ``ingest/`` checks it, ``store/`` keeps it, ``intake`` is what there is of one edge, and
``handover`` what the link's threads and the training thread share. ``learning`` asks what comes next (``order/``),
``batches`` puts decoded images together, ``inputs`` makes tensors of them, with their ``label_shares``. ``back`` is the
network, and ``trainer`` updates it in one of the ways of ``training/``.

``runner`` joins all this in one process. Where workers of their own train, ``receiving`` is the process that takes
frames in, and ``worker`` one of those that train, together by ``workers/``.

``edge_figures`` and ``telemetry`` tell how the edges are. After the run, ``files_for_edges`` chooses what an edge may
have, and ``carrying`` brings it there.
"""
