"""Whether a network's answers are logits that can be learned, found by running one image through it.

What torch writes down for the backward pass says which operation came last, whatever module or function it is in, and
which parameters would learn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from smartedge.errors import CutError
from smartedge.images.size import ImageSize
from smartedge.models.blame import kind_and_place, where_to_find

__all__ = ["check_answer", "check_training_answer", "plain"]

# What torch calls the backward pass of an operation that bounds its results: what users call it, and what is wrong.
_PROBABILITIES = "gives probabilities, and the loss makes probabilities of the answers once more"
_BOUNDED = "bounds the answers, so that no class can become likely or unlikely enough"
_LAST = {
    "Softmax": ("softmax", _PROBABILITIES),
    "Sigmoid": ("sigmoid", _PROBABILITIES),
    "LogSigmoid": ("log-sigmoid", _PROBABILITIES),
    "Hardsigmoid": ("hard sigmoid", _PROBABILITIES),
    "Tanh": ("tanh", _BOUNDED),
    "Hardtanh": ("hardtanh", _BOUNDED),
    "Relu": ("ReLU", "leaves no answer below zero"),
}
# Those that only move numbers, or copy them.
_MOVES = re.compile(
    "Alias|AsStrided|Cat|Clone|Permute|Reshape|ReshapeAlias|Select|Slice|Split|Squeeze|Stack|T|ToCopy|Transpose|Unbind|"
    "UnsafeView|Unsqueeze|View"
)


def check_answer(model: nn.Module, name: str, outputs: int, size: ImageSize) -> None:
    """Run one image through, so that what cannot work shows here and not in the middle of a run.

    Raises:
        CutError: the network does not take such images, does not answer with (1, ``outputs``), answers with something
            else than logits, nothing of it can be trained, or the image has no influence on the answer.
    """
    model = plain(model)
    image = torch.zeros(1, *size.shape, requires_grad=True)
    try:
        with torch.enable_grad():
            answer = model.eval()(image.clone())  # a network may change what it is given
    except Exception as error:  # whatever the network's code raises
        raise CutError(
            f"{name} does not take {size} images: {kind_and_place(error)}; {_what_to_mend(model, error, size)}"
        ) from error
    model.train()
    if not isinstance(answer, Tensor):
        raise CutError(
            f"{name} answers a {size} image with a {type(answer).__name__} instead of a tensor (1, {outputs}); let "
            f"package.module:factory return a network whose forward returns the logits alone{_within(answer)}"
        )
    if answer.shape != (1, outputs):
        raise CutError(
            f"{name} answers a {size} image with {tuple(answer.shape)} instead of (1, {outputs}); "
            f"{_remedy(tuple(answer.shape), outputs)}"
        )
    if not answer.is_floating_point():
        raise CutError(
            f"{name} answers with numbers of {answer.dtype}; let its forward return logits in floating point"
        )
    _refuse_probabilities(name, answer)
    reached = list(_reached(answer.grad_fn))
    if not any(tensor is not image for tensor in reached) and not _learns(model, answer):
        raise CutError(f"{name}: nothing of it can be trained; {_why_fixed(model)}")
    if not any(tensor is image for tensor in reached) and _is_constant(model, size):
        raise CutError(f"{name}: the image has no influence on its answer; let its forward use what it is given")


def check_training_answer(answer: Any, images: int, task_kind: str) -> None:
    """Refuse what training mode gives where only evaluation mode gives logits, and log-softmax for yes/no columns.

    Args:
        answer: of the whole network, or of the part that ends it, in training mode.
        images: in the batch.
        task_kind: ``single`` or ``multi``.

    Raises:
        CutError: the answer cannot be learned from.
    """
    if not isinstance(answer, Tensor):
        raise CutError(
            f"in training mode the network answers with a {type(answer).__name__} instead of one tensor, as networks "
            f"with auxiliary heads do; let its forward return the logits alone in training mode, too{_within(answer)}"
        )
    if answer.dim() != 2 or len(answer) != images:
        raise CutError(
            f"the network answers {images} images with {tuple(answer.shape)} in training mode; let its forward return "
            "one row of logits for each image"
        )
    if task_kind == "multi" and {_kind(node) for node in _last(answer.grad_fn)} == {"LogSoftmax"}:
        raise CutError(
            "the network ends in log-softmax, which lets one of the columns be likely at the cost of the others, and "
            "each yes/no column is learned by itself; let its forward return the logits, the numbers before that"
        )


def plain(model: nn.Module) -> nn.Module:
    """The network itself, where it was compiled or is run on several devices."""
    if type(model).__name__ == "OptimizedModule":  # of torch._dynamo, which takes a second to import
        model = model.get_submodule("_orig_mod")
    if type(model).__name__ in ("DataParallel", "DistributedDataParallel"):
        model = model.get_submodule("module")
    return model


def _what_to_mend(model: nn.Module, error: Exception, size: ImageSize) -> str:
    """What to do about a network that fails on an image."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu":
            return f"its {name} is on the device {tensor.device}; let it be built on the CPU"
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            return f"its {name} is {tensor.dtype}; let it be built as float32 (train.precision makes it faster)"
    if f"but got {size.channels} channels" in str(error):  # of torch's convolutions
        return f"let its first layer take {size.channels} channels, or change those of the images (data.image_size)"
    if isinstance(error, TypeError) and "argument" in str(error):
        return "let its forward take one argument, the images"
    if isinstance(error, ModuleNotFoundError):
        return where_to_find(error)
    if isinstance(error, NotImplementedError) and "eval()" in str(error):
        return "it is of torch.export, which fixes one mode; give the network that was exported"
    return "choose another image size or network, or mend its forward"


def _within(answer: Any) -> str:
    """Where the logits seem to be in an answer that is no tensor; empty: not known."""
    if isinstance(answer, Mapping) and isinstance(answer.get("logits"), Tensor):
        return ": its ['logits']"
    if isinstance(getattr(answer, "logits", None), Tensor):
        return ": its .logits"
    return ": its [0]" if isinstance(answer, (tuple, list)) and answer and isinstance(answer[0], Tensor) else ""


def _remedy(shape: tuple[int, ...], outputs: int) -> str:
    """What to do about an answer of another shape to one image."""
    sides = tuple(side for side in shape if side != 1)
    if sides in ((outputs,), ()) and outputs in shape:
        return "let its forward return one row for each image, as x.flatten(1) does and x.squeeze() does not"
    if sides == ():
        return f"one number does not tell {outputs} classes apart: let its last layer give num_classes numbers"
    if len(shape) > 2 and shape[1] == outputs:
        return "a map for each class, as for segmentation, has to be pooled, as x.mean((2, 3)) does"
    return "let its last layer give num_classes numbers"


def _refuse_probabilities(name: str, answer: Tensor) -> None:
    ends = {_kind(node) for node in _last(answer.grad_fn)}
    scores = answer.detach()
    sums_to_one = scores.shape[1] > 1 and bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-4
    known = _LAST.get(ends.pop()) if len(ends) == 1 else None
    if known is None and sums_to_one:
        known = "softmax", _PROBABILITIES
    if known is not None:
        operation, wrong = known
        raise CutError(
            f"{name} ends in {operation}, which {wrong}: it would learn badly, and its confidence would mean nothing. "
            "Let its forward return the logits, the numbers before that"
        )


def _kind(node: Node) -> str:
    """``Softmax`` of SoftmaxBackward0."""
    return node.name().rpartition("::")[2].partition("Backward")[0]


def _last(node: Node | None) -> Iterator[Node]:
    """The last operations that do more than move numbers."""
    if node is None:
        return
    if _MOVES.fullmatch(_kind(node)) is None:
        yield node
        return
    for before, _ in node.next_functions:
        yield from _last(before)


def _reached(node: Node | None) -> Iterator[Tensor]:
    """The tensors that would get a gradient."""
    seen: set[Node | None] = {None}
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node in seen or node is None:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            yield variable
        waiting += [before for before, _ in node.next_functions]


def _learns(model: nn.Module, answer: Tensor) -> bool:
    """Whether a backward pass leads to a parameter. Checkpoints and functions of the user's own hide which."""
    if not answer.requires_grad:
        return False
    answer.sum().backward()
    learned = any(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad(set_to_none=True)
    return learned


def _why_fixed(model: nn.Module) -> str:
    parameters = list(model.parameters())
    if not parameters:
        return "it has no parameters (those of a quantised network are no parameters of torch)"
    if not any(parameter.requires_grad for parameter in parameters):
        return f"all of its {len(parameters)} parameters have requires_grad=False; name what to freeze in train.freeze"
    return "its forward runs under torch.no_grad() or torch.inference_mode(), or detaches the answer"


def _is_constant(model: nn.Module, size: ImageSize) -> bool:
    """Whether two images of noise get one answer. Only asked where no gradient says that the image is used."""
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        one, other = (model.eval()(torch.randn(1, *size.shape, generator=random)) for _ in range(2))
    model.train()
    return torch.equal(one, other)
