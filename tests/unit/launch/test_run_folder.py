"""Which folder a run writes to, where its settings name none."""

from __future__ import annotations

import errno
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from untrained_run import edge_summary

from smartedge import files
from smartedge.artifacts.run import RunFacts, Speed
from smartedge.artifacts.task import TaskFacts
from smartedge.config import AUTO, Config, load_config
from smartedge.errors import ConfigError, RunError
from smartedge.framelog import log
from smartedge.launch.run_folder import check_place, has_begun, in_folder, name_of, note_facts, prepare_run

LATEST = Path("runs/latest")


@pytest.fixture(autouse=True)
def at_an_empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config() -> Config:
    return load_config({})


def begin(config: Config, *sides: str) -> None:
    """What sides leave in their folder as soon as there is work to lose."""
    for side in sides:
        sign = config.run_dir / {"edge": "edge/run.json", "cloud": "cloud/store/edge/streams"}[side]
        sign.parent.mkdir(parents=True)
        sign.touch()
    (config.run_dir / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")


def folder(config: Config, name: str = "faces", *sides: str, resume: bool = False) -> str:
    return in_folder(config, name, sides or ("edge", "cloud"), resume=resume).run_dir.as_posix()


def test_settings_that_name_a_folder_keep_it() -> None:
    named = load_config({"run_dir": "somewhere"})
    assert in_folder(named, "faces") is named
    assert not LATEST.is_symlink()


def test_every_run_gets_a_folder_of_its_own(config: Config) -> None:
    assert config.run_dir == AUTO
    found = []
    for _ in range(3):
        chosen = in_folder(config, "faces")
        begin(chosen, "edge", "cloud")
        found.append(chosen.run_dir.as_posix())
        assert LATEST.resolve() == chosen.run_dir.resolve()
    assert found == ["runs/faces", "runs/faces-2", "runs/faces-3"]
    assert folder(config, "others") == "runs/others"


def test_a_start_that_failed_at_the_settings_takes_no_folder(config: Config) -> None:
    chosen = in_folder(config, "faces")
    chosen.run_dir.mkdir(parents=True)
    (chosen.run_dir / "config.yaml").write_text(chosen.to_yaml(), encoding="utf-8")
    assert not has_begun(chosen.run_dir)
    assert folder(config) == "runs/faces"


def test_two_sides_of_one_machine_meet(config: Config) -> None:
    for number in ("", "-2"):
        cloud = in_folder(config, "faces", ["cloud"])
        begin(cloud, "cloud")
        assert folder(config, "faces", "edge") == cloud.run_dir.as_posix() == f"runs/faces{number}"
        begin(cloud, "edge")


def test_a_side_does_not_join_a_run_of_other_settings(config: Config) -> None:
    begin(in_folder(load_config({"seed": 5}), "faces", ["cloud"]), "cloud")
    assert folder(config, "faces", "edge") == "runs/faces-2"


def test_the_last_run_is_resumed(config: Config) -> None:
    for _ in range(2):
        begin(in_folder(config, "faces"), "edge", "cloud")
    begin(in_folder(config, "faces", ["cloud"]), "cloud")
    assert folder(config, resume=True) == folder(config, "faces", "cloud", resume=True) == "runs/faces-3"
    assert folder(config, "faces", "edge", resume=True) == "runs/faces-2"
    assert LATEST.resolve() == Path("runs/faces-2").resolve()


def test_a_file_of_somebody_else_is_not_overwritten(config: Config, tmp_path: Path) -> None:
    config = config.model_copy(update={"run_dir": tmp_path})
    (tmp_path / "config.yaml").write_text("theme: dark\n")
    with pytest.raises(RunError, match=r"config.yaml: is there, and is no settings file of a run"):
        prepare_run(config, resume=False)
    assert (tmp_path / "config.yaml").read_text() == "theme: dark\n"
    (tmp_path / "config.yaml").write_text("epochs: 3\n")  # of a start that failed
    prepare_run(config, resume=False)


@pytest.mark.parametrize("start", ["train", "edge", "cloud"])
def test_a_run_is_not_written_among_files_of_somebody_else(start: str, config: Config, tmp_path: Path) -> None:
    def begins(run_dir: Path) -> None:
        at = config.model_copy(update={"run_dir": run_dir})
        prepare_run(at, resume=False) if start == "train" else note_facts(at, edge=start == "edge")

    home = tmp_path / "home"
    home.mkdir()
    (home / ".profile").write_text("umask 022\n")
    (home / "data").mkdir()
    with pytest.raises(RunError, match=r"home: holds other files \(\.profile\) and no run; choose a new or empty"):
        begins(home)
    assert sorted(entry.name for entry in home.iterdir()) == [".profile", "data"]
    with pytest.raises(RunError, match="/: holds other files"):
        begins(Path("/"))
    with pytest.raises(RunError, match="profile: is a file"):
        begins(home / ".profile")
    empty, linked = tmp_path / "empty", tmp_path / "linked"
    empty.mkdir()
    linked.symlink_to(empty)
    (empty / ".run.json.0123abcd.tmp").touch()  # the other side begins at this moment, or was killed then
    (empty / "cloud").mkdir()
    begins(empty)
    (empty / "notes.txt").write_text("seen on Monday\n")  # beside a run that is there
    begins(linked)
    check_place(tmp_path / "new")


def test_the_audit_of_a_run_that_was_removed_is_not_taken_for_that_of_a_new_one(config: Config, tmp_path: Path) -> None:
    """Its certificate would be published with the new front."""
    config = config.model_copy(update={"run_dir": tmp_path / "run"})
    prepare_run(config, resume=False)
    (tmp_path / "run" / "audit").mkdir()
    with pytest.raises(RunError, match="is the audit of a run that is not there any more"):
        prepare_run(config, resume=False)
    with pytest.raises(RunError, match="is the audit of a run that is not there any more"):
        note_facts(config.model_copy(update={"epochs": config.epochs + 1}), edge=True)
    (tmp_path / "run" / "audit").rmdir()
    prepare_run(config, resume=False)


def test_a_data_set_is_not_kept_among_files_of_somebody_else(tmp_path: Path) -> None:
    import smartedge

    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunError, match="holds other files"):
        smartedge.train({"run_dir": str(tmp_path)}, data=[])
    assert not (tmp_path / "data").exists()


def test_nothing_can_be_resumed_where_nothing_began(config: Config) -> None:
    in_folder(config, "faces").run_dir.mkdir(parents=True)
    with pytest.raises(RunError, match="runs/faces: there is no run to resume"):
        in_folder(config, "faces", resume=True)


def test_a_folder_of_that_name_is_left_alone(config: Config) -> None:
    LATEST.mkdir(parents=True)
    assert folder(config) == "runs/faces"
    assert LATEST.is_dir() and not LATEST.is_symlink()
    assert list(Path("runs").iterdir()) == [LATEST]


@pytest.mark.parametrize(
    ("source", "name"), [("a/private.yaml", "private"), (Path("x.yml"), "x"), ({}, "run"), (load_config({}), "run")]
)
def test_settings_have_the_name_of_their_file(source: object, name: str) -> None:
    assert name_of(source) == name


def test_the_other_side_may_be_trying_the_disk_at_that_moment(tmp_path, monkeypatch):
    """Both sides of one machine begin at once. One looks whether the folder is a stranger's while the other writes."""
    looked = []

    def look(_: int) -> None:
        assert [*tmp_path.iterdir()], "the file with which the disk is tried is there"
        looked.append(check_place(tmp_path))

    monkeypatch.setattr(files, "sync_file", look)
    log.check_disk(tmp_path / "edge")
    assert looked and not [*tmp_path.iterdir()]


def test_what_a_run_was_started_with_is_kept_and_read_again(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cloud that is to be resumed waits for an edge that has not finished."""
    monkeypatch.setattr(sys, "argv", ["/bin/smartedge", "train", "my run.yaml"])
    chosen = in_folder(config, "faces")
    speed = Speed(precision="float32", channels_last=True, seconds={"plain": 1.0}, threads=2)
    facts = prepare_run(chosen, resume=False, speed=speed)
    assert (facts.command, facts.speed) == ("smartedge train 'my run.yaml'", speed)
    assert datetime.fromisoformat(facts.started).utcoffset() == timedelta(0)
    assert facts.machine["cores"] and facts.versions["python"]
    assert RunFacts.read(chosen.run_dir / "run.json") == facts
    assert load_config(chosen.run_dir / "config.yaml") == chosen
    begin(chosen, "edge", "cloud")
    closed = chosen.run_dir / "cloud" / "closed"
    closed.mkdir()
    with pytest.raises(RunError, match=r"holds a run already; continue it with --resume, or choose another run_dir"):
        prepare_run(chosen, resume=False)
    assert closed.exists()
    finished = edge_summary(TaskFacts(kind="single", columns=("a",), names=("n", "y")), (2,))
    finished.write(chosen.run_dir / "edge" / "summary.json")
    assert prepare_run(chosen, resume=True) == facts and closed.exists()
    (chosen.run_dir / "edge" / "summary.json").unlink()
    assert prepare_run(chosen, resume=True) == facts and not closed.exists()
    with pytest.raises(RunError, match=r"the run began with other settings \(seed was 0, now 9\)"):
        prepare_run(load_config(chosen, {"seed": 9}), resume=True)


def test_where_links_cannot_be_made_a_run_begins_all_the_same(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    assert folder(config) == "runs/faces"


def test_one_training_has_one_edge(config: Config) -> None:
    several = load_config(config, {"fleet": {"expect": 2}, "run_dir": "run"})
    with pytest.raises(ConfigError, match=r"fleet\.expect: 'smartedge train' runs one edge; start 'smartedge cloud'"):
        prepare_run(several, resume=False)
    assert not Path("run").exists()


def test_a_place_that_cannot_be_written_is_told_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, config: Config
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "sync_file", full)
    new = config.model_copy(update={"run_dir": Path("runs/new")})
    with pytest.raises(OSError, match="No space left"):
        check_place(new.run_dir)
    assert list(Path().iterdir()) == []
    begin(new, "edge")
    check_place(new.run_dir)  # what a run that has begun needs, its sides look at
