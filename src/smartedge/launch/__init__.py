"""What a run begins with.

``run_folder`` is its folder, ``datasets`` its data set, ``links`` both ends of its link. ``dividing`` begins to divide
the network. ``processes`` starts both sides, ``ingest`` a process that moves frames from a broker.
"""
