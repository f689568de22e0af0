"""Names of networks, looked for without importing the libraries that have them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

import pytest

from smartedge.errors import CutError
from smartedge.models.compat import load_timm, load_torchvision
from smartedge.models.zoo import names
from smartedge.models.zoo.names import check_name


def test_every_network_of_the_installed_libraries_is_found() -> None:
    torchvision, timm = load_torchvision(), load_timm()
    published = {"torchvision": torchvision.models.list_models(module=torchvision.models), "timm": timm.list_models()}
    for library, known in published.items():
        text = b"\n".join(names._sources(library))
        assert {found.decode() for found in names._DEFINED.findall(text)} == set(known)
    for name in (*published["torchvision"][::9], *published["timm"][::99], "timm/resnet18.a1_in1k"):
        check_name(name)


@pytest.mark.parametrize("name", ["torchvision/mobilevit_xxs", "timm/resnet81", "resnet81.a1_in1k", "keras/resnet18"])
def test_what_no_library_has_is_refused(name: str) -> None:
    with pytest.raises(CutError, match=f"no network is called {name}"):
        check_name(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("small.py:make", r"the module, small:make, and let Python find it: PYTHONPATH=\.$"),
        ("./nets/small:make", "the module, small:make, and let Python find it: PYTHONPATH=nets$"),
        ("/nets/small.py:make", "PYTHONPATH=/nets$"),
        ("my nets/small.py:make", "PYTHONPATH='my nets'$"),
        ("nets/small.py", "the module, small:FACTORY, and"),
    ],
)
def test_the_path_of_a_file_is_no_module(name: str, said: str) -> None:
    with pytest.raises(CutError, match=said):
        check_name(name)


@pytest.mark.parametrize("name", ["my.code:resnet81", "hf_hub:somebody/resnet81"])
def test_what_only_the_build_can_tell_is_left_to_it(name: str) -> None:
    check_name(name)


def test_a_library_that_is_not_there_or_has_no_source_is_not_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    check_name("timm/resnet81")
    spec = importlib.machinery.ModuleSpec("timm", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    check_name("timm/resnet81")
