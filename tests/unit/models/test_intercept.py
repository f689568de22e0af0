"""A recording sees its own network in its own thread, and disturbs no other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from gradient_reversal import Reverse
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.cutting.cut import cut, list_cuts

WAIT_S = 60  # longest wait for the other thread; a test that fails here hangs no longer than this


class Adversarial(nn.Module):
    """Looks at its mode and applies a custom autograd function. ``meanwhile`` is called in the middle of it."""

    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.drop, self.second = nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.first(x))
        type(self).meanwhile()
        x = Reverse.apply(x)
        return self.second(x * 2 if self.training else x)


def train(seed: int) -> dict[str, Tensor]:
    """Weights after some steps of a network that has everything a recording looks for."""
    torch.manual_seed(seed)
    model = Adversarial()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(5):
        model.train(step % 2 == 0)
        model(torch.rand(8, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def test_another_thread_that_trains_is_neither_recorded_nor_disturbed():
    expected = train(seed=3)
    model = Adversarial()
    names = [c.name for c in list_cuts(model, (4,))]
    trained: list[dict[str, Tensor]] = []

    class Recorded(Adversarial):
        """While it runs, another thread trains a network from start to end."""

        @staticmethod
        def meanwhile() -> None:
            with ThreadPoolExecutor(1) as other:
                trained.append(other.submit(train, 3).result(WAIT_S))

    found = [c.name for c in list_cuts(Recorded(), (4,))]

    assert found == names
    assert len(trained) == 8  # one recording and three replays, in two modes
    for weights in trained:
        assert all(torch.equal(weights[key], value) for key, value in expected.items())


def test_a_module_that_is_run_for_real_rewinds_the_random_numbers_only_if_it_drew_some():
    """Other threads draw from the same generator: what they drew meanwhile must not come again."""

    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if x.sum() > 0 else -self.inner(x)

    class Network(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            with ThreadPoolExecutor(1) as other:
                other.submit(torch.rand, 1).result(WAIT_S)
            return super().forward(x)

    model, noisy = Network(Choosy(), nn.Linear(4, 3)), nn.Sequential(Noisy(), nn.Linear(4, 3))
    torch.manual_seed(0)
    drawn = [torch.rand(1).item() for _ in range(20)]
    torch.manual_seed(0)
    list_cuts(model, (4,))
    assert drawn.index(torch.rand(1).item()) > 0
    before = torch.get_rng_state()
    list_cuts(noisy, (4,))
    assert torch.equal(torch.get_rng_state(), before)


class Noisy(nn.Module):
    """Looks at values and draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(x) if x.sum() > -1e9 else x


def test_two_threads_record_at_once_and_find_what_each_finds_alone():
    barrier = threading.Barrier(2, timeout=WAIT_S)

    class Meeting(Adversarial):
        @staticmethod
        def meanwhile() -> None:
            barrier.wait()  # both threads are in the middle of a recording here

    alone = Adversarial()
    x = torch.rand(6, 4)
    models = [Meeting(), Meeting()]
    with ThreadPoolExecutor(2) as threads:
        halves = list(threads.map(lambda model: cut(model, "Reverse", (4,)), models))
    for model, (front, back) in zip(models, halves, strict=True):
        alone.load_state_dict(model.state_dict())
        for mode in (True, False):
            alone.train(mode), front.train(mode), back.train(mode)
            torch.manual_seed(0)
            expected = alone(x)
            torch.manual_seed(0)
            assert torch.equal(back(front(x)), expected)


def test_a_recording_within_a_recording_is_refused():
    class Nested(Adversarial):
        @staticmethod
        def meanwhile() -> None:
            list_cuts(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), (4,))

    with pytest.raises(CutError, match="calls list_cuts or cut in its forward"):
        list_cuts(Nested(), (4,))
    assert list_cuts(Adversarial(), (4,))


def test_an_exception_in_the_network_undoes_everything():
    apply, call = torch.autograd.Function.__dict__["apply"], nn.Module.__call__
    during = []

    class Failing(Adversarial):
        @staticmethod
        def meanwhile() -> None:
            during.append(torch.autograd.Function.__dict__["apply"])
            raise KeyboardInterrupt

    model = Failing()
    with pytest.raises(KeyboardInterrupt):
        list_cuts(model, (4,))
    assert during[0] is not apply  # otherwise this test looks for nothing
    assert torch.autograd.Function.__dict__["apply"] is apply
    assert nn.Module.__call__ is call
    assert "training" not in vars(nn.Module)
    assert [type(module) for module in model.modules()] == [Failing, nn.Linear, nn.Dropout, nn.Linear]
    assert list_cuts(Adversarial(), (4,))
