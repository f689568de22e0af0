"""The package can be read by every version of Python that it names, where such an interpreter is at hand."""

from __future__ import annotations

import re
import subprocess
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

SUPPORTED = ("3.10", "3.11", "3.12", "3.13", "3.14")
# Without the libraries most modules stop at the first of them. What comes before must work, and all must compile.
_CODE = """
import importlib, pathlib, sys
source, seen = pathlib.Path(sys.argv[1]), 0
sys.path.insert(0, str(source))
for file in sorted((source / "smartedge").rglob("*.py")):
    compile(file.read_text(encoding="utf-8"), str(file), "exec")
    name = ".".join(file.relative_to(source).with_suffix("").parts).removesuffix(".__init__")
    try:
        if not name.endswith("__main__"):
            importlib.import_module(name)
            seen += 1
    except ImportError as error:  # a library
        if "smartedge" in str(error.name):
            raise
print(seen)
"""


def interpreter(version: str) -> str:
    """An interpreter of that version; skips the test where there is none."""
    folders = [Path("/usr/bin"), Path("/usr/local/bin"), *Path.home().glob(f".pyenv/versions/{version}.*/bin")]
    for folder in folders:
        if (found := folder / f"python{version}").exists():
            return str(found)
    pytest.skip(f"needs Python {version}")


@pytest.mark.source
@pytest.mark.parametrize("version", SUPPORTED)
def test_every_module_is_understood(version: str, repo_root: Path) -> None:
    command = [interpreter(version), "-I", "-B", "-W", "error", "-c", _CODE, str(repo_root / "src")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 10


def test_the_versions_are_those_of_the_package(repo_root: Path) -> None:
    text = (repo_root / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={SUPPORTED[0]}"' in text
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    assert tuple(named) == SUPPORTED[: len(named)]


def test_the_constraints_fit_every_patch_release(repo_root: Path) -> None:
    """A package may ask for 3.11.5, and Debian 12 has 3.11.2: such a version may not be asked for there."""
    looked_at = 0
    for line in (repo_root / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        wanted = Requirement(line)
        try:
            installed = metadata(wanted.name)
        except PackageNotFoundError:
            continue
        if wanted.specifier != SpecifierSet(f"=={installed['Version']}".partition("+")[0]):
            continue
        looked_at += 1
        fits = SpecifierSet(installed["Requires-Python"] or "")
        for version in SUPPORTED[1:]:
            place = {"python_version": version, "python_full_version": f"{version}.0"}
            if fits.contains(f"{version}.99") and (wanted.marker is None or wanted.marker.evaluate(place)):
                assert fits.contains(f"{version}.0"), f"{wanted.name} needs Python {fits}, so {version}.0 has none"
    assert looked_at > 100
