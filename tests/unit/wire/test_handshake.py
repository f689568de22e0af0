"""What a TLS context is made of, and what the other side may be in place of a cloud with TLS."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import selectors
import socket
import ssl
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
from link_ends import Handler
from ports import held_port

from smartedge.errors import LinkError
from smartedge.wire.credentials import Credentials
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.handshake import _first_words, greet, tls_context


@pytest.fixture
def mine(certificates: Path) -> Credentials:
    pem = {name: (certificates / f"{name}.pem").read_bytes() for name in ("ca", "cert", "key")}
    return Credentials(ca=pem["ca"], certificate=pem["cert"], key=pem["key"])


@pytest.mark.parametrize("in_memory", [True, False])
def test_certificate_and_key_are_given_to_tls_in_a_file_of_ours_alone(
    mine: Credentials, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    """Where it is in memory, an edge needs no temporary folder, which other programs may fill during an outage."""
    if in_memory:
        monkeypatch.setattr(tempfile, "TemporaryDirectory", None)
    else:  # as on macOS
        monkeypatch.delattr(os, "memfd_create", raising=False)
    seen: list[tuple[Path, int, bytes]] = []
    load = ssl.SSLContext.load_cert_chain

    def noted(context: ssl.SSLContext, file: Path) -> None:
        seen.append((file, stat.S_IMODE(file.stat().st_mode), file.read_bytes()))
        load(context, file)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", noted)
    context = tls_context(mine)
    ((file, mode, content),) = seen
    assert (in_memory or mode == 0o600) and content == (mine.certificate or b"") + b"\n" + (mine.key or b"")
    assert not file.exists(), "nor is it left behind"
    assert context.verify_mode == ssl.CERT_REQUIRED and len(context.get_ca_certs()) == 1


def test_a_full_disk_where_the_pair_would_be_is_an_outage(mine: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", Mock(side_effect=OSError(errno.ENOSPC, "No space left")), raising=False)
    with pytest.raises(LinkError, match="cannot be given to TLS: the disk is full"):
        tls_context(mine)


@pytest.mark.parametrize(
    "wrong", [{"ca": b"nonsense"}, {"ca": "é".encode()}, {"certificate": b"nonsense"}, {"key": b"nonsense"}]
)
def test_what_is_no_pem_is_told(mine: Credentials, wrong: dict[str, bytes]) -> None:
    given = {"ca": mine.ca, "certificate": mine.certificate, "key": mine.key, **wrong}
    with pytest.raises(LinkError, match="no valid PEM, or they do not belong together"):
        tls_context(Credentials(**given))


GREETING = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # of whoever speaks HTTP/2


@pytest.fixture
def receivers(mine: Credentials, certificates: Path) -> Iterator[Callable[..., str]]:
    """``receivers(credentials, host)``: a receiver of ours; gives its address."""
    made: list[GrpcReceiver] = []

    def listen(credentials: Credentials, host: str = "127.0.0.1") -> str:
        made.append(GrpcReceiver(Handler(), host, credentials=credentials))
        made[-1].start()
        return f"[{host}]:{made[-1].port}" if ":" in host else f"{host}:{made[-1].port}"

    yield listen
    for each in made:
        each.close()


@contextmanager
def answering(*answers: Callable[[socket.socket], None]) -> Iterator[str]:
    """A listener that treats its first connections as told, one after the other; gives its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                with suppress(OSError):
                    connection, _ = listening.accept()
                    with connection, suppress(OSError):
                        answer(connection)

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        serving.join(timeout=30)
        assert not serving.is_alive()


def says(words: bytes) -> Callable[[socket.socket], None]:
    """Reads, says that, and closes."""

    def answer(connection: socket.socket) -> None:
        connection.recv(2000)
        connection.sendall(words)

    return answer


def passes(target: str, size: int) -> Callable[[socket.socket], None]:
    """Passes everything on, and closes after so many bytes from the target: a proxy that cuts."""

    def answer(near: socket.socket) -> None:
        host, _, port = target.rpartition(":")
        left = size
        with socket.create_connection((host, int(port))) as far, selectors.DefaultSelector() as ready:
            ready.register(near, selectors.EVENT_READ, far)
            ready.register(far, selectors.EVENT_READ, near)
            while left:
                for key, _ in ready.select(timeout=30):
                    data = key.fileobj.recv(left if key.fileobj is far else 2000)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)
                    left -= len(data) * (key.fileobj is far)

    return answer


@pytest.mark.parametrize("host", ["127.0.0.1", *["::1"] * socket.has_ipv6])
def test_a_receiver_whose_link_fits_is_there(host: str, receivers: Callable[..., str], mine: Credentials) -> None:
    assert greet(receivers(Credentials(), host), Credentials()) is None
    assert greet(receivers(mine, host), dataclasses.replace(mine, server_name="127.0.0.1")) is None


@pytest.mark.parametrize("host", ["127.0.0.1", *["::1"] * socket.has_ipv6])
def test_what_does_not_fit_is_an_error(
    host: str, receivers: Callable[..., str], mine: Credentials, certificates: Path
) -> None:
    clear, tls = receivers(Credentials(), host), receivers(mine, host)
    named = dataclasses.replace(mine, server_name="127.0.0.1")
    other = (certificates / "other.pem").read_bytes()
    for where, shown, told in (
        (tls, Credentials(), "the cloud uses TLS, and this side does not"),
        (clear, mine, "the other side does not use TLS"),
        (tls, dataclasses.replace(named, ca=other), "certificate is not accepted .*fleet"),
        (tls, dataclasses.replace(mine, server_name="cloud.example"), "certificate is not accepted .*cloud.example"),
        (tls, dataclasses.replace(named, certificate=None, key=None), "the cloud asks for a certificate"),
    ):
        with pytest.raises(LinkError, match=f"{re.escape(where)}: .*{told}"):
            greet(where, shown)


@pytest.mark.parametrize("words", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_another_program_is_told_apart(words: bytes, mine: Credentials) -> None:
    with answering(says(words), says(words)) as where, pytest.raises(LinkError, match="is not a smartedge cloud"):
        greet(where, Credentials())
    with answering(says(words), says(words)) as where, pytest.raises(LinkError, match="does not use TLS"):
        greet(where, mine)


@pytest.mark.parametrize(("pieces", "words"), [([b"four", b"fives", b"more"], b"fourfives"), ([b"four", b""], b"four")])
def test_first_words_may_come_in_pieces(pieces: list[bytes], words: bytes) -> None:
    sizes: list[int] = []

    def hear(size: int) -> bytes:
        sizes.append(size)
        return pieces.pop(0)[:size]

    assert _first_words(lambda: None, hear) == words and sizes == [9, 5]


def test_tls_that_says_no_in_its_own_words_is_told_apart() -> None:
    """As servers of TLS answer to words in clear: with an alert of seven bytes."""
    alert = bytes([21, 3, 3, 0, 2, 2, 40])
    with answering(says(alert), says(alert)) as where, pytest.raises(LinkError, match="the cloud uses TLS"):
        greet(where, Credentials())


def test_tls_without_http2_is_told(mine: Credentials, certificates: Path) -> None:
    """A proxy whose HTTP/2 is off. gRPC takes no such connection."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")

    def answer(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            secured.recv(100)

    with answering(answer) as where, pytest.raises(LinkError, match="uses TLS without HTTP/2"):
        greet(where, mine)


def test_a_link_that_breaks_meanwhile_is_no_error(receivers: Callable[..., str], mine: Credentials) -> None:
    """A proxy that cuts the connection within the handshake: the cloud may be reached later."""
    closed = ("the connection was closed while it was made", "Connection reset by peer")
    named = dataclasses.replace(mine, server_name="127.0.0.1")
    for shown in (Credentials(), named):
        target = receivers(shown)
        for size in (0, 1, 5, 60, 200):
            if shown.tls or size < len(GREETING):
                with answering(passes(target, size), says(b"")) as where:
                    assert greet(where, shown) in closed, size
    target = receivers(named)
    for size in range(0, 2400, 150):  # a handshake with the certificates of both sides takes less
        with answering(passes(target, size), passes(target, 10**6)) as where:
            assert greet(where, named) in (None, *closed), f"cut after {size} bytes"


@pytest.mark.parametrize("words", ["timed out", "_ssl.c:989: The handshake operation timed out"])
def test_silence_is_told_in_our_own_words(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    def give_up(*_: object) -> None:
        raise TimeoutError(words)

    monkeypatch.setattr("smartedge.wire.handshake._greet_in_clear", give_up)
    assert greet("127.0.0.1:1", Credentials(), 7.0) == "no answer within 7 s"


def test_each_address_of_a_name_has_its_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one may be dead, as one of IPv6 often is."""
    four = [(socket.AF_INET, kind, 6, "", (f"192.0.2.{last}", 8815)) for last in range(4) for kind in (1, 2)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **how: four)
    tried = Mock(side_effect=TimeoutError)
    monkeypatch.setattr(socket, "create_connection", tried)
    assert greet("cloud.example:8815", Credentials()) == "no answer within 2 s"
    tried.assert_called_once_with(("cloud.example", 8815), timeout=0.5)


def test_nobody_there_is_no_error(mine: Credentials, monkeypatch: pytest.MonkeyPatch) -> None:
    with held_port() as port:
        for shown in (Credentials(), mine):
            assert greet(f"127.0.0.1:{port}", shown) == "Connection refused"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as a cloud that was stopped: the kernel connects
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        for shown in (Credentials(), mine):
            assert greet(where, shown, 0.2) == "no answer within 0.2 s"
    asked = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: asked.wait(timeout=60) and [])  # a network that is down
    assert greet("cloud.example:1", Credentials(), 0.05) == "no answer within 0.05 s"
    asked.set()


def test_a_name_that_no_host_has_is_no_error() -> None:
    for name in (f"{'x' * 64}.example", "cloud.invalid"):  # the first one fails before anybody is asked
        assert "no answer" not in (greet(f"{name}:1", Credentials()) or "no answer")


def test_grpc_prints_nothing_of_its_own(certificates: Path) -> None:
    """Whichever module is imported first: it printed a line for each handshake that failed."""
    program = """
import socket, sys
from pathlib import Path
from unittest.mock import Mock
from smartedge.wire.grpc_receiver import GrpcReceiver
from smartedge.wire.credentials import Credentials
ca, certificate, key = (Path(sys.argv[1], f"{name}.pem").read_bytes() for name in ("ca", "cert", "key"))
receiver = GrpcReceiver(None, "127.0.0.1", credentials=Credentials(ca=ca, certificate=certificate, key=key))
receiver.start()
with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
    connection.sendall(bytes(100))
    connection.recv(1)
receiver.close()
"""
    environment = {name: value for name, value in os.environ.items() if name != "GRPC_VERBOSITY"}
    done = subprocess.run(
        [sys.executable, "-c", program, str(certificates)], capture_output=True, text=True, env=environment
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
