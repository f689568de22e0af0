"""The link over a broker (NATS JetStream): an edge publishes frames, and one or many ingest processes take them out.

A frame counts as confirmed when the broker has it on disk. Ingest removes it from the broker when the store has it on
disk.
``docs/broker.md`` explains the set-up and the guarantees, ``docs/wire-protocol.md`` the messages.

:mod:`~smartedge.wire.jetstream.messages` are the messages, :mod:`~smartedge.wire.jetstream.sender` is the edge's end,
:mod:`~smartedge.wire.jetstream.receiver` that of ingest, with :mod:`~smartedge.wire.jetstream.intake` for one edge.
"""
