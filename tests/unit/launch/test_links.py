"""Which end of a link settings and bundle make, with what; and which of them do not go together."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from unittest.mock import create_autospec

import pytest

from smartedge.artifacts.fleet import Bundle
from smartedge.artifacts.run import EdgeRun
from smartedge.config import load_config
from smartedge.errors import ConfigError, LinkError
from smartedge.launch.links import (
    broker_link,
    check_receiver,
    link_to,
    named_credentials,
    one_way_link,
    one_way_receiver,
    sender_to,
)
from smartedge.wire import grpc_link, handshake
from smartedge.wire.credentials import Credentials
from smartedge.wire.jetstream import sender as over_a_broker
from smartedge.wire.jetstream.messages import Address
from smartedge.wire.link import UNNAMED_EDGE
from smartedge.wire.simplex import sender as one_way
from smartedge.wire.simplex.seal import Opener

BUNDLE = Bundle.model_construct(edge="door", cloud="udp://cloud:9", simplex_key="ab" * 32, certificate=None, key=None)
NATS = "nats://127.0.0.1:9/stream"


def unheard(text: str) -> None:
    """What is said of a cloud that is not there."""


def test_credentials_are_the_files_that_the_settings_name(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_ca", "tls_cert", "tls_key", "token_file")}
    for name, file in files.items():
        file.write_text(f"of {name}")
        file.chmod(0o600)
    found = named_credentials(load_config({"link": {name: str(file) for name, file in files.items()}}))
    assert (found.ca, found.certificate, found.key) == (b"of tls_ca", b"of tls_cert", b"of tls_key")
    assert found.token == "of token_file"
    assert named_credentials(load_config({})) == Credentials()


def test_a_link_without_a_way_back_has_the_key_and_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_autospec(one_way.SimplexLink)
    monkeypatch.setattr(one_way, "SimplexLink", made)
    link = {"simplex_rate": 5e5, "simplex_loss": 0.125}
    config = load_config({"schedule": "freeze-and-log", "run_dir": str(tmp_path / "run"), "link": link})
    assert sender_to(config, None, BUNDLE, unheard) is made.return_value
    ((location, sealer), options) = made.call_args
    assert location == "cloud:9" and options == {"rate_bits_s": 5e5, "loss": 0.125}
    opened = Opener({"door": bytes.fromhex(BUNDLE.simplex_key)}).open(sealer.seal(b"a frame"))
    assert opened == ("door", b"a frame")
    folder = tmp_path / "run" / "edge"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [file.name for file in folder.iterdir()] == ["simplex-9a2db2e2.counter"], "each key has its own counter"


def test_a_link_over_a_broker_has_the_credentials_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_autospec(over_a_broker.JetStreamLink)
    monkeypatch.setattr(over_a_broker, "JetStreamLink", made)
    config = load_config({"link": {"connect_timeout": 7.0, "insecure": True}})
    assert sender_to(config, NATS, None, unheard) is made.return_value
    made.assert_called_once_with(Address.parse(NATS), UNNAMED_EDGE, Credentials(), timeout_s=7.0, insecure=True)


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize(
    ("method", "goes_on"), [("hierarchical", "goes on, and its frames wait here"), ("split", "waits for it")]
)
def test_a_link_to_a_cloud_asks_it_or_says_that_it_is_not_there(
    answers: bool, method: str, goes_on: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = create_autospec(grpc_link.GrpcLink)
    monkeypatch.setattr(grpc_link, "GrpcLink", made)
    monkeypatch.setattr(handshake, "greet", lambda location, credentials: None if answers else "nobody there")
    run = {"method": method, "run_dir": str(tmp_path)}
    config = load_config({**run, "link": {"connect_timeout": 7.0, "insecure": True}})
    bundle = BUNDLE.model_copy(update={"cloud": "cloud:7", "token": "secret", "authority": None, "server_name": None})
    told: list[str] = []
    assert sender_to(config, None, bundle, told.append) is made.return_value
    ((location, credentials), options) = made.call_args
    assert (location, credentials.token) == ("cloud:7", "secret")
    assert options == {"connect_timeout_s": 7.0, "patient": False, "insecure": True}
    asked = made.return_value.check_admitted
    if answers:
        asked.assert_called_once_with(json.dumps(config.agreement(), sort_keys=True), "")
        assert told == []
    else:
        asked.assert_not_called()
        cannot = "the cloud at cloud:7 cannot be reached yet (nobody there); is it started, and is this its address?"
        assert told == [f"{cannot} The edge {goes_on}"]
    sender_to(config, "other:8", bundle, told.append)
    assert made.call_args.args[0] == "other:8", "what is named on the command line counts"
    asked.reset_mock()
    (tmp_path / "edge").mkdir()
    EdgeRun(run="mine", data="").write(tmp_path / "edge" / "run.json")
    sender_to(config, None, bundle, told.append)
    assert [call.args[1] for call in asked.call_args_list] == ["mine"] * answers, "an edge that goes on names its run"
    asked.reset_mock()
    link_to(config, "other:8", None, told.append)
    assert made.call_args.args == ("other:8", Credentials()) and made.call_args.kwargs["patient"] is True
    asked.assert_not_called()


SPLIT = load_config({"method": "split"})


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: one_way_link(load_config({}), "udp://c:9", None), "udp://c:9: .* needs --bundle FILE"),
        (lambda: one_way_link(SPLIT, "udp://c:9", BUNDLE), "udp://c:9: method 'split' needs a link with a way back"),
        (lambda: broker_link(SPLIT, NATS, None), f"{NATS}: method 'split' needs an answer .* 'smartedge cloud' itself"),
        (lambda: broker_link(load_config({}), NATS, BUNDLE), f"{NATS}: .* add the edge without --token"),
        (lambda: one_way_receiver(None, "c", 9, fleet=None), "--listen-udp: only with --fleet DIR"),  # type: ignore
    ],
    ids=["no key", "answers, one way", "answers, broker", "token, broker", "no fleet"],
)
def test_what_does_not_go_together_is_refused_with_a_remedy(make: object, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{says}"):
        make()  # type: ignore[operator]


def test_what_a_receiver_needs_is_looked_for_before_there_is_one() -> None:
    with pytest.raises(LinkError, match="TLS"):
        check_receiver(load_config({}), "0.0.0.0", 0)
    in_clear = load_config({"link": {"insecure": True}})
    check_receiver(in_clear, "0.0.0.0", 0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(LinkError, match=str(port)):
            check_receiver(in_clear, "127.0.0.1", port)
