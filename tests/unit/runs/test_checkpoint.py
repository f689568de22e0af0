"""Checkpoints: what goes in comes out, without pickle, and damage is an error."""

from __future__ import annotations

import resource

import pytest
import torch
from torch import nn

from smartedge.errors import RunError
from smartedge.files import is_disk_error
from smartedge.runs.checkpoint import Checkpoints, load_weights, save_weights


def _trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model(torch.randn(5, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    return model, optimizer


def test_model_and_optimizer_survive_bit_for_bit(tmp_path):
    model, optimizer = _trained()
    checkpoints = Checkpoints(tmp_path)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "seconds": [0.5],
        "test": None,
        "losses": [torch.ones(2), {7: torch.zeros(1)}],
    }
    checkpoints.save(3, state)
    loaded = checkpoints.load(3)
    assert loaded["epoch"] == 3
    assert loaded["seconds"] == [0.5]
    assert loaded["test"] is None
    assert torch.equal(loaded["losses"][0], torch.ones(2)) and torch.equal(loaded["losses"][1][7], torch.zeros(1))
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded["model"][name], tensor)
    _, fresh = _trained()
    fresh.load_state_dict(loaded["optimizer"])
    kept, moments = fresh.state_dict()["state"], optimizer.state_dict()["state"]
    assert kept.keys() == moments.keys() == {0, 1, 2, 3, 4, 5}
    for key, group in moments.items():
        for name, value in group.items():
            assert torch.equal(value, kept[key][name])


def test_nothing_on_disk_is_a_pickle(tmp_path):
    model, optimizer = _trained()
    Checkpoints(tmp_path).save(1, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == [".json", ".safetensors"]


@pytest.mark.parametrize("victim", ["state.json", "tensors.safetensors"])
def test_damage_is_named(tmp_path, victim):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weights": torch.ones(3)})
    file = tmp_path / "00000001" / victim
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(RunError, match="00000001"):
        checkpoints.load(1)


def test_no_bit_that_turned_is_learned_from_in_silence(tmp_path):
    """Every fifth bit of a small checkpoint: the same state comes back, or an error names the checkpoint."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, {"weights": torch.ones(3), "step": 17, "loss": 0.25})
    silent = []
    for file in (tmp_path / "00000001").iterdir():
        data = file.read_bytes()
        for bit in range(0, 8 * len(data), 5):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            file.write_bytes(damaged)
            try:
                loaded = checkpoints.load(1)
            except RunError as error:
                if "00000001" not in str(error):
                    silent.append((file.name, bit))
                continue
            same = torch.equal(loaded.pop("weights", torch.zeros(3)), torch.ones(3))
            if not same or loaded != {"step": 17, "loss": 0.25}:
                silent.append((file.name, bit))
        file.write_bytes(data)
    assert silent == []


def test_a_checkpoint_is_on_the_disk_under_its_name(tmp_path, monkeypatch):
    """A power failure after ``save`` leaves it there; also one that takes the place of another."""
    checkpoints, synced = Checkpoints(tmp_path), []

    def sync(folder):
        synced.append((folder.name, sorted(entry.name for entry in tmp_path.iterdir())))

    monkeypatch.setattr("smartedge.runs.checkpoint.sync_folder", sync)
    for value in (1, 2):
        checkpoints.save(7, {"n": value})
    assert synced == [(tmp_path.name, ["00000007"])] * 2
    assert checkpoints.load(7) == {"n": 2}


def test_a_disk_that_does_not_take_weights_is_an_error_of_the_disk(tmp_path):
    """safetensors has an error of its own for it, which ended in a traceback."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_disk_error(caught.value) and caught.value.filename == str(tmp_path / "w.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_old_and_later_ones_can_be_forgotten(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for number in range(1, 6):
        checkpoints.save(number, {"n": number})
    checkpoints.forget_before(3)
    checkpoints.forget_after(4)
    assert checkpoints.numbers() == [3, 4]


def test_a_value_that_cannot_be_kept_is_refused(tmp_path):
    with pytest.raises(TypeError, match="set"):
        Checkpoints(tmp_path).save(1, {"a": {1, 2}})


def test_weights_that_share_memory_can_be_saved(tmp_path):
    shared = torch.arange(8.0)
    state = {"a": shared, "b": shared, "part": shared[2:5], "wide": shared[:1].expand(3), "none": torch.ones(0)}
    save_weights(tmp_path / "w.safetensors", state)
    found = load_weights(tmp_path / "w.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())
    assert (tmp_path / "w.safetensors").stat().st_size < 1000, "no more than the values"
