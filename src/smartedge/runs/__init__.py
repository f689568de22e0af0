"""The run directory and what is kept in it.

Training: ``checkpoint``, ``seeds``, ``predictions``, ``record`` for the figures of an epoch, ``results`` for those of
the run, ``weights_facts`` and ``pictures``. Showing: ``progress``, ``progress_file``, ``telemetry`` and its
``exposition`` over ``http``. The machine: ``machine`` and ``allocator``.
"""
