"""`tbps export`: a model as files that other programs read, kept only when they agree with it.

onnx: two graphs, image and text (`exporting/graphs.py`). safetensors: the weights under our names
with the resolved recipe. hub: a folder that open_clip opens (methods whose inference is plain
CLIP). What is asked for is checked here, before torch is imported; `exporting/write.py` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tbps_cli import files
from tbps_cli.errors import MissingExtra, UsageError
from tbps_cli.exporting.agree import Agreement, Examples
from tbps_cli.exporting.formats import already_exported, known_formats
from tbps_cli.models.checkpoint import Checkpoint, find, open_encoder
from tbps_cli.models.onnx_graph import check_name, import_onnxruntime

if TYPE_CHECKING:
    from tbps_cli.models.model import Model


def export(
    checkpoint: Model | Checkpoint | str | Path | None,
    out: str | Path,
    *,
    formats: Sequence[str] | None = None,
    quantize: str | None = None,
    fused: bool = False,
    examples: Examples | None = None,
    tolerance: float | None = None,
    max_drop: float = 1.0,
    force: bool = False,
    data_root: str | Path | None = None,
    device: str = "cpu",
    sets: Sequence[str] = (),
    words: str | Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Agreement | None:
    """Write a model into the new folder `out`; returns how well the graphs agree (None without onnx).

    checkpoint: an open model, or what `models.open_model` opens (then device, sets and words count).
    formats: of `formats.FORMATS`; default onnx and safetensors, with `quantize` onnx alone (the weights are fp32).
    quantize: None or "int8".
    fused: let the image graph take uint8 images of any size, [B, H, W, 3]; kept only where what it makes of them is
        within `fused.TOLERANCE` of the transform.
    examples: what both forms are run on; left out, `samples.samples` finds some, looking below `data_root`.
    tolerance: largest |difference| of an entry of a unit row; default `agree.TOLERANCE`.
    max_drop: percentage points of R@1 or mAP that int8 may lose on the test split of the model's own data set.
    force: keep int8 graphs that are slower than fp32 here, or lose more.
    progress: called with the name of each step.
    Raises TbpsError, and leaves nothing, when `out` exists, a format does not suit the method, the
    embeddings depend on the rest of the batch, or the difference is above the tolerance.
    """
    wanted = known_formats(formats or (("onnx",) if quantize else ("onnx", "safetensors")), quantize, fused=fused)
    out = Path(out)
    if tolerance is not None and not 0 <= tolerance <= 2:
        raise UsageError(f"--tolerance {tolerance}: must be from 0 to 2.", "Entries of embeddings are from -1 to 1.")
    if not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop {max_drop:g}: must be from 0 to 100.", "Percentage points of R@1 or mAP.")
    files.check_new_folder("--out", out)
    if "onnx" in wanted:
        _check_packages()
    check_name(out, "--out ")
    owner = find(checkpoint, sets)
    if isinstance(owner, Checkpoint) and owner.kind == "exported":
        raise already_exported(owner.path)
    model = open_encoder(owner, device=device, words=words, data_root=data_root)
    from tbps_cli.exporting.write import write  # and with it torch

    return write(
        model,
        out,
        formats=wanted,
        quantize=quantize,
        fused=fused,
        examples=examples,
        tolerance=tolerance,
        max_drop=max_drop,
        force=force,
        data_root=data_root,
        progress=progress,
    )


def _check_packages() -> None:
    """What writes and tries graphs, looked for before the work. Raises MissingExtra, or WeightsError for an old one."""
    for name in ("onnx", "onnxscript"):
        if find_spec(name) is None:
            raise MissingExtra(name, "export", "tbps export --format onnx")
    import_onnxruntime("tbps export --format onnx")
