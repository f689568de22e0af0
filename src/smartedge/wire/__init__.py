"""Frames over a link.

:mod:`~smartedge.wire.frame` turns frames and stream headers into bytes and checks what arrives,
:mod:`~smartedge.wire.link` says what a link is. :mod:`~smartedge.wire.memory` is the link within one process.
:mod:`~smartedge.wire.grpc_link` and :mod:`~smartedge.wire.grpc_receiver` are the two ends of the link over a network:
``link.proto`` has its messages, :mod:`~smartedge.wire.admission` decides who may send,
:mod:`~smartedge.wire.connections` bounds the connections, :mod:`~smartedge.wire.sockets` counts bytes at the socket.
"""

import os

# gRPC prints what a peer sends, and each handshake that fails, beside the errors that we raise. It looks for this once,
# when it is imported, so no module of this package imports it before.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
