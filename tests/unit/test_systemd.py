"""The unit files of deploy/systemd, by systemd's own checks and by our own command line."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from smartedge import errors
from smartedge.cli.app import parse

UNITS = sorted((Path(__file__).parents[2] / "deploy" / "systemd").glob("*.service"))
PROGRAM = "/opt/smartedge/bin/smartedge"
LARGEST_EXPOSURE = 25  # of 100, as 'systemd-analyze security' judges; most services of a distribution have 80 to 96


def lines_of(unit: Path) -> dict[str, str]:
    """Key -> value, of the lines that are settings."""
    found = [line.partition("=") for line in unit.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {key: value for key, _, value in found}


def test_there_is_a_unit_for_each_side() -> None:
    assert [unit.name for unit in UNITS] == ["smartedge-cloud.service", "smartedge-edge@.service"]


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_accepts_it(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed (package systemd)")
    here = tmp_path / unit.name
    here.write_text(unit.read_text().replace(PROGRAM, f"{sys.executable} -m smartedge"))
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    exposed = subprocess.run(
        ["systemd-analyze", "security", "--no-pager", "--offline=true", f"--threshold={LARGEST_EXPOSURE}", here],
        capture_output=True,
        text=True,
        check=False,
    )
    assert exposed.returncode == 0, exposed.stdout[-500:] + exposed.stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_its_command_is_one_of_ours_and_goes_on_after_a_restart(unit: Path) -> None:
    program, *argv = shlex.split(lines_of(unit)["ExecStart"].replace("%i", "door"))
    args = parse(argv)
    assert program == PROGRAM and args.resume
    for each in Path(__file__).parents[2].glob("docs/operation.md"):
        assert unit.name in each.read_text()


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_errors_that_a_restart_cannot_mend_are_not_tried_again_and_others_for_ever(unit: Path) -> None:
    assert lines_of(unit)["StartLimitIntervalSec"] == "0", "systemd would give up while the disk is full"
    known = {kind.exit_code for kind in errors.SmartEdgeError.__subclasses__()}
    given_up = {int(code) for code in lines_of(unit)["RestartPreventExitStatus"].split()}
    assert given_up < known
    assert not given_up & {errors.LinkError.exit_code, errors.LogError.exit_code, errors.SmartEdgeError.exit_code}
    assert known - given_up <= {5, 6, 7, 8}, "of a new class of errors somebody must say what a restart does"
