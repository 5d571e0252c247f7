"""A graph run by OpenVINO in bfloat16: twice as fast as onnxruntime in float32 where the processor has it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import WeightsError


def import_openvino() -> Any:
    """The library without its reports: when it is imported it tells its maker so, unless the package that does is gone.

    It has a stand-in of its own for that case.
    """
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    modules.setdefault("openvino_telemetry", None)  # which means that it cannot be imported
    import openvino

    return openvino


class OpenVinoGraph:
    """Images in, unit rows out. Compiled when it is first used, and again in a process that was forked off."""

    def __init__(self, path: Path, *, check: Callable[[Path], None] = lambda _: None) -> None:
        self.path, self.check = path, check
        self.compiled: Any = None
        self.process = 0

    def __call__(self, given: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.process != os.getpid():
            self.compiled, self.process = self._compile(), os.getpid()
        found: NDArray[np.float32] = self.compiled(given)[0]
        return np.array(found, np.float32)  # OpenVINO writes the next batch where this one lies

    def _compile(self) -> Any:
        self.check(self.path)
        openvino = import_openvino()
        try:
            core = openvino.Core()
            return core.compile_model(core.read_model(self.path), "CPU", {"INFERENCE_PRECISION_HINT": "bf16"})
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise WeightsError(
                f"{self.path}: OpenVINO cannot open it: {reason:.300}", "Give --precision fp32, or export again."
            ) from error
