"""What is wrong with paths is told before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smartedge.artifacts.run import EdgeRun, SharedRun
from smartedge.artifacts.summary import CloudSummary, Session
from smartedge.artifacts.task import TaskFacts
from smartedge.config import load_config

CASES = (
    (("audit", "nowhere"), "nowhere: holds no run"),
    (("audit", "RUN", "--undefended", "nowhere"), "nowhere: holds no run"),
    (("audit", "RUN"), "the edge has not finished this run"),
    (("cuts", "run.yaml"), "run.yaml is a settings file; give the network that it names"),
    (("edge", "RUN/config.yaml", "--connect", "127.0.0.1:1"), "edge: holds a run already"),
    (("cloud", "RUN/config.yaml"), "cloud: holds a run already"),
    (("profile", "RUN/config.yaml", "--out", "RUN"), "a folder is where a file should be"),
    (("profile", "RUN/config.yaml", "--out", "RUN/config.yaml/device.json"), "a file is where a folder should be"),
    (
        ("train", "RUN/config.yaml", "--set", "run_dir=RUN/config.yaml/new"),
        "is a file; a run needs a folder",
    ),
    (("audit", "--features", "nowhere.npz"), "nowhere.npz: there is no such file"),
    (("audit", "--features", "RUN/config.yaml", "--attacks", "guess"), "--attacks: guess is not known"),
    (("audit", "--features", "RUN/config.yaml", "--attacks", "fine-tuned"), "fine-tuned: needs a run of smartedge"),
    (("audit", "--features", "RUN/config.yaml", "--noise", "gaussian:sigma=1"), "give the clip"),
    (("certify", "RUN"), "the run names no sensitive column"),
    (("certify", "RUN", "--confidence", "95"), "--confidence: must be from 0.5 to 0.9999"),
    (("certify", "RUN", "--splits", "train"), "--splits: some of test, val, audit"),
    (("export", "nowhere", "--to", "new"), "nowhere: holds no run"),
    (("export", "RUN", "--to", "RUN"), "is there already"),
    (("export", "RUN", "--to", "new", "--fleet", "nowhere"), "--fleet nowhere: is no fleet"),
    (("export", "RUN", "--to", "RUN/config.yaml/new"), "a file is where a folder should be"),
    (("export", "RUN", "--to", "n" * 300), "too long"),
    (("export", "RUN", "--to", "LINK"), "LINK: is there already"),
    (("export", "RUN", "--to", "new"), "there is no trained front here; use the folder of the edge's machine"),
    (("serve", "nowhere"), "nowhere: holds no run"),
    (("serve", "RUN", "--listen", "0.0.0.0:8816"), "refusing to listen on 0.0.0.0, beyond this machine, without TLS"),
    (("serve", "RUN", "--fleet", "nowhere"), "nowhere"),
    (("infer", "nowhere", "a.png"), "nowhere: is not there; give a run directory"),
    (("infer", "RUN", "a.png", "b.png"), "none of the images can be read"),
    (("infer", "RUN", "a.png", "RUN/config.yaml"), "image cannot be decoded"),
    (("infer", "RUN", "a.png", "--lose", "-1"), "--lose -1.0: give percentage points"),
    (("collect", "RUN", "--connect", "127.0.0.1:1"), "cloud: is there already"),
    (("collect", "HALF", "--connect", "127.0.0.1:1"), "cannot be reached"),
)
CODE = """
import contextlib, io, json, sys
from smartedge.cli.app import main

for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(io.StringIO()) as told:
        code = main(words)
    print(json.dumps([code, told.getvalue(), "torch" in sys.modules]))
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """What a verb reads of a run before it needs its weights."""
    folder = tmp_path / "run"
    folder.mkdir()
    config = load_config({"run_dir": str(folder), "link": {"connect_timeout": 0.1}})
    (folder / "config.yaml").write_text(config.to_yaml())
    (folder / "shared").mkdir()
    task = TaskFacts(kind="single", columns=("smile",), names=("no", "yes"))
    SharedRun(settings=config.identity(), task=task, feature_shape=(8,)).write(folder / "shared" / "run.json")
    session = Session(started=0.0, ended=1.0, epochs=1)
    cloud = CloudSummary(
        finished=True, session=session, busy_seconds=1.0, test=None, frames=1, weights=None, peak_rss_bytes=None
    )
    (folder / "cloud").mkdir()
    cloud.write(folder / "cloud" / "summary.json")
    return folder


def test_wrong_paths_are_told_without_torch(run_dir: Path, tmp_path: Path) -> None:
    (run_dir / "edge").mkdir()
    for begun in ("edge/run.json", "edge/progress.json", "cloud/progress.json"):
        (run_dir / begun).write_text("{}")
    (run_dir / "cloud" / "log").mkdir()
    (tmp_path / "LINK").symlink_to("nowhere")
    half = tmp_path / "half"  # the edge's alone
    (half / "edge").mkdir(parents=True)
    shutil.copy(run_dir / "config.yaml", half)
    EdgeRun(run="0" * 32, data="0" * 64).write(half / "edge" / "run.json")
    asked = [[word.replace("RUN", str(run_dir)).replace("HALF", str(half)) for word in words] for words, _ in CASES]
    call = [sys.executable, "-c", CODE, json.dumps(asked)]
    done = subprocess.run(call, capture_output=True, text=True, cwd=tmp_path, check=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    for (words, told), (code, errors, torch_there) in zip(CASES, found, strict=True):
        assert code >= 2 and told in errors, (words, errors)
        assert not torch_there, words
    for side in ("edge", "cloud"):  # what a run that goes on has noted is not written over
        assert (run_dir / side / "progress.json").read_text() == "{}"
