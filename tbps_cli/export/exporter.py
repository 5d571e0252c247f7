"""`tbps export`: a model as files that other programs read, kept only when they agree with it.

onnx: two graphs, image and text (`export/graphs.py`). safetensors: the weights under our names
with the resolved recipe. hub: a folder that open_clip opens (methods whose inference is plain
CLIP). Everything is written beside the target first and renamed into place when the check holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tbps_cli import files
from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.export import hub
from tbps_cli.export.agree import TOLERANCE, Agreement, Examples, compare
from tbps_cli.export.hub import inference_state
from tbps_cli.export.samples import samples
from tbps_cli.models.exported import MANIFEST, ExportedModel
from tbps_cli.models.run import EXPORTED_WEIGHTS, RECIPE, TOKENIZER
from tbps_cli.weights.files import write_safetensors

if TYPE_CHECKING:
    from tbps_cli.models.model import Model

Format = Literal["onnx", "safetensors", "hub"]
FORMATS: tuple[Format, ...] = ("onnx", "safetensors", "hub")


def export(
    model: Model,
    out: Path,
    *,
    formats: Iterable[Format] = ("onnx", "safetensors"),
    quantize: Literal["int8"] | None = None,
    examples: Examples | None = None,
    tolerance: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Agreement | None:
    """Write `model` into the new folder `out`; returns how well the graphs agree (None without onnx).

    examples: what both forms are run on; left out, `samples.samples` finds some.
    tolerance: largest |difference| of an entry of a unit row; default `agree.TOLERANCE`.
    Raises TbpsError, and leaves nothing, when `out` exists, a format does not suit the method, the
    embeddings depend on batch companions, or the difference is above the tolerance.
    """
    wanted = tuple(dict.fromkeys(formats))
    files.check_new_folder("--out", out)
    check(model, wanted, quantize)
    allowed = TOLERANCE[quantize or "fp32"] if tolerance is None else tolerance
    facts = _facts(model, wanted, quantize)
    agreement = None
    with files.new_folder(out, f"--out {out}") as folder:
        _write_plain(model, folder, facts, progress)
        if "onnx" in wanted:
            agreement = _write_graphs(model, folder, facts, examples or samples(model), allowed, progress)
            if not agreement.holds:
                raise _disagree(agreement, quantize)
        _write_manifest(folder, facts)
        (folder / "README.md").write_text(_card(facts, agreement), "utf-8")
        _share(folder)
    return agreement


def _share(folder: Path) -> None:
    """Weights are written for their owner alone; an export is for whoever may read its recipe."""
    mode = (folder / RECIPE).stat().st_mode
    for path in folder.iterdir():
        path.chmod(mode)


def _disagree(agreement: Agreement, quantize: str | None) -> TbpsError:
    hint = "Without --quantize the graphs are exact." if quantize else "Please report it with what tbps doctor prints."
    return TbpsError(
        f"export: the graphs differ from the model by up to {agreement.image_difference:.1e} (images) and "
        f"{agreement.text_difference:.1e} (captions), but {agreement.tolerance:.1e} is allowed. Nothing was kept.",
        hint,
    )


def check(model: Model, formats: Iterable[Format], quantize: str | None = None) -> None:
    """Raises TbpsError for a model or a combination of formats that cannot be exported."""
    if model.batch_dependent:
        raise TbpsError(f"export: {model.batch_dependent}")
    if quantize and "onnx" not in formats:
        raise UsageError("--quantize int8 needs --format onnx.", "Quantisation changes the graphs only.")
    if "hub" in formats:
        hub.check(model)


def _write_plain(model: Model, folder: Path, facts: dict[str, Any], progress: Callable[[str], None]) -> None:
    """The recipe, the tokenizer's own words, and the formats that are weights alone."""
    from tbps_cli.recipe.save import dump

    (folder / RECIPE).write_text(dump(model.recipe), "utf-8")
    if facts["tokenizer"]["kind"] != "bpe":
        (folder / TOKENIZER).write_text(json.dumps(facts["tokenizer"]) + "\n", "utf-8")
    if "safetensors" in facts["formats"]:
        progress("weights")
        write_safetensors(folder / EXPORTED_WEIGHTS, inference_state(model), _metadata(facts))
    if "hub" in facts["formats"]:
        progress("hub folder")
        hub.write(model, folder)


def _write_graphs(
    model: Model,
    folder: Path,
    facts: dict[str, Any],
    examples: Examples,
    tolerance: float,
    progress: Callable[[str], None],
) -> Agreement:
    """Both graphs, and how well they agree with the model; that goes into `facts` too."""
    from tbps_cli.export import graphs

    progress("graphs")
    tokens = torch.from_numpy(model.tokenizer(["a man in a white shirt", "a woman"]))
    graphs.write_graphs(model.method, folder, torch.zeros(2, 3, *model.transform.size), tokens, facts)
    if facts["precision"] == "int8":
        progress("int8")
        graphs.quantise(folder)
    _write_manifest(folder, facts)
    progress("comparison")
    agreement = compare(model, ExportedModel(folder), examples, tolerance=tolerance)
    facts["agreement"] = agreement.document()
    return agreement


def _write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")


def _metadata(facts: dict[str, Any]) -> dict[str, str]:
    """The head of the weights file: everything as JSON, and what a run's weights say under its own key."""
    plain = {key: str(facts[key]) for key in ("method", "selected_on") if facts[key] is not None}
    return {"tbps": json.dumps(facts, sort_keys=True), "format": "pt", **plain}


def _facts(model: Model, formats: tuple[Format, ...], quantize: str | None) -> dict[str, Any]:
    fingerprint = model.fingerprint if not quantize else f"{model.fingerprint}-{quantize}"
    return {
        "method": model.name,
        "data": model.recipe.data.name,
        "embed": model.embed,
        "fingerprint": fingerprint,
        "formats": list(formats),
        "image_size": list(model.transform.size),
        "precision": quantize or "fp32",
        "long_captions": "chunk" if model.pieces else "cut",
        "places_taken": model.places_taken,
        "selected_on": model.selected_on,
        "tokenizer": model.tokenizer.describe(),
        "transform": model.transform.describe(),
    }


def _card(facts: dict[str, Any], agreement: Agreement | None) -> str:
    height, width = facts["image_size"]
    lines = [
        f"# {facts['method']}, exported by tbps",
        "",
        f"Text-based person search: images ({height} x {width}, RGB) and sentences become unit vectors of "
        f"{facts['embed']} numbers; their dot product is the score.",
        "",
        f"- Trained on `{facts['data']}`; best epoch selected on: {facts['selected_on'] or 'unknown'}.",
        f"- Precision {facts['precision']}; fingerprint `{facts['fingerprint']}`.",
        f"- Transform: `{json.dumps(facts['transform'], sort_keys=True)}`.",
    ]
    if agreement:
        lines.append(
            f"- Checked on {agreement.images} images and {agreement.captions} captions ({agreement.source}): "
            f"largest difference {agreement.image_difference:.1e} (images), "
            f"{agreement.text_difference:.1e} (captions)."
        )
    lines += [
        "",
        "The terms of the training data bind whoever uses these weights: most person data sets allow research only.",
        "A hit is a ranking, never an identification; a person must review every result.",
        "",
        "```",
        'tbps search "a man in a white shirt" --ckpt THIS-FOLDER --in IMAGES',
        "```",
        "",
    ]
    return "\n".join(lines)
