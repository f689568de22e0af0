"""Workers that read a copy of the store in an object store end with the weights of those that read the store."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from many_edges import edges_of, fleet_config, run_fleet
from safetensors.torch import load_file

from smartedge.artifacts.summary import has_finished
from smartedge.cli.app import main as smartedge
from smartedge.cloud.runner import CloudRunner
from smartedge.cloud.store.copied import CopiedStore
from smartedge.cloud.store.copying import copy_store
from smartedge.cloud.store.marks import mark_complete
from smartedge.cloud.store.remote import Remote
from smartedge.cloud.worker import Worker
from smartedge.cloud.workers.group import ALONE
from smartedge.cloud.workers.launcher import ENVIRONMENT, launch_command
from smartedge.errors import LogError
from smartedge.files import private_folder, write_atomically
from smartedge.runs.progress import Quiet
from smartedge.wire.frame import serialise
from smartedge.wire.memory import MemoryLink

pytestmark = pytest.mark.slow
HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an empty folder in a bucket of an S3 server."""
    server_of = pytest.importorskip("moto.server", reason="needs moto, flask and flask-cors")
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "none", "EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    host, port = server.get_host_and_port()
    query = f"endpoint_override={quote(f'{host}:{port}')}&scheme=http&region=us-east-1"
    from pyarrow.fs import FileSystem

    FileSystem.from_uri(f"s3://frames?{query}&allow_bucket_creation=true")[0].create_dir("frames")
    yield f"s3://frames/{tmp_path.name}?{query}"
    server.stop()


def assert_same_back(one: Path, other: Path) -> None:
    mine, theirs = (load_file(run / "cloud" / "back.safetensors") for run in (one, other))
    assert mine.keys() == theirs.keys() and all(mine[name].equal(theirs[name]) for name in mine)


def test_two_workers_train_on_a_copy_in_a_bucket(tmp_path: Path, bucket: str) -> None:
    config = fleet_config(fleet={"expect": 2}, schedule="freeze-and-log", cloud={"shards": 2}, hardware={"threads": 1})
    stored, far = tmp_path / "stored", tmp_path / "far"
    run_fleet(config, stored / "cloud", edges_of(config, 2))
    assert smartedge(["log", str(stored), "--to", bucket]) == 0
    assert smartedge(["log", bucket, "--verify"]) == 0
    private_folder(far / "cloud")
    write_atomically(far / "config.yaml", config.to_yaml())
    command = [*launch_command(far, 2), "--from", bucket]
    path = os.pathsep.join(filter(None, [str(HELPERS), os.environ.get("PYTHONPATH")]))  # the network is built there
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as torchrun:
        assert torchrun.wait(timeout=120) == 0  # their input stays open: they stop where it ends
    assert has_finished(far / "cloud") and not (far / "cloud" / "store").exists()
    assert_same_back(far, stored)


def test_a_worker_follows_a_copy_as_it_grows(tmp_path: Path, bucket: str) -> None:
    config = fleet_config(fleet={"expect": 1}, cloud={"shards": 2})
    (edge,) = edges_of(config, 1)
    run_fleet(config, tmp_path / "whole" / "cloud", [edge])
    cloud, far = tmp_path / "growing" / "cloud", tmp_path / "far"
    runner = CloudRunner(config, cloud, Quiet(), resume=False, inline=False)
    link = MemoryLink(runner.ingest, edge.name)
    headers = iter(edge.streams())

    def send_a_stream() -> None:
        header = next(headers)
        for seq in range(link.open(header), header.end_seq):
            link.write(serialise(edge.frame(seq, header.split), header))
        link.close()

    def send_the_rest() -> None:
        for _ in range(len(edge.streams()) - 1):
            send_a_stream()
        mark_complete(cloud, True)

    send_a_stream()
    copy_store(cloud, Remote(bucket))
    private_folder(far / "cloud")
    worker = Worker(config, far / "cloud", ALONE, Quiet(), copy=CopiedStore(Remote(bucket)))
    do, learned = worker.learning.do, []

    def counted(task: Any, stop: threading.Event) -> None:
        do(task, stop)
        learned.append(task.frame)
        if len(learned) == 2:
            send_the_rest()
            copy_store(cloud, Remote(bucket))

    worker.learning.do = counted  # type: ignore[method-assign]
    assert worker.run(threading.Event())
    worker.close()
    runner.close()
    assert len(learned) == 9
    assert_same_back(far, tmp_path / "whole")


def test_what_the_bucket_refuses_is_an_error_that_names_the_place(bucket: str) -> None:
    with pytest.raises(LogError, match=r"s3://frames/test_what.*/manifest\.json: is not there"):
        CopiedStore(Remote(bucket)).refresh()
    elsewhere = Remote(bucket.replace("s3://frames/", "s3://absent/"))
    with pytest.raises(LogError, match=r"s3://absent/.*/manifest\.json: cannot be written"):
        elsewhere.write("manifest.json", b"{}")
