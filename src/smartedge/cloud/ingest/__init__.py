"""Takes frames in: what is refused, what is stored and confirmed, and when a run is complete.

``ingest`` is the handler of every link. ``refusals`` is what does not belong to the run: ``same_run`` compares
settings, ``shapes`` says what edges send, ``values`` which numbers it may have. ``completion`` says when nothing more
is taken in, and ``farewell`` waits until all edges know it. ``follower`` sees in the store what another process takes
in. Beside a broker, ``process`` does all this without training, and ``group`` divides the edges among such processes.
``figures`` is what they tell of themselves.
"""
