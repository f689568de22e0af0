"""What the two sides show: read from files that others cannot read, and checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from smartedge.errors import LinkError
from smartedge.wire.credentials import Credentials


@pytest.mark.parametrize("token", ["", "two\nlines", "schlüssel"])
def test_a_token_is_printable_ascii(token: str) -> None:
    with pytest.raises(LinkError, match="printable ASCII"):
        Credentials(token=token)


@pytest.mark.parametrize("given", [{"certificate": b"x"}, {"key": b"x"}])
def test_certificate_and_key_belong_together(given: dict[str, bytes]) -> None:
    with pytest.raises(LinkError, match="needs its private key"):
        Credentials(**given)  # type: ignore[arg-type]


def test_each_file_goes_to_its_place(tmp_path: Path) -> None:
    for name in ("ca", "certificate", "key"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "key").chmod(0o600)
    made = Credentials.from_files(
        ca=tmp_path / "ca", certificate=tmp_path / "certificate", key=tmp_path / "key", token="t"
    )
    assert made == Credentials(b"ca", b"certificate", b"key", "t")
    assert made.tls and not Credentials(token="t").tls and Credentials(encrypted=True).tls


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match=r"missing\.pem: cannot be read"):
        Credentials.from_files(ca=tmp_path / "missing.pem")


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(b"key")
    key.chmod(mode)
    with pytest.raises(LinkError, match="chmod 600"):
        Credentials.from_files(certificate=key, key=key)


def test_secrets_are_not_printed() -> None:
    shown = repr(Credentials(certificate=b"public", key=b"private part", token="the-token"))
    assert "public" in shown and "private part" not in shown and "the-token" not in shown
