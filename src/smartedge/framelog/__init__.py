"""The durable, append-only log of one edge's frames: the edge's spool and the cloud's store (docs/store.md).

``records`` are its bytes, ``mark`` says how far it is durable, ``index`` where each frame lies. ``reader`` reads it,
``opened`` opens it for writing, ``log`` writes it. ``durable`` gives what a copy is made from.
"""
