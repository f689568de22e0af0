"""The source of noise: secret, private, repeatable."""

from __future__ import annotations

import errno
import fcntl
import os
import stat

import numpy as np
import pytest

from smartedge.errors import PrivacyError
from smartedge.privacy.noise import Noise


def test_the_key_is_made_once_and_read_by_its_owner_alone(tmp_path):
    path = tmp_path / "edge" / "noise.key"
    first = Noise.open(path, existing=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.stat().st_size == 32
    second = Noise.open(path, existing=True)
    np.testing.assert_array_equal(first.words(b"n", 9), second.words(b"n", 9))
    other = Noise.open(tmp_path / "other.key", existing=False)
    assert not np.array_equal(first.words(b"n", 9), other.words(b"n", 9))


def test_a_key_that_is_missing_short_or_open_to_others_is_refused(tmp_path):
    path = tmp_path / "noise.key"
    with pytest.raises(PrivacyError, match=r"or written \(No such file or directory\); without it"):
        Noise.open(path, existing=True)
    path.touch(mode=0o600)
    with pytest.raises(PrivacyError, match=r"0 bytes.*nothing was released, so remove it"):
        Noise.open(path, existing=False)
    with pytest.raises(PrivacyError, match=r"0 bytes.*restore it from a copy"):
        Noise.open(path, existing=True)
    path.write_bytes(os.urandom(32))
    path.chmod(0o644)
    with pytest.raises(PrivacyError, match="chmod 600"):
        Noise.open(path, existing=True)


def test_of_two_processes_that_begin_at_once_one_makes_the_key_and_it_is_whole_when_it_is_there(tmp_path, monkeypatch):
    """The second one found a half-written key, and advised to remove it: the first one would have gone on with it."""
    path = tmp_path / "noise.key"
    seen = []

    def urandom(count):
        seen.append(path.exists())
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):  # the other process waits
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        return bytes(range(count))

    def fsync(file):
        seen.append(path.exists())

    monkeypatch.setattr(os, "urandom", urandom)
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", fsync)
        first = Noise.open(path, existing=False)
    assert seen == [False, False, True], "made, on disk, and only then under its name"
    exists = type(path).exists
    looked = iter([False])  # before the other process has made it
    monkeypatch.setattr(type(path), "exists", lambda path: next(looked, None) is not False and exists(path))
    monkeypatch.setattr(os, "urandom", bytes)  # another key
    second = Noise.open(path, existing=False)
    np.testing.assert_array_equal(second.words(b"n", 3), first.words(b"n", 3))


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_has_32_bytes(size):
    with pytest.raises(ValueError, match=f"32 bytes, not {size}"):
        Noise(bytes(size))


def test_a_key_that_a_full_disk_does_not_take_leaves_no_file_behind(tmp_path, monkeypatch):
    """An empty one was left, and the run could neither be resumed nor started."""
    path = tmp_path / "noise.key"

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(PrivacyError, match=r"nothing is released\. the disk is full: free space on it"):
            Noise.open(path, existing=False)
    assert not list(tmp_path.iterdir())
    Noise.open(path, existing=False)


def test_words_are_those_of_shake_256_and_a_longer_stream_begins_like_a_shorter_one():
    import hashlib

    noise = Noise(bytes(range(32)))
    words = noise.words(b"nonce", 5)
    assert words.dtype == np.uint64
    assert words[0] == int.from_bytes(hashlib.shake_256(bytes(range(32)) + b"wordsnonce").digest(8), "little")
    np.testing.assert_array_equal(noise.words(b"nonce", 3), words[:3])
    assert not np.array_equal(noise.words(b"nonc3", 5), words)


def test_bits_are_balanced():
    """Each of 64 bits over 100 000 words: |mean − ½| < 5.5 standard deviations, ½/√n; false alarm < 64 · 4e-8."""
    words = Noise(bytes(32)).words(b"", 100_000)
    bits = np.unpackbits(words.view(np.uint8)).reshape(100_000, 64)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5.5 * 0.5 / np.sqrt(100_000)


def test_a_nonce_stands_for_everything_that_goes_into_it():
    noise = Noise(bytes(32))
    ids, features = np.arange(3), np.random.default_rng(0).standard_normal((3, 2), np.float32)
    nonces = [
        noise.nonce("features", "train", 0, ids=ids, content=features),
        noise.nonce("features", "train", 1, ids=ids, content=features),
        noise.nonce("features", "val", 0, ids=ids, content=features),
        noise.nonce("features", "train", 0, ids=ids[::-1], content=features),
        noise.nonce("features", "train", 0, ids=ids, content=features.reshape(2, 3)),
        noise.nonce("features", "train", 0, ids=ids, content=np.nextafter(features, features + 1)),
        noise.nonce("features", "train", 0, ids=ids, content=features.view(np.int32)),
        noise.nonce("features", "train", 0, ids=ids),
        noise.nonce("features", "train", 0, content=features),
        noise.nonce("featurestrain", 0, ids=ids, content=features),
        Noise(b"k" * 32).nonce("features", "train", 0, ids=ids, content=features),
    ]
    assert len(set(nonces)) == len(nonces)
    assert noise.nonce("features", "train", 0, ids=ids.copy(), content=features.copy()) == nonces[0]
