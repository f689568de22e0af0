"""The random source of releases: a secret key, and a stream of words for each nonce.

The key is 32 bytes of the operating system's generator, kept on the edge. The stream is SHAKE-256 of key and nonce.
Without the key, nobody can distinguish its output from independent uniform bits: a sponge with a secret prefix is a
pseudo-random function (Bertoni et al. 2011; NIST SP 800-185 builds KMAC on that). So the words are those of a
cryptographically secure generator. The same nonce gives the same words: a frame that is repeated after a crash is the
same release, bit by bit.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smartedge.errors import PrivacyError
from smartedge.files import disk_error, is_disk_error, refuse_if_others_can_read, write_atomically
from smartedge.locks import holding_folder

__all__ = ["Noise"]

_KEY_BYTES = 32


class Noise:
    """Random words from the edge's secret key.

    Args:
        key: 32 secret bytes.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != _KEY_BYTES:
            raise ValueError(f"a key has {_KEY_BYTES} bytes, not {len(key)}")
        self._key = key

    @classmethod
    def open(cls, path: Path, *, existing: bool) -> Noise:
        """Read the key at ``path``. Where there is none, make one that only its owner may read.

        Args:
            path: the key's file.
            existing: the key must be there, since releases were made with it.

        Raises:
            PrivacyError: the file cannot be read or written, is not a key, or others may read it.
        """
        try:
            if not existing and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with holding_folder(path.parent):  # of two processes that begin at once, one makes the key
                    if not path.exists():
                        write_atomically(path, os.urandom(_KEY_BYTES))
            key = path.read_bytes()
            refuse_if_others_can_read(path, PrivacyError, "the key of the noise")
        except OSError as error:
            raise PrivacyError(
                f"{path}: the key of the noise cannot be read or written ({error.strerror or error}); without it "
                f"nothing is released. {_advice(error)}"
            ) from error
        if len(key) != _KEY_BYTES:
            what_now = "nothing was released, so remove it"
            if existing:
                what_now = "restore it from a copy, or start a new run"
            raise PrivacyError(
                f"{path}: holds {len(key)} bytes and is not a key of the noise ({_KEY_BYTES} bytes); {what_now}"
            )
        return cls(key)

    def words(self, nonce: bytes, count: int) -> NDArray[np.uint64]:
        """``count`` independent, uniform 64-bit words; the same for the same nonce."""
        stream = hashlib.shake_256(self._key + b"words" + nonce).digest(8 * count)
        return np.frombuffer(stream, dtype="<u8").astype(np.uint64, copy=False)

    def nonce(
        self, *purpose: str | int, ids: NDArray[np.int64] | None = None, content: NDArray[Any] | None = None
    ) -> bytes:
        """16 bytes that stand for a purpose and its data. They reveal neither without the key.

        Args:
            purpose: distinguishes this use from others.
            ids: int64, any shape.
            content: any array; different arrays have different nonces.
        """
        digest = hashlib.blake2b(repr(purpose).encode(), digest_size=16, key=self._key, person=b"nonce")
        for array in (ids, content):
            if array is not None:
                digest.update(repr((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.digest()


def _advice(error: OSError) -> str:
    lost = isinstance(error, FileNotFoundError) or not is_disk_error(error)
    return "Restore it from a copy, or start a new run" if lost else disk_error(error)
