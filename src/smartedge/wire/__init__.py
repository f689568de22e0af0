"""Frames over a link. Read ``link`` first, which says what a link is, then ``frame``: frames as bytes, checked.

``memory`` is the link within one process. Over a network, ``link.proto`` has the messages (``link_pb2`` is generated
from it) and ``parts`` makes them of frames. ``grpc_link`` is the edge's end, with a ``grpc_stream`` for each stream
and a ``handshake`` that says why nobody answers. ``grpc_receiver`` is the cloud's end: ``credentials`` and
``admission`` decide who may send (``x509`` reads certificates), ``connections`` bounds connections and ``sockets``
counts their bytes. A stream gets one of the ``places``, its messages lie in an ``inbox``, ``slots`` bounds how many
are worked on. ``questions`` are answered beside streams, by ``files``. ``grpc_errors`` translates errors,
``addresses`` reads hosts and ports, ``loop`` runs what waits.

Other links: ``jetstream/`` over a broker, ``simplex/`` without a way back.
"""

import os

# gRPC prints what a peer sends, and each handshake that fails, beside the errors that we raise. It looks for this once,
# when it is imported, so no module of this package imports it before.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
