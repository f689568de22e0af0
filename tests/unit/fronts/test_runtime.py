"""Networks that ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import pytest

from smartedge.errors import FrontError
from smartedge.fronts.runtime import session

onnx = pytest.importorskip("onnx")


def test_a_network_does_not_keep_its_file_in_memory() -> None:
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch"]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Neg", ["x"], ["y"])], "g", value[:1], value[1:])
    opsets = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString()
    network = session(model, "here")
    assert network.run(None, {"x": np.ones(2, np.float32)})[0].tolist() == [-1.0, -1.0]
    assert not any(value == model for value in vars(network).values() if isinstance(value, bytes))


def test_a_file_that_is_no_network() -> None:
    with pytest.raises(FrontError, match=r"^here: ONNX Runtime cannot run it"):
        session(b"no network", "here")
