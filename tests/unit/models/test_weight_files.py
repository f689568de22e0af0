"""Files of weights as people have them: what they hold is found and said, and what cannot be used says what to do."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smartedge.config import Config
from smartedge.errors import ConfigError, CutError
from smartedge.models.weight_files import weight_files
from smartedge.models.zoo.files import read_weights
from smartedge.models.zoo.tensor_names import own_names
from smartedge.models.zoo.weights import fill

save = torch.save  # noqa: TID251


class Net(nn.Module):
    """A trunk and a head; the trunk may lie within a module of its own."""

    def __init__(self, outputs: int, *, wrapped: bool = False, head: str = "head", channels: int = 3) -> None:
        super().__init__()
        trunk = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
        inner = nn.Module() if wrapped else self
        inner.add_module("trunk", trunk)
        inner.add_module(head, nn.Linear(4, outputs))
        if wrapped:
            self.model = inner


def state_of(outputs: int = 10, **changes: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return Net(outputs, **changes).state_dict()


def prefixed(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def filled(file: Path, outputs: int = 2, **changes: Any) -> tuple[Net, str]:
    """A network with the weights of the file, and what was said."""
    model = Net(outputs, **changes)
    state, notes = read_weights(file)
    _, replaced, more = fill(model, state, file.name, head=())
    return model, "; ".join([*notes, *more, *(f"untrained {name}" for name in replaced)])


def trunk_of(model: Net) -> Tensor:
    return getattr(model, "model", model).get_submodule("trunk.0").weight


PLACES = {
    "a best accuracy beside": (lambda s: {"best_acc1": torch.tensor(3.0), "epoch": 3, "state_dict": s}, "'state_dict'"),
    "in two steps": (lambda s: {"ema": {"module": s}, "epoch": 1}, "'ema.module'"),
    "in three": (lambda s: {"run": {"model": {"state_dict": s}}}, "'run.model.state_dict'"),
    "an optimizer beside": (
        lambda s: {"optimizer": {"state": {0: {"exp_avg": torch.ones(9)}}}, "model_state": s},
        "'model_state'",
    ),
    "EMA beside": (
        lambda s: {"state_dict_ema": {n: t * 0 for n, t in s.items()}, "state_dict": s},
        "'state_dict'; not used is what is in its 'state_dict_ema'",
    ),
    "compiled": (lambda s: prefixed("_orig_mod.", s), "head"),
    "compiled within": (lambda s: {n.replace("trunk.", "trunk._orig_mod."): t for n, t in s.items()}, "head"),
    "compiled in DataParallel": (lambda s: prefixed("module._orig_mod.", s), "'module.'"),
    "backbone": (lambda s: prefixed("backbone.", s), "'backbone.'"),
    "Lightning": (
        lambda s: {"state_dict": prefixed("model.", s) | {"loss.weight": torch.ones(10)}, "hparams": {"lr": 1e-3}},
        "'model.' (1 tensors without it are left out)",
    ),
    "averaged": (lambda s: {"n_averaged": torch.tensor(3)} | prefixed("module.", s), "'module.'"),
    "counted": (lambda s: s | {"total_ops": torch.ones(1), "trunk.0.total_params": torch.ones(1)}, "head"),
    "another head": (
        lambda s: {n.replace("head.", "classifier.1."): t for n, t in s.items()},
        "its head classifier.1 is left out",
    ),
    "an auxiliary head": (
        lambda s: {"AuxLogits.fc.weight": torch.ones(3, 3)} | s,
        "its head AuxLogits.fc is left out",
    ),
    "half precision": (lambda s: {n: t.half() if t.is_floating_point() else t for n, t in s.items()}, "head"),
}


@pytest.mark.parametrize("case", PLACES)
def test_checkpoints_of_training_scripts_are_understood(case: str, tmp_path: Path) -> None:
    wrap, said = PLACES[case]
    save(wrap(state_of()), tmp_path / "x.ckpt")
    model, notes = filled(tmp_path / "x.ckpt")
    assert torch.allclose(trunk_of(model), state_of()["trunk.0.weight"], atol=1e-3)
    assert said in notes
    assert "untrained head.weight" in notes


def test_a_network_within_a_wrapper_takes_the_file_of_what_it_wraps(tmp_path: Path) -> None:
    save_file(state_of(), tmp_path / "x.safetensors")
    model, notes = filled(tmp_path / "x.safetensors", wrapped=True)
    assert torch.equal(trunk_of(model), state_of()["trunk.0.weight"])
    assert "its names were given the prefix 'model.'" in notes
    assert "untrained model.head.weight" in notes


def test_a_wrapper_does_not_make_the_whole_network_a_head(tmp_path: Path) -> None:
    """The weights of another network were left out in silence, since all names began as that of the last layer."""
    other = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 10))
    save_file(prefixed("model.trunk.", other.state_dict()), tmp_path / "x.safetensors")
    with pytest.raises(CutError, match=r"another network than Net: model\.trunk\.0\.weight is 8x3x3x3 there and 4x3x3"):
        filled(tmp_path / "x.safetensors", wrapped=True)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_head_of_several_layers_takes_the_place_of_one(wrapped: bool, tmp_path: Path) -> None:
    save_file(state_of(), tmp_path / "x.safetensors")
    model = Net(2, wrapped=wrapped)
    inner = getattr(model, "model", model)
    inner.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    state, _ = read_weights(tmp_path / "x.safetensors")
    copied, replaced, _ = fill(model, state, "x", head=())
    assert copied == len(inner.trunk.state_dict())
    assert [name.removeprefix("model.") for name in replaced] == [f"head.{name}" for name in inner.head.state_dict()]


def test_names_that_only_begin_alike_are_no_prefix() -> None:
    state = {"a.weight": torch.ones(1), "b.bias": torch.ones(1), "c.bias": torch.ones(1)}
    found, notes = own_names(state, ["x.a.weight", "x.d.weight", "y.b.weight"])
    assert found == state and notes == []


def test_other_channels_say_which_images_to_ask_for(tmp_path: Path) -> None:
    save_file(state_of(channels=4), tmp_path / "x.safetensors")
    with pytest.raises(CutError, match=r"trunk\.0\.weight is 4x4x3x3 there .*data\.image_size: 64x64x4"):
        filled(tmp_path / "x.safetensors")


def test_what_a_file_is_decides_not_its_ending(tmp_path: Path) -> None:
    save_file(state_of(), tmp_path / "x.bin")
    save(state_of(), tmp_path / "x.safetensors")
    for name in ("x.bin", "x.safetensors"):
        assert torch.equal(trunk_of(filled(tmp_path / name)[0]), state_of()["trunk.0.weight"])


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """An index of two files; those are there."""
    names = list(state_of())
    places = {name: f"m-{1 + (place > 3)}-of-2.safetensors" for place, name in enumerate(names)}
    for file in set(places.values()):
        save_file({n: t for n, t in state_of().items() if places[n] == file}, tmp_path / file)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return index


@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_weights_in_several_files_are_put_together(ending: str, sharded: Path) -> None:
    with pytest.raises(CutError, match=r"it is one of several files: give their \.index\.json$"):
        filled(sharded.with_name("m-1-of-2.safetensors"))
    with pytest.raises(CutError, match=r"is a folder; give the file in it, such as m\.safetensors\.index\.json"):
        filled(sharded.parent)
    if ending == "bin":
        for file in sharded.parent.glob("m-?-of-2.safetensors"):
            save(load_file(file), file.with_suffix(".bin"))
            file.unlink()
        sharded.write_text(sharded.read_text().replace(".safetensors", ".bin"))
        sharded = sharded.rename(sharded.with_name("pytorch_model.bin.index.json"))
    model, _ = filled(sharded)
    assert torch.equal(model.trunk[3].running_var, state_of()["trunk.3.running_var"])
    assert torch.equal(trunk_of(model), state_of()["trunk.0.weight"])


def test_each_of_several_files_belongs_to_the_identity_of_a_run(sharded: Path) -> None:
    config = Config.model_validate({"model": {"name": "a:b", "cut": "c", "weights": str(sharded)}})
    before = config.identity()
    second = sharded.with_name("m-2-of-2.safetensors")
    save_file({"trunk.2.weight": torch.ones(4, 4, 3, 3)}, second)
    assert config.identity() != before
    second.unlink()
    with pytest.raises(CutError, match=r"names 2 files, and 1 of them are not beside it: m-2-of-2\.safetensors; copy"):
        weight_files(sharded)


@pytest.mark.parametrize("place", ["../m.safetensors", "/etc/m.safetensors", "m.pth"])
def test_an_index_names_only_files_beside_it(place: str, tmp_path: Path) -> None:
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(CutError, match="which is no file of weights beside it"):
        weight_files(index)
    index.write_text("[1]")
    with pytest.raises(CutError, match="it has no weight_map"):
        weight_files(index)


def make_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")


def make_tar(path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        archive.add(__file__, "storages")


def cut_off(path: Path) -> None:
    save(state_of(), path)
    path.write_bytes(path.read_bytes()[:-100])


def arrays() -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in state_of().items()}


def cut_short(path: Path) -> None:
    save_file(state_of(), path)
    path.write_bytes(path.read_bytes()[:-100])


WRONG = {
    "empty": (lambda p: p.write_bytes(b""), "it is empty; fetch it again"),
    "a web page": (lambda p: p.write_bytes(b"\n<!DOCTYPE html><p>404"), "it is a web page or XML"),
    "an archive": (make_zip, r"a zip archive without torch's data.pkl \(it holds readme.txt\); .* save the named"),
    "ONNX": (lambda p: p.write_bytes(b"\x08\x08\x12\x07pytorch" + bytes(99)), "it is of ONNX or TensorFlow; take"),
    "another pickle": (lambda p: p.write_bytes(b"\x80\x04N."), "another pickle; if you trust it, load it in Python"),
    "safetensors cut off": (cut_short, "incomplete metadata.*; fetch it again"),
    "a tar archive": (make_tar, "it is a tar archive; unpack it"),
    "gzip": (lambda p: p.write_bytes(gzip.compress(b"x" * 99)), "it is compressed by gzip"),
    "cut off": (cut_off, "it ends early"),
    "HDF5": (lambda p: p.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "it is HDF5"),
    "settings": (lambda p: p.write_text('{"architectures": ["X"]}'), "it is JSON; give the file of weights"),
    "a folder": (lambda p: (p.mkdir(), (p / "model.safetensors").touch()), "is a folder; .*such as model.safetensors"),
    "arrays": (
        lambda p: save({"params": arrays(), "args": argparse.Namespace()}, p),
        "'params', 'args'. Its numbers are arrays of NumPy; .* safetensors.numpy",
    ),
    "an optimizer": (
        lambda p: save({"optimizer": torch.optim.SGD(Net(2).parameters()).state_dict(), "epoch": 1}, p),
        "'optimizer', 'epoch'. It is the state of an optimizer; give the file that holds model.state_dict",
    ),
    "a network": (
        lambda p: save({"model": Net(2), "epoch": 1}, p, _use_new_zipfile_serialization=False),
        "'model', 'epoch'. A file that holds a network as a Python object",
    ),
    "numbers": (lambda p: save({"epoch": 1}, p), "'epoch'. Save model.state_dict"),
    "numbers that are quantised": (
        lambda p: save({"x": torch.ones(3).to(torch.float8_e4m3fn)}, p),
        "of a kind that is not known: torch.storage.UntypedStorage; convert these",
    ),
    "noise": (lambda p: p.write_bytes(bytes(range(7, 200))), "it is damaged, or no file of torch"),
    "LFS": (lambda p: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid"), "run 'git lfs pull'"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("ending", ["safetensors", "pth"])
def test_what_is_no_file_of_weights_says_what_it_is(case: str, ending: str, tmp_path: Path) -> None:
    make, said = WRONG[case]
    make(tmp_path / f"x.{ending}")
    with pytest.raises(CutError, match=rf"x\.{ending} .*{said}"):
        read_weights(tmp_path / f"x.{ending}")


def test_a_place_in_the_home_of_the_user_and_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    home = Config.model_validate({"model": {"weights": "~/x.PTH"}})
    assert home.model.weights == str(tmp_path / "x.PTH")
    with pytest.raises(ConfigError, match=rf"x\.pth is not there in {tmp_path}; copy"):
        Config.model_validate({"model": {"weights": "x.pth"}}).check_files()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors.index.json"])
def test_a_pipe_in_place_of_weights_is_refused_and_not_waited_for(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(CutError, match="cannot be read"):
        read_weights(tmp_path / name)
