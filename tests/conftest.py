"""What every test gets: one thread, the same examples every time, and real data where there are some."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import shutil
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import unsynced  # noqa: F401 - os.fsync returns at once
from nats_broker import Broker

from smartedge.data import open_dataset

ROOT = Path(__file__).resolve().parent.parent

# Also for the processes that tests start, of which several run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no limit on the time of one: a loaded machine is not a failure.
hypothesis.settings.register_profile("smartedge", derandomize=True, deadline=None)
hypothesis.settings.load_profile("smartedge")
# For `make mutants`, where it matters that a test fails and not on which example.
quick = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
hypothesis.settings.register_profile("no-shrinking", derandomize=True, deadline=None, phases=quick)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported to collect the tests stays until the end: Python does not look for garbage in it.

    It would do so while the half million objects are made, and at times while tests run.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Small tensors are faster on one thread, and a run's numbers do not depend on the machine's cores."""
    torch.set_num_threads(1)
    torch.manual_seed(0)  # also of a GPU that a later test begins to use


@contextlib.contextmanager
def seeded() -> Iterator[None]:
    """Global generators start from one seed here, and go on afterwards as if nothing had been drawn."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)  # torch.manual_seed would write the stack down, for a GPU not used yet
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """Networks that a test builds have the same weights whichever tests ran before it."""
    with seeded():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> Generator[None, object, object]:
    """Fixtures that tests share are made before the fixture above, so they are seeded on their own."""
    if fixturedef.scope == "function":
        return (yield)
    with seeded():
        return (yield)


@pytest.fixture(scope="session")
def drawn_faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``data.cache_dir`` that holds all drawn faces of 16 pixels.

    A run that finds none draws all 5500 of them for each new choice of images, which takes more than a second.
    """
    folder = tmp_path_factory.getbasetemp() / "drawn faces"
    open_dataset("drawn", "smile", image_size=16, cache_dir=folder)
    return folder


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real data sets (lfw-attributes/, cifar10/); skips the test where there is none.

    ``SMARTEDGE_DATA`` names it; else it is ``shared/data`` beside the repository, or beside one of its parents.
    """
    named = os.environ.get("SMARTEDGE_DATA")
    places = [Path(named)] if named else [parent / "shared" / "data" for parent in ROOT.parents]
    for place in places:
        if place.is_dir():
            return place
    pytest.skip("needs the real data sets: set SMARTEDGE_DATA to a folder with lfw-attributes/ and cifar10/")


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, and a certificate of it for 127.0.0.1: ca.pem, cert.pem, key.pem; and other.pem of another CA."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl program to make certificates")
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        openssl(folder, "req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    openssl(folder, "req", "-new", *key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=smartedge")
    (folder / "extensions").write_text("subjectAltName=IP:127.0.0.1")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "extensions")
    openssl(folder, "x509", "-req", "-in", "request.pem", "-out", "cert.pem", *signing)
    return folder


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker that the tests of a module share; each takes a stream of its own."""
    made = Broker(tmp_path_factory.mktemp("broker"))
    yield made
    made.kill()


@pytest.fixture
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker for one test, which may kill it."""
    made = Broker(tmp_path_factory.mktemp("broker"))
    yield made
    made.kill()
