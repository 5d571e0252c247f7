"""What `tbps export` can be asked for, and what it refuses before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tbps_cli.errors import UsageError

Format = Literal["onnx", "safetensors", "hub"]
FORMATS: tuple[Format, ...] = ("onnx", "safetensors", "hub")


def known_formats(formats: Sequence[str], quantize: str | None, *, fused: bool = False) -> tuple[Format, ...]:
    """The formats in their usual order. Raises UsageError for one that is not known."""
    for name in formats:
        if name not in FORMATS:
            raise UsageError(f"--format {name}: must be one of {', '.join(FORMATS)}.")
    if quantize not in (None, "int8"):
        raise UsageError(f"--quantize {quantize}: must be int8.")
    if quantize and "onnx" not in formats:
        raise UsageError("--quantize int8 needs --format onnx.", "Quantisation changes the graphs only.")
    if fused and "onnx" not in formats:
        raise UsageError("--fused needs --format onnx.", "It changes the graph of images only.")
    return tuple(name for name in FORMATS if name in formats)


def already_exported(folder: Path) -> UsageError:
    """The mistake of exporting an export."""
    return UsageError(f"{folder} is an export already.", "Give the run that it was made from.")
