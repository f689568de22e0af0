"""Frames over a link.

:mod:`~smartedge.wire.frame` turns frames into Arrow record batches and checks what arrives,
:mod:`~smartedge.wire.link` says what a link is. :mod:`~smartedge.wire.memory` is the link within one process.
:mod:`~smartedge.wire.flight` and :mod:`~smartedge.wire.flight_receiver` are the two ends of the link over a network.
:mod:`~smartedge.wire.sockets` counts bytes at the socket.
"""
