"""`tbps export`: a model as files that other programs read, kept only when they agree with it.

onnx: two graphs, image and text (`export/graphs.py`). safetensors: the weights under our names
with the resolved recipe. hub: a folder that open_clip opens (methods whose inference is plain
CLIP). Everything is written beside the target first and renamed into place when the check holds.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.export.agree import TOLERANCE, Agreement, compare
from tbps_cli.models.exported import MANIFEST, ExportedModel
from tbps_cli.weights.files import write_safetensors

if TYPE_CHECKING:
    from PIL import Image

    from tbps_cli.models.model import Model

Format = Literal["onnx", "safetensors", "hub"]
FORMATS: tuple[Format, ...] = ("onnx", "safetensors", "hub")
logger = logging.getLogger("tbps")


def export(
    model: Model,
    out: Path,
    *,
    formats: Iterable[Format] = ("onnx", "safetensors"),
    quantize: Literal["int8"] | None = None,
    images: Sequence[str | Path | Image.Image],
    captions: Sequence[str],
    source: str = "given pictures",
    tolerance: float | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Agreement | None:
    """Write `model` into the new folder `out`; returns how well the graphs agree (None without onnx).

    images, captions: what both forms are run on; source says where they came from.
    tolerance: largest |difference| of an entry of a unit row; default `agree.TOLERANCE`.
    Raises TbpsError, and leaves nothing, when `out` exists, a format does not suit the method, the
    embeddings depend on batch companions, or the difference is above the tolerance.
    """
    wanted = tuple(dict.fromkeys(formats))
    _refuse(model, out, wanted, quantize)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise TbpsError(f"{out}: cannot be written ({error.strerror}).", "Choose another --out.") from error
    try:
        agreement = _write(model, folder, wanted, quantize, images, captions, source, tolerance, progress)
        if agreement is not None and not agreement.holds:
            raise TbpsError(
                f"export: the graphs differ from the model by {agreement.image_difference:.2e} (pictures) and "
                f"{agreement.text_difference:.2e} (captions); {agreement.tolerance:.0e} is allowed. Nothing was kept.",
                "Please report this with the output of `tbps doctor`.",
            )
        folder.chmod(0o755)
        folder.rename(out)
    except OSError as error:
        raise TbpsError(f"{out}: cannot be written ({error.strerror}).", "Is the disk full?") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return agreement


def _refuse(model: Model, out: Path, formats: tuple[Format, ...], quantize: str | None) -> None:
    if model.method is None:
        raise UsageError(f"--ckpt {model.path}: this is an export already.", "Give the run it was made from.")
    if model.batch_dependent:
        raise TbpsError(f"export: {model.batch_dependent}")
    if quantize and "onnx" not in formats:
        raise UsageError("--quantize int8 needs --format onnx.", "Quantisation changes the graphs only.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"--out {out}: exists already.", "Choose a new folder.")
    if out.exists():
        out.rmdir()


def _write(
    model: Model,
    folder: Path,
    formats: tuple[Format, ...],
    quantize: str | None,
    images: Sequence[str | Path | Image.Image],
    captions: Sequence[str],
    source: str,
    tolerance: float | None,
    progress: Callable[[str], None],
) -> Agreement | None:
    from tbps_cli.export import graphs
    from tbps_cli.recipe.save import dump

    assert model.method is not None and model.recipe is not None
    facts = _facts(model, formats, quantize)
    (folder / "recipe.toml").write_text(dump(model.recipe), "utf-8")
    if "safetensors" in formats:
        progress("weights")
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.method.state_dict().items()}
        write_safetensors(folder / "model.safetensors", state, {"tbps": json.dumps(facts, sort_keys=True)})
    if "hub" in formats:
        progress("hub folder")
        _write_hub(model, folder)
    agreement = None
    if "onnx" in formats:
        progress("graphs")
        example = torch.zeros(2, 3, *model.transform.size)
        tokens = torch.from_numpy(model.tokenizer(["a man in a white shirt", "a woman with a red bag"]))
        graphs.write_graphs(model.method, folder, example, tokens, facts)
        if quantize:
            progress("int8")
            graphs.quantise(folder)
        (folder / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")
        progress("comparison")
        allowed = TOLERANCE[quantize or "fp32"] if tolerance is None else tolerance
        agreement = compare(model, ExportedModel(folder), images, captions, tolerance=allowed, source=source)
        facts["agreement"] = agreement.document()
    (folder / MANIFEST).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")
    (folder / "README.md").write_text(_card(facts, agreement), "utf-8")
    return agreement


def _facts(model: Model, formats: tuple[Format, ...], quantize: str | None) -> dict[str, Any]:
    assert model.recipe is not None
    fingerprint = model.fingerprint if not quantize else f"{model.fingerprint}-{quantize}"
    return {
        "method": model.name,
        "data": model.recipe.data.name,
        "embed": model.embed,
        "fingerprint": fingerprint,
        "formats": list(formats),
        "image_size": list(model.transform.size),
        "precision": quantize or "fp32",
        "selected_on": model.selected_on,
        "tokenizer": model.tokenizer.describe(),
        "transform": model.transform.describe(),
    }


def _write_hub(model: Model, folder: Path) -> None:
    """open_clip's two files. Raises UsageError for a method whose inference is more than CLIP."""
    from tbps_cli.nn.clip import Clip

    method = model.method
    assert method is not None
    clip = getattr(method, "clip", None)
    beyond = [
        name
        for name, _ in method.named_parameters()
        if not name.startswith("clip.") and not name.startswith(method.training_only)
    ]
    if not isinstance(clip, Clip) or beyond:
        raise UsageError(
            f"--format hub: {model.name} is more than a CLIP model, open_clip could not run it.",
            "Use --format onnx or safetensors.",
        )
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.state_dict().items()}
    temperature = float(getattr(model.recipe.method, "temperature", 0.01)) if model.recipe else 0.01
    state["logit_scale"] = torch.tensor(math.log(1 / temperature))
    write_safetensors(folder / "open_clip_model.safetensors", state, {"format": "pt"})
    (folder / "open_clip_config.json").write_text(json.dumps(_hub_config(model, clip.sizes), indent=2) + "\n", "utf-8")


def _hub_config(model: Model, sizes: Any) -> dict[str, Any]:
    transform = model.transform
    vision = {"image_size": list(transform.size), "layers": sizes.layers, "width": sizes.width}
    if sizes.is_resnet:
        vision["heads"] = sizes.image_heads
    else:
        vision |= {"patch_size": sizes.patch, "head_width": sizes.width // sizes.image_heads}
    text = {
        "context_length": sizes.context,
        "vocab_size": sizes.vocabulary,
        "width": sizes.text_width,
        "heads": sizes.words_heads,
        "layers": sizes.text_layers,
    }
    return {
        "model_cfg": {
            "embed_dim": sizes.embed,
            "quick_gelu": sizes.activation == "quickgelu",
            "vision_cfg": vision,
            "text_cfg": text,
        },
        "preprocess_cfg": {
            "mean": list(transform.mean),
            "std": list(transform.std),
            "interpolation": transform.resample,
            "resize_mode": "squash",
        },
    }


def _card(facts: dict[str, Any], agreement: Agreement | None) -> str:
    height, width = facts["image_size"]
    lines = [
        f"# {facts['method']}, exported by tbps",
        "",
        f"Text-based person search: pictures ({height} x {width}, RGB) and sentences become unit vectors of "
        f"{facts['embed']} numbers; their dot product is the score.",
        "",
        f"- Trained on `{facts['data']}`; best epoch selected on: {facts['selected_on'] or 'unknown'}.",
        f"- Precision {facts['precision']}; fingerprint `{facts['fingerprint']}`.",
        f"- Transform: `{json.dumps(facts['transform'], sort_keys=True)}`.",
    ]
    if agreement:
        lines.append(
            f"- Checked on {agreement.images} pictures and {agreement.captions} captions ({agreement.source}): "
            f"largest difference {agreement.image_difference:.1e} (pictures), "
            f"{agreement.text_difference:.1e} (captions)."
        )
    lines += [
        "",
        "The terms of the training data bind whoever uses these weights: most person data sets allow research only.",
        "A hit is a ranking, never an identification; a person must review every result.",
        "",
        "```",
        'tbps search "a man in a white shirt" --ckpt THIS-FOLDER --in PICTURES',
        "```",
        "",
    ]
    return "\n".join(lines)
