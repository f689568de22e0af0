"""What `make mutants` says where a package cannot be measured. Stand-ins for mutmut say how it ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from script import load_script

LOG = "\r- Running stats\r/ Running stats\nfailed to collect stats\n"


@pytest.fixture
def mutants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with four mutants in a package, of which none was planted, and with files of its own."""
    script = load_script("mutants")
    monkeypatch.setattr(script, "ROOT", tmp_path)
    monkeypatch.setattr(script, "BUILD", tmp_path)
    monkeypatch.setattr(script, "RESULTS", tmp_path / "mutants.json")
    monkeypatch.setattr(script, "copy_to", lambda folder, _: folder.mkdir(exist_ok=True))
    monkeypatch.setattr(script, "mutants_of", lambda *_: ["a", "b", "c", "d"])
    monkeypatch.setattr(script, "results_of", lambda *_: {})
    return script


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["mutants", *arguments])
    return script.main()


def ends_early(folder: Path, *_: object) -> bool:
    (folder / "mutmut.log").write_text(LOG)
    (folder / "failed.txt").write_text("tests/unit/cloud/test_order.py::test_x\nassert 1 == 2\n")
    return False


def test_mutmut_that_ends_before_it_planted_is_an_error_that_shows_its_words(mutants, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mutants, "plant", ends_early)

    assert run(mutants, monkeypatch, "cloud") == 1

    shown = capsys.readouterr()
    assert "cloud: 4 of 4 mutants were not planted" in shown.err
    assert (
        "/ Running stats\nfailed to collect stats\ntests/unit/cloud/test_order.py::test_x\nassert 1 == 2\n" in shown.err
    )
    assert "- Running stats" not in shown.err
    assert "cloud     not measured" in shown.out


def test_mutmut_that_ends_in_the_middle_is_an_error_too(mutants, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mutants, "plant", ends_early)
    monkeypatch.setattr(mutants, "results_of", lambda *_: {"a": 1, "b": 1})

    assert run(mutants, monkeypatch, "cloud") == 1

    assert "cloud: 2 of 4 mutants were not planted" in capsys.readouterr().err


def test_time_that_was_over_before_the_first_mutant_is_an_error_that_says_so(mutants, monkeypatch, capsys) -> None:
    monkeypatch.setattr(mutants, "plant", lambda *_: True)

    assert run(mutants, monkeypatch, "cloud", "--minutes", "2") == 1

    assert "cloud: nothing was planted: mutmut still ran the tests unchanged after 2 minutes" in capsys.readouterr().err


def test_a_package_that_cannot_be_measured_keeps_its_old_row_and_does_not_stop_the_others(
    mutants, monkeypatch, capsys
) -> None:
    old = {"cloud": {"score": 0.5}}
    mutants.RESULTS.write_text(json.dumps(old))
    killed = {name: 1 for name in "abcd"}
    monkeypatch.setattr(mutants, "plant", lambda folder, *_: folder.name == "cloud")
    monkeypatch.setattr(mutants, "results_of", lambda folder, _: {} if folder.name == "cloud" else killed)

    assert run(mutants, monkeypatch, "cloud", "edge") == 1

    found = json.loads(mutants.RESULTS.read_text())
    assert found["cloud"] == old["cloud"]
    assert (found["edge"]["killed"], found["edge"]["score"]) == (4, 1.0)
    assert run(mutants, monkeypatch, "edge") == 0


def test_threads_of_a_test_may_run_functions_while_those_of_the_test_are_read(mutants) -> None:
    """mutmut ended before anything was planted in `wire`, whose receivers have threads."""
    program = mutants.MUTMUT.removesuffix("cli()\n")
    program += "found = state()._stats\nfound.add(1)\nfor each in found: found.add(each + 1)\nprint(*found)"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "1 2\n"
