"""An edge that runs a published front without torch: what it installs, how much memory and time it takes.

    python benchmarks/front_edge.py export               # four networks: is ONNX equal to torch?
    python benchmarks/front_edge.py device --work DIR    # a fresh virtual environment with smartedge[front]
    python benchmarks/front_edge.py memory --work DIR    # what takes its memory; after 'device'
    python benchmarks/front_edge.py int8                 # would whole numbers make the four networks smaller, faster?

``export`` publishes fronts with the weights that they were built with. ``device`` trains a small run (ResNet-18 at
layer1, 64×64, bottleneck 8×4×4, Gaussian noise), publishes its front, and lets two edges answer the same 64 images, one
by one, through 'smartedge serve': one in the fresh environment without torch, one here with torch. Every image is
released and sent. Memory is the largest resident set of the edge's process. The environment in DIR is used again.

``int8`` quantises the fronts with bottleneck by ONNX Runtime (static, MinMax, per channel, calibrated with 30 drawn
faces) and compares 30 others: processor time of one image on one thread, and the difference of the features, as root
mean squares relative to the features.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import HERE, keep_json, provenance, show_table
from PIL import Image

from smartedge.artifacts.run import SharedRun
from smartedge.artifacts.task import TaskFacts
from smartedge.config import Config, load_config
from smartedge.data import open_dataset
from smartedge.fleet.signing import SIGNING_KEY, make_signing_key
from smartedge.fronts.runtime import session
from smartedge.inference import TrainedRun, export_front
from smartedge.models.network import divide
from smartedge.runs.checkpoint import save_weights
from smartedge.runs.progress import Quiet
from smartedge.training import train

RESULTS = HERE / "results" / "front_edge.json"
FRONTS = (
    ("resnet18", "layer1", 64, [8, 4, 4]),
    ("mobilevit_xxs", "stages.2", 64, [8, 4, 4]),
    ("tf_efficientnet_lite0", "blocks.2", 64, [8, 4, 4]),
    ("vit_small_patch16_224", "blocks.4", 224, [16, 32]),
)
OTHER_TOOLS = re.compile(r"pip|setuptools|pkg_resources|_distutils_hack|distutils-precedence")  # what venv installs
EDGE = """
import json, re, sys, time
from smartedge.cli.app import main
code = main(["infer", *sys.argv[1:], "--source", "images", "--once", "--json", "--threshold", "1.01"])
status = open("/proc/self/status").read()
memory = {key: int(re.search(key + r":\\s+(\\d+)", status)[1]) * 1024 for key in ("VmHWM", "VmRSS")}
loaded = [name for name in ("torch", "pyarrow", "scipy") if name in sys.modules]
print(json.dumps({"code": code, "cpu_seconds": time.process_time(), "loaded": loaded, **memory}), file=sys.stderr)
"""
PARTS = """
import json, re
from pathlib import Path

sizes, last = {}, 0.0

def took(part):
    global last
    now = int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
    sizes[part], last = round(now - last, 1), now

took("Python")
import numpy; took("numpy")
import pydantic, smartedge.config; took("pydantic and the settings")
import onnxruntime; took("ONNX Runtime")
import grpc; took("gRPC")
from cryptography.hazmat.primitives.asymmetric import ed25519; took("cryptography")
import smartedge.training, smartedge.wire.grpc_link, smartedge.edge.protection, smartedge.cli.infer
from smartedge.fronts.bundle import open_front
from smartedge.fronts.runtime import OnnxFront
from smartedge.inference.answering import Answerer
published = open_front(Path("front"), trust=None); took("the rest of smartedge, and Pillow")
front = OnnxFront(published); took("front and exit, ready to run")
front.features(numpy.zeros((1, 3, 64, 64), numpy.uint8)); took("one image")
print(json.dumps(sizes))
"""


def settings(folder: Path, **changes: object) -> Config:
    base = {
        "schedule": "freeze-and-log",
        "epochs": 1,
        "run_dir": str(folder),
        "data": {"limit": {"train": 128, "val": 64, "test": 64}, "cache_dir": str(folder.parent / "cache")},
        "model": {"name": "resnet18", "cut": "layer1", "bottleneck": [8, 4, 4]},
        "dp": {"mechanism": "gaussian", "sigma": 0.5},
        "hardware": {"threads": 1, "edge_device": "cpu", "cloud_device": "cpu"},
    }
    return load_config(load_config(base), changes)


def export() -> list[dict[str, object]]:
    """Publish a front of each network, and say how far ONNX Runtime is from torch."""
    rows: list[dict[str, object]] = []
    for name, cut, size, bottleneck in FRONTS:
        for narrow in (None, bottleneck):
            with tempfile.TemporaryDirectory() as work:
                folder = Path(work) / "run"
                model = {"name": name, "cut": cut, "bottleneck": narrow}
                noise = {"clip": 10.0} if narrow is None else {}
                config = settings(folder, model=model, data={"image_size": size}, dp=noise)
                manifest = export_front(built(config), Path(work) / "front", name="front", threshold=0.9)
                rows.append(
                    {
                        "front": name,
                        "cut": cut,
                        "features": "x".join(map(str, manifest.feature_shape)),
                        "difference": f"{manifest.difference:.1e}",
                        "megabytes": round((Path(work) / "front" / "front.onnx").stat().st_size / 1e6, 2),
                    }
                )
    return rows


def int8() -> list[dict[str, object]]:
    """Quantise the front of each network, and compare size, time and features."""
    rows: list[dict[str, object]] = []
    for name, cut, size, bottleneck in FRONTS:
        faces = open_dataset("drawn", "smile", image_size=size, limit={"train": 60, "val": 1, "test": 1}, cache_bytes=0)
        images_BCHW = faces.splits["train"].read(np.arange(60)).images_BCHW.numpy()
        with tempfile.TemporaryDirectory() as work:
            folder = Path(work) / "run"
            model = {"name": name, "cut": cut, "bottleneck": bottleneck}
            config = settings(folder, model=model, data={"image_size": size})
            export_front(built(config), Path(work) / "front", name="front", threshold=0.9)
            front, small = Path(work) / "front" / "front.onnx", Path(work) / "int8.onnx"
            quantise(front, Path(work) / "prepared.onnx", small, images_BCHW[:30])
            sizes = [file.stat().st_size for file in (front, small)]
            (seconds, features_BF), (seconds_int8, found_BF) = (
                timed(file, images_BCHW[30:]) for file in (front, small)
            )
        rows.append(
            {
                "front": name,
                "cut": cut,
                "megabytes": round(sizes[0] / 1e6, 2),
                "int8": round(sizes[1] / 1e6, 2),
                "ms": round(1e3 * seconds, 2),
                "ms, int8": round(1e3 * seconds_int8, 2),
                "difference": round(rms(found_BF - features_BF) / rms(features_BF), 3),
            }
        )
    return rows


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def quantise(front: Path, prepared: Path, to: Path, images_BCHW: np.ndarray) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    given = iter([{"images": image_CHW[None]} for image_CHW in images_BCHW])
    reader = type("Reader", (quantization.CalibrationDataReader,), {"get_next": lambda _: next(given, None)})()
    with contextlib.redirect_stdout(io.StringIO()):
        quant_pre_process(str(front), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared), str(to), reader, per_channel=True, activation_type=quantization.QuantType.QUInt8
        )


def timed(front: Path, images_BCHW: np.ndarray) -> tuple[float, np.ndarray]:
    """Processor seconds of one image, least of five rounds; and all features."""
    network = session(front.read_bytes(), str(front), threads=1)
    rounds = []
    for _ in range(5):
        began = time.process_time()
        features = [network.run(None, {"images": image_CHW[None]})[0] for image_CHW in images_BCHW]
        rounds.append((time.process_time() - began) / len(images_BCHW))
    return min(rounds), np.concatenate(features)


def built(config: Config) -> TrainedRun:
    """A run directory with the weights that the network was built with."""
    task = TaskFacts(kind="single", columns=("smile",), names=("no", "yes"))
    parts = divide(config.division(len(task.names)))
    edge, shared = config.run_dir / "edge", config.run_dir / "shared"
    for folder in (edge, shared):
        folder.mkdir(parents=True)
    save_weights(edge / "front.safetensors", parts.front.state_dict())
    save_weights(edge / "exit.safetensors", parts.task_exit.state_dict())
    SharedRun(settings=config.agreement(), task=task, feature_shape=parts.feature_shape).write(shared / "run.json")
    return TrainedRun.open(config.run_dir)


def device(work: Path) -> dict[str, object]:
    """Install, publish, answer; the figures of both edges."""
    work.mkdir(parents=True, exist_ok=True)
    python = fresh_environment(work)
    run, front, images, factory = (work / name for name in ("run", "front", "images", "factory"))
    if not front.exists():
        train(settings(run), single_process=True, monitor=Quiet())
        factory.mkdir(mode=0o700)
        make_signing_key(factory)
        export_front(TrainedRun.open(run), front, name="faces", threshold=0.9, key=factory / SIGNING_KEY)
        images.mkdir()
        random = np.random.default_rng(0)
        for number in range(64):
            Image.fromarray(random.integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(images / f"{number:02}.png")
    server = subprocess.Popen(
        [sys.executable, "-m", "smartedge", "serve", str(run), "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[2].rstrip(";")
        trusted = ["front", "--trust", "factory/front.pub", "--connect", address]
        return {
            "installed_megabytes": installed(python),
            "without torch": answering(python, work, trusted),
            "without torch and docstrings": without_docstrings(python, work, trusted),
            "with torch": answering(Path(sys.executable), work, ["run", "--connect", address]),
        }
    finally:
        server.terminate()
        server.wait(timeout=60)


def fresh_environment(work: Path) -> Path:
    """A virtual environment with nothing but ``smartedge[front]``; returns its interpreter."""
    python = work / "venv" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    project = HERE.parent
    subprocess.run([*install, "-c", str(project / "constraints.txt"), f"{project}[front]"], check=True)
    return python


def installed(python: Path, compiled: str = f".{sys.implementation.cache_tag}.pyc") -> dict[str, float]:
    """Megabytes of site-packages, without what every virtual environment has; in all, and the largest packages.

    Of compiled files only those of this ending count.
    """
    folder = next((python.parent.parent / "lib").glob("python*/site-packages"))
    sizes = {
        entry.name: sum(
            file.stat().st_size
            for file in entry.rglob("*")
            if file.is_file() and (file.suffix != ".pyc" or file.name.endswith(compiled))
        )
        if entry.is_dir()
        else 0
        for entry in folder.iterdir()
        if not OTHER_TOOLS.match(entry.name)
    }
    largest = sorted(sizes.items(), key=lambda each: -each[1])[:8]
    return {"in all": round(sum(sizes.values()) / 1e6, 1), **{name: round(size / 1e6, 1) for name, size in largest}}


def without_docstrings(python: Path, work: Path, arguments: list[str]) -> dict[str, object]:
    """The edge with PYTHONOPTIMIZE=2: the first start compiles what it imports, the second is measured.

    With ``pip install --no-compile`` nothing else is compiled; so large is the environment then.
    """
    answering(python, work, arguments, PYTHONOPTIMIZE="2")
    said = answering(python, work, arguments, PYTHONOPTIMIZE="2")
    return {**said, "installed_megabytes": installed(python, compiled=".opt-2.pyc")["in all"]}


def answering(python: Path, work: Path, arguments: list[str], **more: str) -> dict[str, object]:
    """Let an edge answer every image; what its process says of itself."""
    left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
    environment = {key: value for key, value in os.environ.items() if key not in left_out} | more
    if python == Path(sys.executable):
        environment["PYTHONPATH"] = str(HERE.parent / "src")
    environment |= {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(python), "-c", EDGE, *arguments], cwd=work, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    said = json.loads(done.stderr.splitlines()[-1])
    assert {answer["by"] for answer in answers} == {"back"}, done.stderr
    return {
        "images": len(answers),
        "cpu_seconds": round(said["cpu_seconds"], 2),
        "peak_mib": round(said["VmHWM"] / 2**20, 1),
        "resident_mib": round(said["VmRSS"] / 2**20, 1),
        "loaded": said["loaded"],
    }


def memory(work: Path) -> dict[str, float]:
    """MiB that each part of the edge without torch adds, in the fresh environment."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    call = [str(work / "venv" / "bin" / "python"), "-c", PARTS]
    done = subprocess.run(
        call, cwd=work, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    parts: dict[str, float] = json.loads(done.stdout)
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["export", "device", "memory", "int8"])
    parser.add_argument("--work", type=Path, default=Path("runs/front-edge"), help="folder of 'device' and 'memory'")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "export":
        found: dict[str, object] = {"rows": (rows := export())}
        show_table("Difference between ONNX Runtime and torch", rows, RESULTS.with_suffix(".csv"))
    elif args.what == "int8":
        found = {"rows": int8()}
    elif args.what == "device":
        found = device(args.work.resolve())
    else:
        found = {"mib": memory(args.work.resolve())}
    print(json.dumps(found, indent=1))
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    keep_json(RESULTS, {**known, args.what: {**provenance(), **found}})  # each part is measured at its own time


if __name__ == "__main__":
    main()
