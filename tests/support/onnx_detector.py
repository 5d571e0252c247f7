"""ONNX graphs that give stated arrays, as detectors of persons."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def graph(
    path: Path,
    outputs: Mapping[str, NDArray[Any]],
    *,
    size: tuple[int, int] = (320, 320),
    extra: str | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """A graph that gives these arrays whatever its image is (it adds nothing times the image's mean)."""
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "nothing"], ["zero"]),
    ]
    weights = [numpy_helper.from_array(np.array(0, np.float32), "nothing")]
    results = []
    for name, value in outputs.items():
        weights.append(numpy_helper.from_array(value, f"{name}_value"))
        if value.dtype == np.float32:
            nodes.append(helper.make_node("Add", [f"{name}_value", "zero"], [name]))
        else:
            nodes.append(helper.make_node("Identity", [f"{name}_value"], [name]))
        results.append(helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape))
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, *size])]
    if extra:
        inputs.append(helper.make_tensor_value_info(extra, TensorProto.INT64, [1, 2]))
    model = helper.make_model(
        helper.make_graph(nodes, "detector", inputs, results, weights), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 9
    if metadata:
        helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path
