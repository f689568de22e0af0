"""What a certificate says."""

from __future__ import annotations

import ssl

__all__ = ["serial_of"]


def serial_of(certificate: bytes) -> int:
    """The serial number of a certificate in PEM.

    A certificate is a sequence, and its first element is a sequence of an optional version (tag 0xA0) and the serial
    number (RFC 5280, section 4.1). The certificate was checked before, by TLS.
    """
    data = ssl.PEM_cert_to_DER_cert(certificate.decode())
    body, _ = _element(data, 0)
    body, _ = _element(data, body)
    start, end = _element(data, body)
    if data[body] == 0xA0:
        start, end = _element(data, end)
    return int.from_bytes(data[start:end], "big", signed=True)


def _element(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the DER element at ``at`` begins, and where it ends."""
    length, start = data[at + 1], at + 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(data[at + 2 : start], "big")
    return start, start + length
