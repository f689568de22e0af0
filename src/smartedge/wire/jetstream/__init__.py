"""The link over a broker (NATS JetStream): an edge publishes frames, and one or many ingest processes take them out.

A frame counts as confirmed when the broker has it on disk. Ingest removes it from the broker when the store has it on
disk. ``docs/broker.md`` explains the set-up and the guarantees, ``docs/wire-protocol.md`` the messages.

``messages`` are the messages, ``client`` is a connection, ``sender`` the edge's end. ``receiver`` is the end of
ingest: it makes ``streams``, gets messages by ``pulling``, and hands those of one edge to its ``intake``.
"""
