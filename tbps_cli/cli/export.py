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
            "--format",
            metavar="NAME",
            help="onnx, safetensors or hub; repeatable. Default: onnx and safetensors; onnx alone with --quantize.",
        ),
    ] = None,
    quantize: Annotated[
        str | None, typer.Option("--quantize", metavar="int8", help="int8: graphs of a quarter of the size.")
    ] = None,
    fused: Annotated[
        bool,
        typer.Option(
            "--fused",
            help="Let the graph take images as they are, uint8 [B, H, W, 3] of any size: it resizes and normalises.",
        ),
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            metavar="X",
            help="Largest difference allowed between an exported and an original embedding, in any entry.",
            min=0,
        ),
    ] = None,
    max_drop: Annotated[
        float,
        typer.Option(
            "--max-drop",
            metavar="X",
            help="With --quantize: percentage points of R@1 or mAP that may be lost on the run's own test split.",
        ),
    ] = 1.0,
    force: Annotated[
        bool,
        typer.Option("--force", help="With --quantize: keep graphs that are slower than fp32 here, or lose more."),
    ] = False,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="OWNER/REPO",
            help="Then send the folder to this repository of the Hugging Face hub, which is made as a private one.",
        ),
    ] = None,
    public: Annotated[
        bool,
        typer.Option(
            "--public",
            help="With --push: everybody may fetch the weights. The terms of the training data must allow it.",
        ),
    ] = False,
    data_root: DataRoot = None,
    device: Device = "cpu",
    sets: Sets = None,
    words: Words = None,
    as_json: Json = False,
) -> None:
    """Write a model as files for other programs, after checking that they give the same embeddings.

    Nothing leaves this machine without --push.
    """
    from tbps_cli.cli import output, render, search_view
    from tbps_cli.errors import UsageError
    from tbps_cli.exporting.exporter import export
    from tbps_cli.exporting.push import Destination

    if public and not push:
        raise UsageError("--public needs --push OWNER/REPO.", "Nothing leaves this machine without it.")
    destination = Destination(push, public=public) if push is not None else None
    with render.status(f"Exporting to {out}") as step:
        agreement = export(
            ckpt,
            out,
            formats=formats,
            quantize=quantize,
            fused=fused,
            tolerance=tolerance,
            max_drop=max_drop,
            force=force,
            data_root=data_root,
            device=device,
            sets=sets or (),
            words=words,
            progress=step,
        )
        if destination:
            step(f"sending to {push}")
        pushed = destination.push(out) if destination else None
    output.stdout.written.append(str(out))
    search_view.exported(out, agreement, pushed, as_json=as_json)
