"""Which tool can divide a network so that its two parts train as the network does.

    python benchmarks/cutting.py

Each network is divided at the same module by two tools: ours (``smartedge.models.cutting.cut``), and
``torch.distributed.pipelining`` (``pipeline`` with a ``SplitPoint``, which records by ``torch.export``). Beside them
``torch.export`` alone records the whole network, to tell which networks it can record at all.

The questions: Is it possible? In training and in evaluation mode, do the parts give the network's numbers, to the bit
and with the same random numbers? Are the gradients equal within 1e-5? Do parts that were made in training mode follow
``eval()``? Do they take another number of images? Are the weights the original's own, so that training the parts
trains it? Do the state dicts together have the original's names? One thread, random images, random weights.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from common import HERE, keep_result, show_table
from torch import Tensor, nn

from smartedge.models.cutting.cut import cut, list_cuts
from smartedge.models.zoo.networks import build

BATCH, OTHER_BATCH = 3, 5
# A handful for each family: plain, residual, inverted residual with random depth, dense, windows, tokens, mixed.
NETWORKS = (
    ("vgg11_bn", 32),
    ("resnet18", 32),
    ("mobilenet_v2", 32),
    ("efficientnet_b0", 32),
    ("densenet121", 32),
    ("shufflenet_v2_x0_5", 32),
    ("timm/convnext_atto", 32),
    ("swin_t", 32),
    ("vit_tiny_patch16_224", 64),
    ("mobilevit_xxs", 64),
    ("mobilevitv2_050", 64),
)


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return -gradients[0]


class Reversal(nn.Module):
    """A layer with a gradient of its own, as adversarial training uses it."""

    def forward(self, x: Tensor) -> Any:
        return _Reverse.apply(x)  # type: ignore[no-untyped-call]


class Values(nn.Module):
    """Looks at the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        inner: Tensor = self.inner(x)
        return inner if x.sum() > 0 else -inner


class Modes(nn.Module):
    """Does something else in training, written as functions."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout(x, 0.5, training=self.training)
        return torch.relu(x) if self.training else x


class Frozen(nn.Module):
    """A stretch without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = torch.sigmoid(self.inner(x))
        return x * scale


OWN: dict[str, Callable[[], nn.Module]] = {
    "gradient reversal": Reversal,
    "looks at values": Values,
    "looks at its mode": Modes,
    "part without gradient": Frozen,
}


def own(layer: nn.Module) -> nn.Sequential:
    head = [nn.Conv2d(8, 8, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)]
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), layer, nn.BatchNorm2d(8), nn.ReLU(), *head)


@dataclass
class Parts:
    """What a tool made of a network: one module or several, to be run one after the other."""

    modules: list[nn.Module]

    def __call__(self, x: Any) -> Any:
        for module in self.modules:
            x = module(*x) if isinstance(x, tuple) else module(x)
        return x

    def mode(self, training: bool) -> None:
        for module in self.modules:
            module.train(training)

    def parameters(self) -> dict[str, nn.Parameter]:
        return {name: p for module in self.modules for name, p in module.named_parameters()}


def by_us(model: nn.Module, at: str, images: Tensor) -> Parts:
    return Parts([*cut(model, at, tuple(images.shape[1:]))])


def by_pipelining(model: nn.Module, at: str, images: Tensor) -> Parts:
    from torch.distributed.pipelining import SplitPoint, pipeline

    pipe = pipeline(model, (images,), split_spec={at: SplitPoint.END})
    return Parts([pipe.get_stage_module(stage) for stage in range(pipe.num_stages)])


def by_export(model: nn.Module, at: str, images: Tensor) -> Parts:
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    return Parts([exported.module()])


TOOLS = {"smartedge": by_us, "pipelining": by_pipelining, "export, not cut": by_export}


def outcome(model: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and loss, with fixed random numbers."""
    torch.manual_seed(0)
    logits = model(images)
    return logits, F.cross_entropy(logits, torch.arange(len(images)) % logits.shape[1])


def answer(question: Callable[[], bool]) -> str:
    """Yes, no, or the kind of error that came instead."""
    try:
        return "yes" if question() else "no"
    except Exception as error:
        return f"no: {type(error).__name__}"


def examine(model: nn.Module, at: str, size: int, divide: Callable[[nn.Module, str, Tensor], Parts]) -> dict[str, str]:
    images = torch.rand(BATCH, 3, size, size, generator=torch.Generator().manual_seed(0))
    more = torch.rand(OTHER_BATCH, 3, size, size, generator=torch.Generator().manual_seed(1))
    model.train()
    whole = copy.deepcopy(model)
    begun = time.perf_counter()
    try:
        parts = divide(model, at, images)
    except Exception as error:
        return {"possible": f"no: {(str(error).strip() or type(error).__name__).splitlines()[0][:90]}"}
    seconds = time.perf_counter() - begun

    def equal(training: bool) -> Callable[[], bool]:
        def question() -> bool:
            reference = copy.deepcopy(model).train(training)
            if parts.modules[0].training != training:
                parts.mode(training)
            return torch.equal(outcome(parts, images)[0], outcome(reference, images)[0])

        return question

    def gradients() -> bool:
        outcome(parts, images)[1].backward()
        outcome(whole, images)[1].backward()
        got = {name: p.grad for name, p in parts.parameters().items() if p.grad is not None}
        expected = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
        return got.keys() == expected.keys() and all(
            torch.allclose(got[name], expected[name], atol=1e-6, rtol=1e-5) for name in expected
        )

    own_weights = {p.data_ptr() for p in model.parameters()}
    names = {name for module in parts.modules for name in module.state_dict()}
    found = {"possible": "yes", "gradients": answer(gradients), "training": answer(equal(True))}
    found["other batch"] = answer(lambda: outcome(parts, more)[0].shape[0] == OTHER_BATCH)
    found["then eval()"] = answer(equal(False))
    found["weights shared"] = answer(lambda: {p.data_ptr() for p in parts.parameters().values()} == own_weights)
    found["names kept"] = answer(lambda: names == set(model.state_dict()))
    found["seconds"] = f"{seconds:.1f}"
    return found


QUESTIONS = ("possible", "training", "gradients", "then eval()", "other batch", "weights shared", "names kept")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    cases: list[tuple[str, int, Callable[[], nn.Module]]] = [
        (name, size, lambda name=name, size=size: build(name, outputs=10, image_size=size, seed=0))  # type: ignore[misc]
        for name, size in NETWORKS
    ]
    cases += [(name, 16, lambda layer=layer: own(layer())) for name, layer in OWN.items()]  # type: ignore[misc]
    rows = []
    for name, size, make in cases:
        modules = dict(make().named_modules())
        cuts = [c.name for c in list_cuts(make(), (3, size, size)) if c.name in modules]
        at = cuts[len(cuts) // 2] if name not in OWN else "1"
        for tool, divide in TOOLS.items():
            torch.manual_seed(0)
            found = examine(make(), at, size, divide)
            rows.append(
                {
                    "network": name,
                    "at": at,
                    "tool": tool,
                    **{key: found.get(key, "") for key in (*QUESTIONS, "seconds")},
                }
            )
            print(rows[-1], flush=True)
    results = HERE / "results"
    show_table("what each tool makes of a network", rows, results / "cutting.csv")
    for tool in TOOLS:
        mine = [row for row in rows if row["tool"] == tool]
        counts = {question: sum(row[question] == "yes" for row in mine) for question in QUESTIONS}
        print(f"{tool}, of {len(mine)} networks: " + ", ".join(f"{question} {n}" for question, n in counts.items()))
    keep_result(results / "cutting.json", {"rows": rows})


if __name__ == "__main__":
    main()
