from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from smartedge.wire.x509 import serial_of


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xFFFF, 2**64 + 5, 2**158 + 3])
def test_the_serial_number_is_the_one_that_openssl_wrote(certificates: Path, tmp_path: Path, serial: int) -> None:
    out = tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-key", str(certificates / "ca.key"), "-subj", "/CN=x", "-out", str(out)]
    subprocess.run([*command, "-set_serial", str(serial)], check=True, capture_output=True)
    assert serial_of(out.read_bytes()) == serial
