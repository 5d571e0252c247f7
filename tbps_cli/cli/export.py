"""`tbps export`: a run as ONNX graphs, safetensors or an open_clip folder, checked before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import Ckpt, DataRoot, Device, Json, Sets, Words


def command(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder to write.")],
    ckpt: Ckpt = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="NAME", help="onnx, safetensors or hub; repeatable. Default: onnx and safetensors."
        ),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="int8", help="int8: smaller, faster graphs.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option("--tolerance", metavar="X", help="Largest allowed difference of an entry of a unit row.", min=0),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    sets: Sets = None,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Write a model as files for other programs, after checking that they give the same answers."""
    from tbps_cli.cli import render, search_view
    from tbps_cli.errors import UsageError
    from tbps_cli.export.exporter import FORMATS, Format, check, export
    from tbps_cli.export.samples import samples
    from tbps_cli.files import check_new_folder
    from tbps_cli.models import open_model
    from tbps_cli.models.model import Model

    wanted: list[Format] = [name for name in FORMATS if name in (formats or ("onnx", "safetensors"))]
    unknown = [name for name in formats or () if name not in FORMATS]
    if unknown:
        raise UsageError(f"--format {unknown[0]}: must be one of {', '.join(FORMATS)}.")
    if quantize not in (None, "int8"):
        raise UsageError(f"--quantize {quantize}: must be int8.")
    check_new_folder("--out", out)
    model = open_model(ckpt, device=device, sets=sets or (), words=words)
    if not isinstance(model, Model):
        raise UsageError(f"--ckpt {model.path} is an export already.", "Give the run that it was made from.")
    check(model, wanted, quantize)
    examples = samples(model, data_root) if "onnx" in wanted else None
    with render.status(f"Exporting {model.path}") as step:
        agreement = export(
            model,
            out,
            formats=wanted,
            quantize="int8" if quantize else None,
            examples=examples,
            tolerance=tolerance,
            progress=step,
        )
    search_view.exported(out, agreement, as_json=as_json)
