"""What a TLS context is made of, and what the other side may be in place of a cloud with TLS."""

from __future__ import annotations

import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from ports import held_port

from smartedge.errors import LinkError
from smartedge.wire.credentials import Credentials
from smartedge.wire.handshake import check_handshake, tls_context


@pytest.fixture
def mine(certificates: Path) -> Credentials:
    pem = {name: (certificates / f"{name}.pem").read_bytes() for name in ("ca", "cert", "key")}
    return Credentials(ca=pem["ca"], certificate=pem["cert"], key=pem["key"])


def test_certificate_and_key_are_given_to_tls_in_a_file_of_ours_alone(
    mine: Credentials, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Path, int, bytes]] = []
    load = ssl.SSLContext.load_cert_chain

    def noted(context: ssl.SSLContext, file: Path) -> None:
        seen.append((file, stat.S_IMODE(file.stat().st_mode), file.read_bytes()))
        load(context, file)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", noted)
    context = tls_context(mine)
    ((file, mode, content),) = seen
    assert mode == 0o600 and content == (mine.certificate or b"") + b"\n" + (mine.key or b"")
    assert not file.exists(), "nor is it left behind"
    assert context.verify_mode == ssl.CERT_REQUIRED and len(context.get_ca_certs()) == 1


@pytest.mark.parametrize(
    "wrong", [{"ca": b"nonsense"}, {"ca": "é".encode()}, {"certificate": b"nonsense"}, {"key": b"nonsense"}]
)
def test_what_is_no_pem_is_told(mine: Credentials, wrong: dict[str, bytes]) -> None:
    given = {"ca": mine.ca, "certificate": mine.certificate, "key": mine.key, **wrong}
    with pytest.raises(LinkError, match="no valid PEM, or they do not belong together"):
        tls_context(Credentials(**given))


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_who_does_not_use_tls_is_told_and_who_says_nothing_may_come_back(mine: Credentials, answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        where = f"127.0.0.1:{listening.getsockname()[1]}"

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        if answer:
            with pytest.raises(LinkError, match="the other side does not use TLS"):
                check_handshake(where, mine)
        else:
            check_handshake(where, mine)
        serving.join(timeout=30)
    with held_port() as port:
        check_handshake(f"127.0.0.1:{port}", mine)  # nobody is there
    check_handshake("nowhere", Credentials())  # no TLS is asked for
