"""Networks that ONNX Runtime runs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from smartedge.config import load_config
from smartedge.errors import FrontError
from smartedge.fronts.bundle import PublishedFront
from smartedge.fronts.runtime import OnnxFront, session
from smartedge.methods.mechanism import mechanism_of
from smartedge.types import Task

onnx = pytest.importorskip("onnx")


def network(nodes: list[Any], *, name: str, result: str, uint8: bool = False, **weights: NDArray[np.float32]) -> bytes:
    """A graph as a file. The sizes of its input and of its result are left open."""
    kinds = onnx.TensorProto.UINT8 if uint8 else onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT
    value = [
        onnx.helper.make_tensor_value_info(each, kind, None) for each, kind in zip((name, result), kinds, strict=True)
    ]
    tensors = [onnx.numpy_helper.from_array(tensor, each) for each, tensor in weights.items()]
    graph = onnx.helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    opsets = [onnx.helper.make_opsetid("", 18)]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()


def test_a_network_does_not_keep_its_file_in_memory() -> None:
    model = network([onnx.helper.make_node("Neg", ["x"], ["y"])], name="x", result="y")
    ready = session(model, "here")
    assert ready.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [-1.0, -1.0]
    assert not any(value == model for value in vars(ready).values() if isinstance(value, bytes))


def test_a_file_that_is_no_network() -> None:
    with pytest.raises(FrontError, match=r"^here: ONNX Runtime cannot run it"):
        session(b"no network", "here")


WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2) / 4
# (B, 3, 2, 2) → the four pixels of the first colour
FIRST = [
    onnx.helper.make_node("Cast", ["images"], ["floats"], to=onnx.TensorProto.FLOAT),
    onnx.helper.make_node("Slice", ["floats", "begin", "end", "axis"], ["colour"]),
    onnx.helper.make_node("Flatten", ["colour"], ["features"]),
]
PLACES = {name: np.array([number], np.int64) for name, number in (("begin", 0), ("end", 1), ("axis", 1))}
EXIT = network(
    [onnx.helper.make_node("MatMul", ["features", "w"], ["logits"])], name="features", result="logits", w=WEIGHTS
)


def front_with(
    folder: Path, mechanism: Any, kind: str = "single", names: tuple[str, ...] = ("a", "b"), side: int = 2
) -> OnnxFront:
    content = {"front.onnx": network(FIRST, name="images", result="features", uint8=True, **PLACES), "exit.onnx": EXIT}
    files = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    for name, data in content.items():
        (folder / name).write_bytes(data)
    manifest = SimpleNamespace(
        files={**files, "front.safetensors": "d" * 64},
        feature_shape=(4,),
        settings={"seed": 1},
        task=Task(kind, ("a", "b"), names),  # type: ignore[arg-type]
    )
    config = SimpleNamespace(data=SimpleNamespace(image_size=side))
    return OnnxFront(PublishedFront(folder, *cast("Any", (manifest, config, mechanism))), threads=1)


def test_features_are_bounded_and_the_exit_answers_for_them(tmp_path: Path) -> None:
    noise = mechanism_of(load_config({"dp": {"mechanism": "gaussian", "epsilon": 8.0, "clip": 5.0}}), (4,))
    front = front_with(tmp_path, noise)
    assert (front.agreement, front.feature_shape) == ({"seed": 1, "front": "d" * 64}, (4,))
    images_BCHW = np.zeros((3, 3, 2, 2), np.uint8)
    images_BCHW[1, 0] = [[0, 3], [0, 0]]
    images_BCHW[2, 0] = [[0, 0], [0, 50]]
    images_BCHW[:, 1:] = 200
    features = front.features(images_BCHW)
    np.testing.assert_allclose(features, [[0, 0, 0, 0], [0, 3, 0, 0], [0, 0, 0, 5]], rtol=1e-6)
    for released in (False, True):
        np.testing.assert_allclose(front.logits(features, released=released), features @ WEIGHTS, rtol=1e-6)
    with pytest.raises(FrontError, match=r"ONNX Runtime stopped at features of shape \(3, 5\)"):
        front.logits(np.zeros((3, 5), np.float32), released=True)


@pytest.mark.parametrize(
    ("names", "side", "said"),
    [
        (("a", "b", "c"), 2, r"have the shapes \(\(1, 4\), \(1, 2\)\), and not \(\(1, 4\), \(1, 3\)\)"),
        ((), 2, r"and not \(\(1, 4\), \(1, 0\)\)"),
        (("a", "b"), 3, "manifest.json: ONNX Runtime stopped at features"),
    ],
)
def test_networks_that_do_not_fit_to_their_manifest(
    tmp_path: Path, names: tuple[str, ...], side: int, said: str
) -> None:
    """Somebody who publishes by hand can mix the files of two fronts. Their digests are right then."""
    with pytest.raises(FrontError, match=said):
        front_with(tmp_path, mechanism_of(load_config({}), (4,)), names=names, side=side)


@pytest.mark.parametrize(("mechanism", "alone"), [("none", False), ("gaussian", True)])
def test_where_releases_are_random_the_front_takes_one_image_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mechanism: str, alone: bool
) -> None:
    dp = {"mechanism": mechanism, **({"epsilon": 8.0, "clip": 5.0} if alone else {})}
    front, sizes = front_with(tmp_path, mechanism_of(load_config({"dp": dp}), (4,))), list[int]()
    run = front._front.run

    def noted(names: None, inputs: dict[str, NDArray[np.uint8]]) -> list[NDArray[np.float32]]:
        sizes.append(len(inputs["images"]))
        return cast("list[NDArray[np.float32]]", run(names, inputs))

    monkeypatch.setattr(front._front, "run", noted)
    assert front.features(np.ones((3, 3, 2, 2), np.uint8)).shape == (3, 4)
    assert sizes == ([1, 1, 1] if alone else [3])


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_answer_for_a_codeword_that_was_not_released_is_the_mean_over_what_its_release_may_be(
    tmp_path: Path, kind: str
) -> None:
    settings = {"epochs": 1, "model": {"codebook": 4}, "dp": {"mechanism": "randomised-response", "epsilon": 2.0}}
    response = mechanism_of(load_config(settings), (4,))
    front, word = front_with(tmp_path, response, kind), np.eye(4, dtype=np.float32)
    logits_OK = response.outcomes() @ WEIGHTS
    if kind == "single":
        scores = np.exp(logits_OK) / np.exp(logits_OK).sum(1, keepdims=True)
    else:
        scores = 1 / (1 + np.exp(-logits_OK))
    expected = word @ response.channel() @ scores
    found = front.logits(word, released=False)
    told = np.exp(found) if kind == "single" else 1 / (1 + np.exp(-found))
    np.testing.assert_allclose(told, expected, rtol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_allclose(front.logits(word, released=True), word @ WEIGHTS, rtol=1e-6)
