"""`tbps export`: a run as ONNX graphs, safetensors or an open_clip folder, checked before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tbps_cli.cli.options import Ckpt, DataRoot, Device, Json, Sets, Words


def command(
    out: Annotated[Path, typer.Option("--out", help="New folder to write.")],
    ckpt: Ckpt = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", help="onnx, safetensors or hub; repeatable. Default: onnx and safetensors."),
    ] = None,
    quantize: Annotated[str | None, typer.Option("--quantize", help="int8: smaller, faster graphs.")] = None,
    tolerance: Annotated[
        float | None, typer.Option("--tolerance", help="Largest difference of an entry of a unit row.", min=0)
    ] = None,
    data_root: DataRoot = None,
    device: Device = "cpu",
    sets: Sets = None,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Write a model as files for other programs, after checking that they give the same answers."""
    from tbps_cli.cli import render
    from tbps_cli.errors import UsageError
    from tbps_cli.export.folder import FORMATS, export
    from tbps_cli.export.samples import samples
    from tbps_cli.models import open_model

    wanted = formats or ["onnx", "safetensors"]
    for name in wanted:
        if name not in FORMATS:
            raise UsageError(f"--format {name}: must be one of {', '.join(FORMATS)}.")
    if quantize not in (None, "int8"):
        raise UsageError(f"--quantize {quantize}: must be int8.")
    model = open_model(ckpt, device=device, sets=sets or (), words=words)
    pictures, captions, source = samples(model, data_root)
    with render.status(f"Exporting {model.path}") as step:
        agreement = export(
            model,
            out,
            formats=wanted,  # type: ignore[arg-type]  # checked above
            quantize=quantize,  # type: ignore[arg-type]
            images=pictures,
            captions=captions,
            source=source,
            tolerance=tolerance,
            progress=step,
        )
    render.exported(out, agreement, as_json=as_json)
