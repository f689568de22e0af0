"""Typical mistakes: each message says what to do, and comes before torch is imported and a side is started.

A message may take three seconds on an idle machine (benchmarks/mistakes.py times it). Here torch cannot be imported,
and the CPU time is held against the three seconds: other work on the machine hardly changes it.
"""

from __future__ import annotations

import os
import resource
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from link_ends import Handler

from smartedge.fleet.authority import Authority
from smartedge.fleet.credentials import cloud_credentials
from smartedge.fleet.register import Register
from smartedge.wire.grpc_receiver import GrpcReceiver

SECONDS = 3.0
WITHOUT_TORCH = (
    "import sys; sys.modules['torch'] = None; from smartedge.cli.app import main; sys.exit(main(sys.argv[1:]))"
)
PRESENT = "data: {path: drawn, desired: smile}\n"

MISTAKES = {
    "no such settings file": ("train rnu.yaml", "no such file; 'smartedge init rnu.yaml' writes one"),
    "a misspelt verb": ("trian run.yaml", "did you mean 'smartedge train'?"),
    "a misspelt key": ("train run.yaml --set epcohs=2", "did you mean 'epochs'?"),
    "a key of another program": ("train run.yaml --set train.learning_rate=0.1", "did you mean 'train.lr'?"),
    "no space after a colon": ("train run.yaml --set data.limit={train:256}", "write a space after the colon"),
    "an unknown codec": ("train run.yaml --set codec.name=unit8", "did you mean 'uint8'?"),
    "a codec of images for features": (
        "train run.yaml --set codec.name=jpeg-90",
        "'jpeg-90' encodes images",
    ),
    "a path that is not there": ("train run.yaml --set data.path=photographs", "there is no data set at photographs"),
    "an unknown column": ("train run.yaml --set data.desired=smiling", "did you mean 'smile'?"),
    "an unknown column to hide": ("train run.yaml --set data.sensitive=male", "drawn has no column 'male'"),
    "an unknown network": ("train run.yaml --set model.name=resnet81", "did you mean resnet18"),
    "an unknown network at the cloud": (
        "cloud run.yaml --listen 127.0.0.1:0 --set model.name=resnet81",
        "no network is called resnet81",
    ),
    "weights that are not there": ("train run.yaml --set model.weights=w.safetensors", "w.safetensors is not there"),
    "a budget without noise": ("train run.yaml --set dp.epsilon=4", "choose a mechanism"),
    "adversaries without a column": ("train run.yaml --set adversary.exits=mlp", "name it here"),
    "a folder without a run": ("report run", "holds no run; train one with 'smartedge train'"),
    "an edge without an address": ("edge run.yaml", "--bundle FILE or --connect HOST:PORT is needed"),
    "an address that is none": ("edge run.yaml --connect -", "must be HOST:PORT"),
    "a cloud that is not there": (
        "edge run.yaml --connect 127.0.0.1:{free}",
        "is it started, and is this its address?",
    ),
    "an edge in clear to a cloud with TLS": (
        "edge run.yaml --connect 127.0.0.1:{tls}",
        "the cloud uses TLS, and this side does not; give --bundle",
    ),
    "a bundle for a cloud in clear": (
        "edge run.yaml --bundle fleet/bundles/door.bundle --connect 127.0.0.1:{clear}",
        "the other side does not use TLS; is it a cloud that was started with --fleet",
    ),
    "a bundle of another fleet": (
        "edge run.yaml --bundle other/bundles/door.bundle --connect 127.0.0.1:{tls}",
        "the cloud's certificate is not accepted",
    ),
    "an edge that was revoked": (
        "edge run.yaml --bundle fleet/gate.bundle --connect 127.0.0.1:{tls}",
        "the certificate of edge 'gate' was revoked",
    ),
    "another program in place of the cloud": ("edge run.yaml --connect 127.0.0.1:{taken}", "is not a smartedge cloud"),
    "a port that is taken": ("cloud run.yaml --listen 127.0.0.1:{taken}", "is the port taken"),
    "a cloud open to everybody": ("cloud run.yaml --listen 0.0.0.0:{free}", "beyond this machine, without TLS"),
    "a fleet that is not there": ("cloud run.yaml --fleet factroy", "factroy"),
    "a port that is no number": ("cloud run.yaml --listen 0.0.0.0:http", "write it as HOST:PORT"),
}


class Talks(socketserver.BaseRequestHandler):
    """Another program: it answers anything with a sentence."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail.example ESMTP\r\n")


@pytest.fixture(scope="module")
def fleets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a fleet, of whose edges one was revoked, and another one."""
    folder = tmp_path_factory.mktemp("fleets")
    for name in ("fleet", "other"):
        Authority.create(folder / name, days=1).add(["door", "gate"], cloud="127.0.0.1:1", days=1)
    shutil.copy(folder / "fleet" / "bundles" / "gate.bundle", folder / "fleet")
    Authority(folder / "fleet").revoke("gate")
    return folder


@pytest.fixture(scope="module")
def ports(fleets: Path) -> Iterator[dict[str, int]]:
    """One where another program listens, one that is kept free, and two clouds: of the fleet, and in clear."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Talks) as taken, socket.socket() as free:
        threading.Thread(target=taken.serve_forever, daemon=True).start()
        free.bind(("127.0.0.1", 0))
        shown, register = cloud_credentials(fleets / "fleet"), Register(fleets / "fleet")
        clouds = [GrpcReceiver(Handler(), "127.0.0.1", credentials=shown, guard=register)]
        clouds.append(GrpcReceiver(Handler(), "127.0.0.1"))
        for cloud in clouds:
            cloud.start()
        tls, clear = (cloud.port for cloud in clouds)
        yield {"taken": taken.server_address[1], "free": free.getsockname()[1], "tls": tls, "clear": clear}
        for cloud in clouds:
            cloud.close()
        taken.shutdown()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_at_once(mistake: str, tmp_path: Path, ports: dict[str, int], fleets: Path) -> None:
    command, says = MISTAKES[mistake]
    words = [word.format(**ports) if ":{" in word and word.endswith("}") else word for word in command.split()]
    for name in ("fleet", "other"):
        (tmp_path / name).symlink_to(fleets / name)
    (tmp_path / "run.yaml").write_text(PRESENT)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "200"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode != 0 and says in " ".join(done.stderr.split()), done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "runs" / "run" / "edge").exists()
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent < SECONDS, f"{spent:.1f} s"
