"""The durable, append-only log of one edge's frames: the edge's spool and the cloud's store (docs/store.md)."""
