"""Predicts what a run will cost, before it is run: profile of a machine + link → time, bytes, memory, energy.

``survey`` measures the steps of a network on this machine (by ``measure`` with ``timing`` on ``images``, in processes
of its own, and ``machine_costs``) and gives a ``profile``, a file that can be carried elsewhere; ``published`` scales
such a profile to machines that are not at hand. ``links`` and ``energy`` hold the figures of the literature, ``job``
the work of a run. ``pipeline`` is the arithmetic of stages that overlap, ``cost`` applies it to each method and
schedule, ``search`` ranks, ``draw`` shows. Accuracy is not predicted. ``propose`` proposes settings for a data set.
"""
