"""What a run tells its user before it begins, and with which settings it may go on."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smartedge import files, training
from smartedge.config import Config, Section, differences, load_config
from smartedge.errors import CutError, LogError, RunError
from smartedge.framelog import log
from smartedge.images.size import ImageSize
from smartedge.launch.ingest import run_ingest
from smartedge.launch.run_folder import note_facts, prepare_run
from smartedge.runs.progress import Quiet, Update
from smartedge.training import _warn_of_early_releases, release_images, run_cloud, run_edge, train

SUPPRESSED = {"data": {"sensitive": "masculine"}, "adversary": {"exits": ["mlp"]}}


class Told:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def update(self, update: Update) -> None:
        self.texts.append(update.text)

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (SUPPRESSED, True),
        ({**SUPPRESSED, "schedule": "two-stage"}, False),
        ({**SUPPRESSED, "schedule": "freeze-and-log"}, False),
        ({"data": {"sensitive": "masculine"}}, False),
    ],
)
def test_who_sends_before_the_front_has_unlearned_is_told(settings: dict[str, object], warned: bool) -> None:
    told = Told()
    _warn_of_early_releases(load_config(settings), told)
    assert bool(told.texts) is warned
    if warned:
        assert "before the front has unlearned masculine" in told.texts[0]


# -- a run that has begun goes on only as the run that it is

BEGUN = {
    "schedule": "freeze-and-log",
    "data": {"sensitive": "masculine"},
    "adversary": {"exits": ["mlp"]},
    "model": {"bottleneck": "4x4x4"},
    "dp": {"mechanism": "gaussian", "sigma": 0.4},
}
# No result depends on these. Of the fronts the files' content counts, which has a test of its own.
FREE = ("run_dir", "hardware", "link", "spool", "store", "data.cache_dir", "data.cache_bytes", "model.front")
FREE += (
    "codec.bytes",  # it and the next one count as part of codec.name
    "codec.reference",
    "cloud.workers",
    "fleet.expect",
    "fleet.deadline",
    "fleet.patience",
    "fleet.farewell",
    "model.start",
)


def begun(folder: Path, settings: dict[str, object] = BEGUN) -> Config:
    """The settings of a run in this folder that was interrupted."""
    config = load_config(settings, {"run_dir": str(folder)})
    prepare_run(config, resume=False)
    (folder / "edge").mkdir()
    (folder / "edge" / "run.json").write_text("{}")
    return config


def leaves(section: Section, prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        found |= leaves(value, f"{prefix}{name}.") if isinstance(value, Section) else {prefix + name: value}
    return found


OTHER = {
    "method": "local",
    "schedule": "joint",
    "data.path": "elsewhere",
    "data.desired": "smile2",
    "data.sensitive": ("glasses",),
    "data.limit": {"train": 7},
    "data.shard": "1/2",
    "data.image_size": ImageSize(64, 32),
    "data.mean": (0.5,),
    "data.std": (0.5,),
    "data.augment": "none",
    "model.bottleneck": (2, 2, 2),
    "model.codebook": 4,
    "model.args": {"drop_rate": 0.1},
    "model.weights": "timm",
    "train.freeze": ("front",),
    "train.optimizer": "sgd",
    "train.precision": "bfloat16",
    "adversary.exits": (),
    "adversary.confusion": "prior",
    "dp.mechanism": "laplace",
    "dp.granularity": "element",
    "dp.apply_to": "training",
    "codec.name": "uint4",
    "fleet.cuts": ("layer1", "layer2"),
}


def put(section: Section, path: list[str], value: object) -> Section:
    """With one value replaced; without the check of combinations, which forbids some of the values alone."""
    name, *rest = path
    return section.model_copy(update={name: put(getattr(section, name), rest, value) if rest else value})


def changed(key: str, value: object) -> object:
    """Another value of the same type, that the setting may have."""
    if key in OTHER:
        return OTHER[key]
    if isinstance(value, bool):
        return not value
    if isinstance(value, float):
        return value * 0.5 + 0.01
    return 1 if value is None else value + 1 if isinstance(value, int) else f"{value}2"


def test_another_front_makes_another_run(tmp_path: Path) -> None:
    front, config = tmp_path / "front.safetensors", load_config(BEGUN)
    given = put(config, ["model", "front"], front)
    assert isinstance(given, Config)
    found = [config.identity()]
    for content in (b"one", b"other"):
        front.write_bytes(content)
        found.append(given.identity())
    assert all(a != b for a, b in ((found[0], found[1]), (found[1], found[2])))
    front.rename(tmp_path / "moved")
    moved = put(config, ["model", "front"], tmp_path / "moved")
    assert isinstance(moved, Config) and moved.identity() == found[2]


ALL = leaves(load_config(BEGUN))


@pytest.mark.parametrize("key", [key for key in ALL if not key.startswith(FREE)])
def test_every_setting_that_a_result_depends_on_makes_another_run(key: str) -> None:
    config = load_config(BEGUN)
    other = put(config, key.split("."), changed(key, ALL[key]))
    assert isinstance(other, Config)
    named = {"model.weights": "weights"}.get(key, key)  # what counts of a file is its content
    assert any(different.startswith(named) for different in differences(config.identity(), other.identity()))


AGREED = ("method", "schedule", "epochs", "seed", "model", "train", "dp", "codec")
AGREED += tuple(f"data.{key}" for key in ("desired", "image_size", "fit", "augment", "mean", "std"))
OF_THE_CLOUD = (*(f"fleet.{key}" for key in ("mix", "max_influence", "cuts", "logit_adjustment")), "cloud.shards")


@pytest.mark.parametrize(("facts", "names"), [("agreement", AGREED), ("cloud_identity", (*AGREED, *OF_THE_CLOUD))])
def test_edge_and_cloud_tell_each_other_what_both_compute_with_and_nothing_else(
    facts: str, names: tuple[str, ...]
) -> None:
    config, files = load_config(BEGUN), ("model.front", "model.start")
    told = set()
    for key in ALL.keys() - set(files):
        other = put(config, key.split("."), changed(key, ALL[key]))
        if getattr(other, facts)() != getattr(config, facts)():
            told.add(key)
    assert told == {key for key in ALL if key.startswith(names)} - set(files)


@pytest.mark.parametrize(
    "free",
    [{"run_dir": "b"}, {"hardware": {"threads": 1}}, {"link": {"queue_frames": 2}}, {"data": {"cache_dir": "c"}}],
)
def test_where_and_on_what_a_run_is_computed_does_not_make_another(free: dict[str, object]) -> None:
    assert load_config(BEGUN, free).identity() == load_config(BEGUN).identity()
    assert load_config({"codec": {"name": "uint8"}}).identity() == load_config({}).identity()


@pytest.mark.parametrize(
    "codec", [{"name": "learned", "bytes": 100}, {"name": "uint4", "reference": "previous"}, {"name": "uint4"}]
)
def test_bytes_and_reference_of_a_codec_make_another_run(codec: dict[str, object]) -> None:
    changes: dict[str, object] = {"schedule": "freeze-and-log", "model": {"bottleneck": "8x4x4"}}
    one = load_config(changes, {"codec": {"name": "learned", "bytes": 200}})
    assert set(differences(one.identity(), load_config(changes, {"codec": codec}).identity())) == {"codec.name"}


UNPROTECTED = {"adversary": {"exits": []}, "data": {"sensitive": []}}
KEYS = r'adversary\.exits was \["mlp"\], now \[\]; data\.sensitive was \["masculine"\], now \[\]'


def test_resumed_without_protection_is_refused_key_by_key(tmp_path: Path) -> None:
    config = begun(tmp_path / "run")
    with pytest.raises(RunError, match=KEYS):
        train(config, UNPROTECTED, resume=True, single_process=True, monitor=Quiet())
    with pytest.raises(RunError, match=KEYS):
        run_edge(load_config(config, UNPROTECTED), "127.0.0.1:1", Quiet(), resume=True)
    assert load_config(config.run_dir / "config.yaml") == config


def test_a_cloud_alone_need_not_know_what_is_hidden(tmp_path: Path) -> None:
    config = begun(tmp_path / "run")
    note_facts(load_config(config, UNPROTECTED), edge=False)
    with pytest.raises(RunError, match=r"dp\.sigma was 0\.4, now 0\.3; train\.lr was 0\.001, now 0\.1"):
        run_cloud(load_config(config, ["train.lr=0.1", "dp.sigma=0.3"]), "127.0.0.1", 0, Quiet(), resume=True)
    for key in ("cloud.shards", "fleet.mix"):
        with pytest.raises(RunError, match=f"{key} was ., now 4"):
            run_cloud(load_config(config, [f"{key}=4"]), "127.0.0.1", 0, Quiet(), resume=True)
    assert load_config(config.run_dir / "config.yaml") == config


def test_a_run_whose_settings_are_gone_is_not_resumed(tmp_path: Path) -> None:
    config = begun(tmp_path / "run")
    (config.run_dir / "config.yaml").unlink()
    with pytest.raises(RunError, match="its settings are gone"):
        run_edge(config, "127.0.0.1:1", Quiet(), resume=True)


def test_a_first_start_that_failed_leaves_nothing_to_agree_with(tmp_path: Path) -> None:
    first = load_config({"run_dir": str(tmp_path / "run")})
    note_facts(first, edge=True)
    second = load_config(first, {"seed": 5})
    note_facts(second, edge=True)
    assert load_config(second.run_dir / "config.yaml") == second


@pytest.mark.parametrize("begin", ["edge", "cloud", "releasing edge", "ingest", "both in one process"])
def test_a_disk_that_is_full_or_cannot_be_written_is_told_before_any_work(
    begin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was told when the front had been trained, or the first frame came. The data set is not even looked for."""
    config = load_config({"run_dir": str(tmp_path / "run"), "data": {"path": "drawn"}})
    nobody: Any = None
    starts: dict[str, Callable[[], object]] = {
        "edge": lambda: run_edge(config, "127.0.0.1:9", Quiet()),
        "cloud": lambda: run_cloud(config, "127.0.0.1", 0, Quiet()),
        "releasing edge": lambda: release_images(nobody, config, tmp_path / "nowhere", "127.0.0.1:9", Quiet()),
        "ingest": lambda: run_ingest(config, "nats://127.0.0.1:9/stream", Quiet()),
        "both in one process": lambda: train(config, single_process=True, monitor=Quiet()),
    }
    place = str(tmp_path / "run" / ("edge" if "edge" in begin else "cloud"))

    def fails(*arguments: object) -> None:
        pytest.fail("work began")

    monkeypatch.setattr(training, "open_data", fails)
    monkeypatch.setattr(training, "sender_to", fails)
    with monkeypatch.context() as full:
        full.setattr(log, "_SPARE_BYTES", 2**80)
        with pytest.raises(LogError, match=f"{place}: .* bytes are free .*: free space on it"):
            starts[begin]()

    def read_only(file: int) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as broken:
        broken.setattr(files, "sync_file", read_only)
        with pytest.raises(LogError, match=f"{place}: .*: the disk can only be read"):
            starts[begin]()


def test_a_wrong_cut_is_told_before_anything_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "run_both", lambda *_, **__: pytest.fail("the sides were started"))
    with pytest.raises(CutError, match="no module or operation of that name"):
        train({"model": {"cut": "layer9"}, "run_dir": str(tmp_path / "run")}, monitor=Quiet())
    assert not (tmp_path / "run").exists()
