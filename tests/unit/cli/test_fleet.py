"""The verb ``fleet``, from the command line."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, tzinfo
from pathlib import Path

import pytest

from smartedge.cli import fleet
from smartedge.cli.app import main
from smartedge.config import load_config


def test_a_fleet_from_its_beginning_to_a_revocation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path / "factory")
    assert main(["fleet", "init", folder]) == 0
    assert main(["fleet", "list", folder]) == 0
    assert capsys.readouterr().out.splitlines()[-2] == "no edges yet"
    assert main(["fleet", "add", folder, "door", "gate", "--cloud", "cloud.example:8815", "--days", "10"]) == 0
    bundles = [tmp_path / "factory" / "bundles" / f"{name}.bundle" for name in ("door", "gate")]
    assert capsys.readouterr().out.splitlines() == [str(path) for path in bundles]
    assert json.loads(bundles[0].read_text())["cloud"] == "cloud.example:8815"
    assert main(["fleet", "add", folder, "lab", "--cloud", "proxy.example:443", "--token"]) == 0
    assert main(["fleet", "add", folder, "yard", "--cloud", "nats://broker.example:4222/frames"]) == 0
    assert json.loads((tmp_path / "factory" / "bundles" / "yard.bundle").read_text())["cloud"].startswith("nats://")
    assert main(["fleet", "revoke", folder, "gate"]) == 0
    before = (tmp_path / "factory" / "bundles" / "lab.bundle").read_bytes()
    assert main(["fleet", "renew", folder, "lab", "--cloud", "nats://broker.example:4222"]) == 2
    assert "edge 'lab' shows a token, and a broker knows edges by their certificates" in capsys.readouterr().err
    assert (tmp_path / "factory" / "bundles" / "lab.bundle").read_bytes() == before
    assert main(["fleet", "list", folder]) == 0
    door, gate, lab, _, cloud = capsys.readouterr().out.splitlines()
    assert cloud.startswith("the cloud's certificate is valid until 20")
    assert door.startswith("door  may send until 20") and door.endswith("(certificate)")
    assert gate == "gate  revoked" and lab.startswith("lab   may send until 20") and lab.endswith("(token)")
    before = (tmp_path / "factory" / "cloud.pem").read_bytes()
    assert main(["fleet", "renew", folder]) == 0
    assert (tmp_path / "factory" / "cloud.pem").read_bytes() != before
    assert main(["fleet", "list", folder]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == cloud  # as long as the first one
    assert main(["fleet", "renew", folder, "door", "--cloud", "other.example:1"]) == 0
    assert json.loads(bundles[0].read_text())["cloud"] == "other.example:1"


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["add", "{}", "door", "--cloud", "nowhere"], 2, "--cloud nowhere: write it as HOST:PORT"),
        (["add", "{}", "door", "--cloud", "https://c:443"], 2, "--cloud https://c:443: write it as HOST:PORT"),
        (["add", "{}", "door", "--cloud", "c:²"], 2, "--cloud c:²: write it as HOST:PORT"),
        (["add", "{}", "door", "--cloud", "c:0"], 2, "--cloud c:0: give the port at which the cloud will listen"),
        (["add", "{}", "door", "--cloud", "c:1", "--days", "²"], 2, "²: give 1 to 3650 days"),
        (
            ["add", "{}", "door", "--cloud", "nats://b/A B"],
            7,
            "must be nats://HOST:PORT, nats://HOST:PORT/STREAM or nats://HOST:PORT/STREAM/COUNT",
        ),
        (["add", "{}", "door", "--cloud", "nats://b", "--token"], 2, "a broker knows edges by their certificates"),
        (["add", "{}", "door", "--cloud", "c:1", "--days", "0"], 2, "give 1 to 3650 days"),
        (["add", "{}", "door", "--cloud", "c:1", "--proxy-ca", "x"], 2, "--proxy-ca: only with --token"),
        (["add", "{}", "Door", "--cloud", "c:1"], 11, "small letters"),
        (["revoke", "{}", "door"], 11, "there is no edge 'door'; its edges: none yet"),
        (["init", "{}"], 11, "is not empty"),
        (["list", "{}/nothing"], 11, "make a fleet with 'smartedge fleet init DIR'"),
        ([], 2, "ACTION"),
    ],
)
def test_a_mistake_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, told: str
) -> None:
    folder = tmp_path / "factory"
    assert main(["fleet", "init", str(folder)]) == 0
    assert main(["fleet", *(word.replace("{}", str(folder)) for word in arguments)]) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cloud", "run.yaml", "--behind-proxy"], "--behind-proxy: only with --fleet"),
        (["edge", "run.yaml", "--bundle", "missing.bundle"], "missing.bundle: is not there"),
        (["infer", "runs/x", "a.jpg", "--bundle", "missing.bundle"], "--bundle: only with --connect"),
    ],
)
def test_the_verbs_that_use_a_fleet_check_what_they_are_given(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/x").mkdir(parents=True)
    assert main(arguments) != 0
    assert told in capsys.readouterr().err


def test_a_run_of_several_edges_is_closed_and_one_of_one_edge_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for expect in (1, 3):
        run_dir = tmp_path / str(expect)
        (run_dir / "cloud").mkdir(parents=True)
        (run_dir / "config.yaml").write_text(load_config({"fleet": {"expect": expect}}).to_yaml())
    assert main(["close", str(tmp_path / "1")]) == 10
    assert "ends when the edge has sent everything" in capsys.readouterr().err
    assert main(["close", str(tmp_path / "3")]) == 0
    assert (tmp_path / "3" / "cloud" / "close").exists()
    assert main(["close", str(tmp_path)]) == 10
    (tmp_path / "3" / "cloud" / "close").unlink()
    (tmp_path / "3" / "cloud").rmdir()
    assert main(["close", str(tmp_path / "3")]) == 10
    assert "on the cloud's machine" in capsys.readouterr().err


def test_train_runs_one_edge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "run.yaml"
    settings.write_text(load_config({"fleet": {"expect": 3}, "run_dir": str(tmp_path / "run")}).to_yaml())
    assert main(["train", str(settings)]) == 2
    assert "start 'smartedge cloud', and 'smartedge edge' on each device" in capsys.readouterr().err


def test_the_list_says_what_has_expired(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = str(tmp_path / "factory")
    assert main(["fleet", "init", folder]) == 0
    assert main(["fleet", "add", folder, "door", "--cloud", "cloud.example:8815", "--days", "10"]) == 0
    assert main(["fleet", "add", folder, "gate", "--cloud", "cloud.example:8815", "--days", "30"]) == 0

    def listed(days: int) -> list[str]:
        class Later(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) + timedelta(days=days)

        with monkeypatch.context() as patched:
            patched.setattr(fleet, "datetime", Later)
            capsys.readouterr()
            main(["fleet", "list", folder])
            return capsys.readouterr().out.splitlines()

    assert [line.split()[:3] for line in listed(9)[:2]] == [["door", "may", "send"], ["gate", "may", "send"]]
    door, gate = listed(11)[:2]
    assert door.startswith("door  certificate expired on 20") and gate.startswith("gate  may send until 20")
    assert "the cloud's certificate has expired: 'smartedge fleet renew DIR'" in listed(5000)[-1]
