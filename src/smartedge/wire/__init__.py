"""Frames over a link.

:mod:`~smartedge.wire.frame` turns frames into Arrow record batches and checks what arrives,
:mod:`~smartedge.wire.link` says what a link is, :mod:`~smartedge.wire.memory` and :mod:`~smartedge.wire.flight` are
links, and :mod:`~smartedge.wire.sockets` counts bytes at the socket.
"""
