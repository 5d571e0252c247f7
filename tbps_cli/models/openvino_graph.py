"""A graph run by OpenVINO in bfloat16: twice as fast as onnxruntime in float32 where the processor has it.

Left to itself OpenVINO holds the float32 weights of the file, the same in bfloat16, and those once more in the order in
which it multiplies. So the weights become bfloat16 here, one by one, before it compiles the graph: it is told that they
are a compressed form, which it then does not expand, and the file is let go of. The embeddings are the same to the bit.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import WeightsError
from tbps_cli.weights.mapped_pages import ReadOnce

SUFFIX = "-openvinobf16"
"""Of the fingerprint of what it embeds."""
NAME = "bf16 (OpenVINO)"
_LARGE = 1 << 16
"""Numbers from which a constant is worth holding in half as many bytes."""
_MULTIPLIES = {"MatMul", "Convolution", "Transpose"}
"""What takes weights, of which bfloat16 is all that is used."""
_COMPRESSED = "decompression_0"
"""How OpenVINO marks what widens weights that it should not hold expanded."""


def is_there() -> bool:
    """Whether the library is installed (extra `openvino`)."""
    return find_spec("openvino") is not None


def import_openvino() -> Any:
    """The library without its reports: when it is imported it tells its maker so, unless the package that does is gone.

    It has a stand-in of its own for that case.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault("openvino_telemetry", None)  # which means that it cannot be imported
    import openvino

    return openvino


class OpenVinoGraph:
    """Images in, unit rows out. Compiled when it is first used, and again in a process that was forked off.

    path: an ONNX graph, or one in OpenVINO's own form. model: a graph in memory instead, which `in_bfloat16` has been
    through; `path` then only names it. check: raises WeightsError for a file that is not what it should be.
    """

    def __init__(self, path: Path, model: Any = None, *, check: Callable[[Path], None] = lambda _: None) -> None:
        self.path, self.model, self.check = path, model, check
        self.compiled: Any = None
        self.process = 0

    def __call__(self, given: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.process != os.getpid():
            self.compiled, self.process = self._compile(), os.getpid()
        found: NDArray[np.float32] = self.compiled(given)[0]
        return np.array(found, np.float32)  # OpenVINO writes the next batch where this one lies

    def close(self) -> None:
        """Let go of its memory; it is compiled again when it is used."""
        self.compiled, self.process = None, 0

    def _compile(self) -> Any:
        self.check(self.path)
        openvino = import_openvino()
        try:
            core = openvino.Core()
            model = self.model
            if model is None:
                model = core.read_model(self.path)
                in_bfloat16(model, self.path.with_name(self.path.name + ".data"))
            return core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise WeightsError(
                f"{self.path}: OpenVINO cannot open it: {reason:.300}", "Give --precision fp32, or export again."
            ) from error


def in_bfloat16(model: Any, file: Path | None) -> None:
    """Replace the weights of an OpenVINO model by bfloat16, in place, and hold nothing of the file that they are in.

    file: where it is mapped from. Weights that are bfloat16 already are marked alone.
    """
    openvino = import_openvino()
    from openvino import opset13 as operations

    reading = ReadOnce(file)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        inputs = list(node.output(0).get_target_inputs())
        kind, shape = node.get_output_element_type(0), list(node.get_output_shape(0))
        users = {taker.get_node().get_type_name() for taker in inputs}
        weights = kind == openvino.Type.f32 and np.prod(shape) >= _LARGE and users <= _MULTIPLIES
        if weights and np.isfinite(node.get_data()).all():
            half = openvino.Tensor(openvino.Type.bf16, openvino.Shape(shape))
            half.data.view(np.uint16)[...] = rounded(node.get_data())
            wide = operations.convert(openvino.op.Constant(half), "f32")
            wide.get_rt_info()[_COMPRESSED] = True
            new = wide.output(0)
            reading(4 * half.size)
        elif kind == openvino.Type.bf16:
            for taker in inputs:
                taker.get_node().get_rt_info()[_COMPRESSED] = True
            continue
        elif kind in (openvino.Type.f32, openvino.Type.i64, openvino.Type.i32):
            new = openvino.op.Constant(node.get_data().copy()).output(0)
        else:
            continue
        for taker in inputs:
            taker.replace_source_output(new)
    del node, inputs
    gc.collect()  # what was replaced holds the mapped file
    reading.done()


def rounded(number_X: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 -> the bits of the nearest bfloat16, of two equally near ones the even one; for finite numbers."""
    bits = np.ascontiguousarray(number_X).view(np.uint32)
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    odd >>= np.uint32(16)
    return odd.astype(np.uint16)
