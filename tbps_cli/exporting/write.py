"""An export is written beside its place, compared with the model, and put there when both agree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.resources import files as resources
from pathlib import Path
from typing import Any

import torch

from tbps_cli import files
from tbps_cli.choices import KEY, LABELS, SELECTED_ON, Choices
from tbps_cli.errors import TbpsError
from tbps_cli.exporting import graphs, hub, int8_rules
from tbps_cli.exporting.agree import TOLERANCE, Agreement, Examples, compare, seconds
from tbps_cli.exporting.formats import Format, already_exported
from tbps_cli.exporting.fused import FusedAgreement, compare_fused, fuse
from tbps_cli.exporting.hub import inference_state
from tbps_cli.exporting.samples import samples
from tbps_cli.features.encoder import Encoder
from tbps_cli.models.export_files import FILES, described, sealed
from tbps_cli.models.exported import ExportedModel
from tbps_cli.models.manifest import MANIFEST
from tbps_cli.models.model import Model
from tbps_cli.models.run import EXPORTED_WEIGHTS, RECIPE, TOKENIZER
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.tokenizer_file import FILE as TOKENIZER_FILE
from tbps_cli.trust.calibration import calibration_of
from tbps_cli.trust.kept import FILE as CALIBRATION
from tbps_cli.weights.weights_file import write_safetensors

SCRIPT = "search.py"
"""Searches with the graphs beside it and without tbps."""
_GRAPHS = (graphs.IMAGE, f"{graphs.IMAGE}.data", graphs.TEXT, f"{graphs.TEXT}.data")
_ANSWERING = (*_GRAPHS, TOKENIZER_FILE, TOKENIZER, EXPORTED_WEIGHTS, RECIPE)
"""Files on which embeddings depend, whose hashes the description has."""


def write(
    model: Encoder,
    out: Path,
    *,
    formats: tuple[Format, ...],
    quantize: str | None,
    fused: bool,
    examples: Examples | None,
    tolerance: float | None,
    max_drop: float,
    force: bool,
    data_root: str | Path | None,
    progress: Callable[[str], None],
) -> Agreement | None:
    """Write a model in these formats, as `exporter.export` says."""
    if not isinstance(model, Model):
        raise already_exported(model.path)
    check(model, formats)
    allowed = TOLERANCE[quantize or "fp32"] if tolerance is None else tolerance
    facts = _facts(model, formats, quantize)
    calibration = None if quantize else calibration_of(model)  # quantized graphs score otherwise
    agreement = None
    with files.new_folder(out, f"--out {out}") as folder:
        _write_plain(model, folder, facts, progress)
        if "onnx" in formats:
            tried = examples or samples(model, data_root)
            agreement = _write_graphs(model, folder, facts, tried, allowed, progress, force=force)
            if not agreement.holds:
                raise _disagree(agreement, quantize)
            if quantize:
                progress("scores")
                small = ExportedModel(folder)
                apart = int8_rules.check_scores(model, small, data_root, max_drop=max_drop, force=force)
                facts |= {"scores": apart.document()} if apart else {}
                agreement = replace(agreement, speed=facts["speed"], scores=apart)
            if fused:
                progress("transform in the graph")
                agreement = replace(agreement, fused=_fuse(model, folder, facts, tried))
        facts[FILES] = described(folder, _ANSWERING)
        _write_manifest(folder, facts)
        if calibration is not None:
            (folder / CALIBRATION).write_text(calibration.model_dump_json() + "\n", "utf-8")
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


def check(model: Model, formats: Iterable[Format]) -> None:
    """Raises TbpsError for a model that cannot be exported, or not in one of these formats."""
    if model.batch_dependent:
        raise TbpsError(f"export: {model.batch_dependent}")
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
    *,
    force: bool,
) -> Agreement:
    """Both graphs, and how well they agree with the model; that goes into `facts` too."""
    if isinstance(model.tokenizer, Bpe):
        model.tokenizer.write_file(folder / TOKENIZER_FILE)
        script = resources("tbps_cli.exporting") / "beside" / SCRIPT
        (folder / SCRIPT).write_bytes(script.read_bytes())
    progress("graphs")
    tokens = torch.from_numpy(model.tokenizer(["a man in a white shirt", "a woman"]))
    image = torch.zeros(2, 3, *model.transform.size)
    any_length = isinstance(model.tokenizer, Bpe)
    graphs.write_graphs(model.method, folder, image, tokens, facts, any_length=any_length)
    if facts["precision"] == "int8":
        _write_manifest(folder, {**facts, "precision": "fp32"})
        before = seconds(ExportedModel(folder), examples)
        progress("int8")
        graphs.quantise(folder)
        _write_manifest(folder, facts)
        facts["speed"] = _speed(before, seconds(ExportedModel(folder), examples))
        int8_rules.check_speed(facts["speed"], force=force)
    _write_manifest(folder, facts)
    progress("comparison")
    agreement = compare(model, ExportedModel(folder), examples, tolerance=tolerance)
    facts["agreement"] = agreement.document()
    return agreement


def _fuse(model: Model, folder: Path, facts: dict[str, Any], examples: Examples) -> FusedAgreement:
    """Put the transform into the image graph. Raises TbpsError where that changes what comes out."""
    graph, one = folder / graphs.IMAGE, folder / f"fused-{graphs.IMAGE}"
    fuse(graph, one, model.transform)
    # int8 has a tolerance of its own, which has been looked at
    before = ExportedModel(folder) if facts["precision"] == "int8" else model
    found = compare_fused(before.encode_images, model.transform, one, examples.images)
    if not found.holds:
        raise TbpsError(
            f"export: with --fused, values differ by up to {found.pixel_difference:.1e} from the transform's and "
            f"embeddings by up to {found.image_difference:.1e}, but {found.tolerance:.0e} is allowed. "
            "Nothing was kept.",
            "Leave --fused out; and please report it with what tbps doctor prints.",
        )
    one.replace(graph)
    facts["fused"] = found.document()
    return found


def _speed(fp32: tuple[float, float], int8: tuple[float, float]) -> dict[str, float]:
    """How many times as fast as fp32 the int8 graphs are here."""
    return {what: round(one / other, 2) for what, one, other in zip(("images", "captions"), fp32, int8, strict=True)}


def _write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    (folder / MANIFEST).write_text(json.dumps(sealed(facts), indent=1, sort_keys=True) + "\n", "utf-8")


def _metadata(facts: dict[str, Any]) -> dict[str, str]:
    """The head of the weights file: everything as JSON, and what a run's weights say under its own key."""
    chosen = Choices.read(facts).facts()
    return {"tbps": json.dumps(facts, sort_keys=True), "format": "pt", "method": facts["method"], **chosen}


def _facts(model: Model, formats: tuple[Format, ...], quantize: str | None) -> dict[str, Any]:
    fingerprint = model.fingerprint if not quantize else f"{model.fingerprint}-{quantize}matmul"
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
        SELECTED_ON: model.selected_on,
        KEY: model.choices.document(),
        "tokenizer": model.tokenizer.describe(),
        "transform": model.transform.describe(),
    }


def _chosen(facts: dict[str, Any]) -> str:
    """What was chosen by scores on the way to these weights: part of the protocol of whatever they score."""
    made = Choices.read(facts).made
    unknown = [] if "epoch" in made else ["how the epoch was chosen is unknown"]
    return "; ".join([*(f"{LABELS[what]} {choice.words(facts['data'])}" for what, choice in made.items()), *unknown])


def _card(facts: dict[str, Any], agreement: Agreement | None) -> str:
    height, width = facts["image_size"]
    inside = ", which the graph applies" if "fused" in facts else ""
    # What the hub reads of a card. The terms are those of a data set, for which it has no word.
    head = [
        "license: other",
        "license_name: terms-of-the-training-data",
        "pipeline_tag: zero-shot-image-classification",
    ]
    library = ["library_name: open_clip"] if "hub" in facts["formats"] else []
    lines = [
        *["---", *head, *library, "tags:", "- text-based-person-search", "---", ""],
        f"# {facts['method']}, exported by tbps",
        "",
        f"Text-based person search: images ({height} x {width}, RGB) and sentences become unit vectors of "
        f"{facts['embed']} numbers; their dot product is the score.",
        "",
        f"- Trained on `{facts['data']}`; {_chosen(facts)}.",
        f"- Precision {facts['precision']}; fingerprint `{facts['fingerprint']}`.",
        f"- Transform{inside}: `{json.dumps(facts['transform'], sort_keys=True)}`.",
    ]
    if agreement:
        lines.append(
            f"- Checked on {agreement.images} images and {agreement.captions} captions ({agreement.source}): "
            f"largest difference {agreement.image_difference:.1e} (images), "
            f"{agreement.text_difference:.1e} (captions)."
        )
    if agreement and agreement.fused:
        lines.append(f"- {agreement.fused.sentence()}.")
    if agreement and agreement.scores:
        lines.append(f"- {agreement.scores.sentence()}.")
    if "speed" in facts:
        lines.append(
            f"- int8: {facts['speed']['images']:.1f} times as fast as fp32 for images and "
            f"{facts['speed']['captions']:.1f} times for captions on the machine that exported it. Give the graphs one "
            "image or caption at a time: activations are scaled by the largest of a batch, so embeddings would "
            "depend on the rest of it."
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
    if facts["tokenizer"]["kind"] == "bpe" and "onnx" in facts["formats"]:
        lines += [
            "Without tbps and PyTorch (`pip install numpy onnxruntime pillow tokenizers`); it keeps nothing between",
            "two searches, and does not repair broken encodings in sentences:",
            "",
            "```",
            f'python {SCRIPT} "a man in a white shirt" IMAGES',
            "```",
            "",
        ]
    return "\n".join(lines)
