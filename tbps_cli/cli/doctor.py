"""`tbps doctor`: what this machine offers, and what is missing for the rest."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from tbps_cli.amounts import amount
from tbps_cli.cli.options import DataRoot, Json
from tbps_cli.errors import LITE, LITE_EXTRAS, VIDEO_MODULES, UsageError, how_to_add, installed_as

EXTRAS = {
    "audit": ("imagehash",),
    "export": ("onnx", "onnxscript"),
    "fast": ("simplejpeg", "pyspng"),
    "heif": ("pillow_heif",),
    "milvus": ("pymilvus",),
    "openvino": ("openvino",),
    "parquet": ("pyarrow",),
    "postgres": ("psycopg", "pgvector"),
    "serve": ("fastapi", "uvicorn", "prometheus_client"),
    "tensorboard": ("tensorboard",),
    "training": ("numba",),
    "wandb": ("wandb",),
}
"""Optional parts and the packages that each needs, as in pyproject.toml."""

_PACKAGES = (
    "torch",
    "torchvision",
    "open_clip_torch",
    "numpy",
    "onnxruntime",
    "pillow",
    "h5py",
    "safetensors",
    "pydantic",
)


Clip = Annotated[
    Path | None,
    typer.Option(
        "--detector",
        metavar="CLIP",
        help="Instead: run the detector of persons over a video, and say how many it finds and how long it takes.",
    ),
]
TruthFile = Annotated[
    Path | None,
    typer.Option(
        "--truth",
        metavar="FILE",
        help="With --detector: who truly is where, as the drawn street's JSON or the MOTChallenge's gt.txt. Default: "
        "the one beside the clip.",
    ),
]
Use = Annotated[
    str | None,
    typer.Option(
        "--use", metavar="NAME-OR-FILE", help="With --detector: which detector. Default: the best one that is at hand."
    ),
]
Every = Annotated[
    str | None,
    typer.Option("--every", metavar="TIME", help="With --detector: how far apart the frames are. Default: 1s."),
]


def command(
    data_root: DataRoot = None,
    clip: Clip = None,
    truth: TruthFile = None,
    use: Use = None,
    every: Every = None,
    download: Annotated[bool, typer.Option("--download", help="With --use: fetch its weights.")] = False,
    as_json: Json = False,
) -> None:
    """Show what this machine offers: Python, packages, devices, extras, folders and free disk space."""
    from tbps_cli.cli import render

    given = {"--truth": truth, "--use": use, "--every": every, "--download": download or None}
    if clip is not None:
        _score(clip, truth, use, "1s" if every is None else every, download, as_json)
        return
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"{option} goes with --detector.", f"tbps doctor --detector CLIP {option} ...")
    found = report(data_root)
    if as_json:
        render.document(found)
        return
    render.facts(_readable(found))


def _score(clip: Path, truth: Path | None, use: str | None, every: str, download: bool, as_json: bool) -> None:
    """Run a detector over a clip and show how it did."""
    from tbps_cli.amounts import seconds
    from tbps_cli.cli import detector_view, render
    from tbps_cli.footage.detector import open_detector
    from tbps_cli.footage.frames import about
    from tbps_cli.footage.score import score_detector
    from tbps_cli.footage.truth import beside, read_truth

    interval = seconds("--every", every)
    video = about(clip)
    file = truth or beside(clip)
    known = None if file is None else read_truth(file, video.rate or 25.0)
    render.show_log()
    try:
        detector = open_detector(use, download=download)
    except UsageError as error:  # here --detector names the clip
        raise UsageError(error.message.replace("--detector", "--use"), error.hint) from None
    with render.progress(f"looking at {clip.name}") as tell:
        score = score_detector(
            detector,
            clip,
            known,
            every=interval,
            progress=lambda done, whole: tell(round(done), round(whole or 0)),
        )
    if as_json:
        render.document(score.document())
    else:
        detector_view.show(score, video)


def report(data_root: Path | None = None) -> dict[str, Any]:
    """The findings as JSON-able values; sizes in bytes."""
    from tbps_cli.cli.app import version
    from tbps_cli.places import cache_dir
    from tbps_cli.places import data_root as data_folder

    devices, trouble = _devices()
    return {
        "tbps": version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "torch_error": trouble,
        "devices": devices,
        "extras": {extra: all(find_spec(name) for name in names) for extra, names in _extras().items()},
        "data_root": _folder(data_folder(data_root)),
        "cache": _folder(cache_dir()),
        "runs": _folder(Path("runs")),
    }


def _extras() -> dict[str, tuple[str, ...]]:
    """The extras of what is installed: tbps-lite has fewer, and videos among them."""
    if installed_as() != LITE:
        return EXTRAS
    return {
        extra: names
        for extra, names in (EXTRAS | {"video": tuple(sorted(VIDEO_MODULES))}).items()
        if extra in LITE_EXTRAS
    }


def _lower(sentence: str) -> str:
    return sentence[0].lower() + sentence[1:]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[list[dict[str, object]], str | None]:
    """What models can run on, and why PyTorch cannot be used: None when it can."""
    from tbps_cli.machine import available_cpus

    devices: list[dict[str, object]] = [{"name": "cpu", "what": amount(available_cpus(), "processor")}]
    try:
        import torch

        torch.zeros(1)
        for number in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(number)
            devices.append({"name": f"cuda:{number}", "what": card.name, "memory": card.total_memory})
        if torch.backends.mps.is_available():
            devices.append({"name": "mps", "what": "Apple GPU"})
    except Exception as error:  # whatever a library raises that is half installed, or was built for another system
        return devices, str(error).strip().partition("\n")[0] or type(error).__name__
    return devices, None


def _folder(path: Path) -> dict[str, object]:
    """A folder, whether it is there, and the free bytes of its disk; None for both where that may not be asked."""
    try:
        full = path.resolve()
        standing = next(folder for folder in (full, *full.parents) if folder.exists())
        return {"path": str(full), "exists": full.exists(), "free": shutil.disk_usage(standing).free}
    except OSError:
        return {"path": str(path), "exists": None, "free": None}


def _readable(found: Mapping[str, Any]) -> dict[str, object]:
    """The findings as one line each."""
    from tbps_cli.cli.render import bytes_text

    lines: dict[str, object] = {
        "tbps": found["tbps"],
        "python": f"{found['python']} ({sys.executable})",
        "platform": found["platform"],
    }
    for name, number in found["packages"].items():
        lines[name] = number or "not installed"
    if found["torch_error"] and not (found["packages"]["torch"] is None and installed_as() == LITE):
        lines["torch"] = f"cannot be used ({found['torch_error']}); install it again, see pytorch.org/get-started"
    for device in found["devices"]:
        memory = f", {bytes_text(device['memory'])}" if "memory" in device else ""
        lines[f"device {device['name']}"] = f"{device['what']}{memory}"
    for extra, there in found["extras"].items():
        lines[f"extra {extra}"] = "installed" if there else f"not installed; {_lower(how_to_add(extra))}"
    for name, label in (("data_root", "data sets"), ("cache", "cache"), ("runs", "runs")):
        folder = found[name]
        state = {True: "", False: " (not there yet)", None: " (may not be read)"}[folder["exists"]]
        free = "" if folder["free"] is None else f", {bytes_text(folder['free'])} free"
        lines[label] = f"{folder['path']}{state}{free}"
    return lines
