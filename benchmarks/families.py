"""Of every family of networks in timm: can one network be cut, and are its halves the network?

    python benchmarks/families.py                 # resumable; ends when all are done
    python benchmarks/families.py --minutes 7     # goes on where the last call stopped
    python benchmarks/families.py --show          # the table alone

A family is a module of timm (``timm.list_modules()``). A small network of it is tried: of the three whose names promise
the fewest parameters, the smallest.
The image size is the first of 64, 128 and the published one that the network takes. Networks that would not fit are
left out and counted: ``--most`` is the largest number of parameters in millions.

A cut is useful where between 2 % and 90 % of the floating-point operations lie before it. Three useful cuts are tried,
nearest to 10 %, 40 % and 70 %. "Equal" means: the same answers to the bit in evaluation mode; in training mode, with
the same random numbers, the same loss to the bit and gradients within 1e-5, for every parameter; and the state
dicts together have the original's names. Where answers, loss or gradients differ in float32, the same cut is compared
in float64. "Wrong" is a cut that was made and differs there as well, by more than 1e-9 of the largest number; the
others count as equal and are listed as "rounded", with both differences.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import HERE, keep_result, show_table
from torch import Tensor, nn

from smartedge.errors import CutError
from smartedge.models.blame import first_line
from smartedge.models.compat import load_timm
from smartedge.models.cutting.cut import Cut, cut, list_cuts, merge_state_dicts
from smartedge.models.zoo.networks import build

USEFUL = (0.02, 0.90)
PLACES = (0.10, 0.40, 0.70)
OUTPUTS = 10
ROUNDING = 1e-9  # in float64, relative; sums of a million numbers are rounded by less
SMALL = (
    *("atto", "femto", "pico", "zepto", "nano", "xxs", "xx_small", "xxtiny", "micro", "_t0", "tiny", "mini"),
    *("035", "050", "_xs", "x_small", "small", "_s", "10t", "18", "s12", "b0", "m0", "_t", "26", "base"),
)


def promise(name: str) -> tuple[int, int]:
    """Small where the name of a network says that the network is small."""
    return next((rank for rank, word in enumerate(SMALL) if word in name), len(SMALL)), len(name)


def smallest(family: str) -> tuple[str, float]:
    """A small network of a family, and how many millions of parameters it has."""
    timm = load_timm()
    sizes = []
    named = timm.list_models(module=family, exclude_filters="test_*")  # timm's own tests use those
    for name in sorted(named, key=promise)[:3]:
        try:
            with torch.device("meta"):
                model = timm.create_model(name, pretrained=False)
        except Exception:  # a network that cannot be made without memory is none of our business here
            continue
        sizes.append((sum(p.numel() for p in model.parameters()) / 1e6, name))
    if not sizes:
        return timm.list_models(module=family)[0], 0.0
    millions, name = min(sizes)
    return name, millions


def image_sizes(name: str) -> list[int]:
    cfg = load_timm().models.get_pretrained_cfg(name)
    return list(dict.fromkeys([64, 128, *([] if cfg is None else [int(cfg.input_size[-1])])]))


def built(name: str) -> tuple[nn.Module, int]:
    """The network, and the smallest of the image sizes that it takes."""
    for size in image_sizes(name):
        try:
            return build(f"timm/{name}", outputs=OUTPUTS, image_size=size, seed=0), size
        except CutError as error:
            last = error
    raise last


def share(cut: Cut) -> float:
    """Share of the floating-point operations before the cut; of the parameters, where operations are not known."""
    front, back = cut.front_flops, cut.back_flops
    if front is None or back is None:
        front, back = cut.front_parameters, cut.back_parameters
    return front / max(1, front + back)


def chosen(cuts: list[Cut]) -> list[Cut]:
    """The useful cuts nearest to the places."""
    useful = [c for c in cuts if USEFUL[0] <= share(c) <= USEFUL[1]]
    found: list[Cut] = []
    for place in PLACES:
        left = [c for c in useful if c not in found]
        if left:
            found.append(min(left, key=lambda c: abs(share(c) - place)))
    return found


def loss_of(network: Callable[[Tensor], Tensor], images: Tensor) -> float:
    torch.manual_seed(0)
    loss = F.cross_entropy(network(images), torch.arange(len(images)) % OUTPUTS)
    loss.backward()
    return loss.item()


@dataclass(frozen=True)
class Difference:
    """How halves differ from their network, in one kind of number.

    Attributes:
        what: differs first; empty where nothing does.
        size: of the largest difference of a gradient, relative to the largest number in the gradients of the network;
            infinite where something differs that rounding cannot change. A gradient that is zero but for rounding, as
            of a bias before batch normalisation, has no scale of its own.
    """

    what: str = ""
    size: float = 0.0


def difference(whole: nn.Module, front: nn.Module, back: nn.Module, size: int, kind: torch.dtype) -> Difference:
    """How the halves differ from the network, in numbers of this kind. All three get it."""
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).to(kind)
    for module in (whole.to(kind).eval(), front.to(kind).eval(), back.to(kind).eval()):
        module.zero_grad()
    parts = {**dict(front.named_parameters()), **dict(back.named_parameters())}
    if parts.keys() != dict(whole.named_parameters()).keys():
        return Difference("names of parameters", math.inf)
    if merge_state_dicts(front, back).keys() != whole.state_dict().keys():
        return Difference("names of the state", math.inf)
    exact = kind == torch.float32  # the same operations in the same order; in float64 the gradients decide as well
    with torch.no_grad():
        torch.manual_seed(0)
        expected = whole(images)
        torch.manual_seed(0)
        found = back(front(images))
    what = "" if (torch.equal(found, expected) if exact else close(found, expected)) else "answers in evaluation mode"
    whole.train(), front.train(), back.train()
    losses = [torch.tensor(loss_of(run, images)) for run in (whole, lambda x: back(front(x)))]
    if not (torch.equal(*losses) if exact else close(*losses)):
        what = what or "loss in training mode"
    gradients = {name: (parts[name].grad, parameter.grad) for name, parameter in whole.named_parameters()}
    scale = max((float(each.abs().max()) for _, each in gradients.values() if each is not None), default=1.0)
    largest = 0.0
    for name, (gradient, expected) in gradients.items():
        if gradient is None or expected is None:
            if gradient is not expected:
                return Difference(f"gradient of {name}", math.inf)
            continue
        apart = float((gradient - expected).abs().max()) / max(scale, 1e-30)
        equal = torch.allclose(gradient, expected, atol=1e-5, rtol=1e-4) if exact else apart <= ROUNDING
        largest = max(largest, apart)
        if not equal:
            what = what or f"gradient of {name}"
    return Difference(what, largest)


def close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for rounding of float64, relative to the largest number."""
    return torch.allclose(found, expected, rtol=0, atol=ROUNDING * float(expected.abs().max()))


def judged(model: nn.Module, at: str, size: int) -> tuple[str, str]:
    """What is wrong with a cut, and a remark; both empty where halves and network are equal.

    Other gradients in float32 do not tell a wrong cut from rounding. So the same cut is compared in float64, where
    rounding is nine digits smaller. Only what differs there as well is wrong.
    """
    whole = copy.deepcopy(model)
    front, back = cut(model, at, (3, size, size))
    single = difference(whole, front, back, size, torch.float32)
    if not single.what:
        return "", ""
    try:
        double = difference(whole, front, back, size, torch.float64)
    except Exception as error:  # it names float32 in its code: then nothing speaks for rounding
        return f"{at}: {single.what} ({single.size:.0e}); not comparable in float64 ({first_line(error)}); ", ""
    found = f"{at}: {single.what} (float32 {single.size:.0e}, float64 {double.size:.0e}); "
    return (found, "") if double.what else ("", found)


def examine(family: str, most: float) -> dict[str, Any]:
    began = time.perf_counter()
    name, millions = smallest(family)
    row: dict[str, Any] = {"family": family, "network": name, "millions": round(millions, 2)}
    row |= {"size": "", "cuts": 0, "useful": 0, "equal": 0, "wrong": "", "rounded": "", "why": ""}
    if millions > most:
        return row | {"why": "left out: too large"}
    try:
        model, size = built(name)
        cuts = list_cuts(model, (3, size, size))
        tried = chosen(cuts)
        row |= {"size": size, "cuts": len(cuts), "useful": len(tried)}
        for point in tried:
            wrong, rounded = judged(copy.deepcopy(model), point.name, size)
            row["equal"] += not wrong
            row["wrong"] += wrong
            row["rounded"] += rounded
        if len(tried) < 2:
            row["why"] = "fewer than two useful places"
    except Exception as error:  # a traceback is what this benchmark is to find
        kind = "" if isinstance(error, CutError) else f"{type(error).__name__}: "
        row["why"] = kind + str(error).splitlines()[0][:300]
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def show(rows: list[dict[str, Any]], families: int, most: float) -> None:
    done = [row for row in rows if "left out" not in row["why"]]
    good = sum(row["equal"] >= 2 for row in done)
    wrong = sum(bool(row["wrong"]) for row in done)
    rounded = sum(bool(row.get("rounded")) for row in done)
    summary = {
        "families": families,
        "tried": len(done),
        "left out (too large)": len(rows) - len(done),
        "cut and equal at two or more useful places": good,
        "share": round(good / len(done), 4) if done else None,
        "with a wrong cut": wrong,
        "with a cut that is rounded otherwise": rounded,
    }
    columns = ("family", "network", "millions", "size", "cuts", "useful", "equal", "wrong", "rounded", "why")
    plain = [{key: row.get(key, "") for key in columns} for row in rows]
    show_table("one network of every family", plain, HERE / "results" / "families.csv")
    print(json.dumps(summary))
    keep_result(HERE / "results" / "families.json", summary, arguments=f"--most {most:g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/families"), help="holds one file for each family")
    parser.add_argument("--minutes", type=float, default=1e9, help="stop after so many minutes")
    parser.add_argument("--most", type=float, default=60.0, help="largest number of parameters, in millions")
    parser.add_argument("--only", nargs="*", help="these families, again")
    parser.add_argument("--show", action="store_true", help="only show what was found")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    end = time.monotonic() + 60 * args.minutes
    args.work.mkdir(parents=True, exist_ok=True)
    families = args.only or [m for m in load_timm().list_modules() if load_timm().list_models(module=m)]
    rows = []
    for family in families:
        file = args.work / f"{family}.json"
        if not args.show and (args.only or not file.exists()):
            if time.monotonic() > end:
                sys.exit(75)
            file.write_text(json.dumps(examine(family, args.most)))
            print(file.read_text(), flush=True)
        if file.exists():
            rows.append(json.loads(file.read_text()))
    if not args.only:
        show(rows, len(families), args.most)


if __name__ == "__main__":
    main()
