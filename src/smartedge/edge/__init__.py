"""The edge: owns the images, trains the front with its own exit, releases feature maps.

In the order of an image: ``runner`` goes through the epochs, ``images`` are their batches. ``sender`` releases and
packs what is to be sent (``protection`` makes the gate, ``streams`` the headers). ``spool`` keeps it on disk,
``shipper`` sends it, ``outage`` waits for a cloud that is away. ``state`` keeps checkpoints, ``summary`` writes the
last files, ``telemetry`` tells how it goes.

``apart`` divides the network in a process of its own. An edge without torch has ``releasing``, which sends
``labelled`` images once.
"""
