"""What a model of open_clip is built of: the JSON that the library ships for each name, or that lies beside weights.

Only towers that `nn` has are taken: CLIP's vision transformers and ResNets with CLIP's own text transformer. Anything
else (SigLIP, EVA, CoCa, other text towers) has names and shapes that look alike in part, so that it is told from the
configuration, in one line, before anything is fetched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tbps_cli.augment.transform import CLIP_MEAN, CLIP_STD, Triple
from tbps_cli.errors import WeightsError
from tbps_cli.nn.sizes import TOWERS, Tower, spelled

CONFIG = "open_clip_config.json"
QUICK = "-quickgelu"
_VISION = {"image_size", "layers", "width", "patch_size", "head_width"}
_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}
_MODEL = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
_LIMIT = 1 << 20


@dataclass(frozen=True)
class Architecture:
    """Towers and preparation of images, as a configuration of open_clip states them."""

    tower: Tower
    image_size: tuple[int, int]
    """Height and width in pixels."""
    mean: Triple = CLIP_MEAN
    std: Triple = CLIP_STD


def architecture(name: str) -> Architecture:
    """The towers of a name of open_clip's, such as `ViT-B-16` or `ViT-B-32-quickgelu`.

    Raises WeightsError for towers that are unknown, or that tbps cannot build.
    """
    folder = _folder()
    path = folder / f"{spelled_as_file(name)}.json"
    if not path.is_file():
        near = get_close_matches(name, [file.stem for file in folder.glob("*.json")], n=1)
        raise WeightsError(
            f"open_clip has no model {name}.", f"Did you mean {near[0]}?" if near else "See open_clip's catalogue."
        )
    return of_model(_read(path), name)


def spelled_as_file(name: str) -> str:
    """A tower's name as open_clip's files spell it: `ViT-B/16` is `ViT-B-16`."""
    plain = spelled(name.removesuffix(QUICK))
    return plain + QUICK if name.endswith(QUICK) else plain


def architecture_beside(weights: Path) -> Architecture | None:
    """What the configuration beside weights that open_clip wrote says; None where there is none, or they are others."""
    path = weights.parent / CONFIG
    if not weights.name.startswith("open_clip_") or not path.is_file():
        return None
    return of_document(_read(path), str(path))


def of_document(document: Mapping[str, Any], name: str) -> Architecture:
    """What a whole `open_clip_config.json` says. name: for messages."""
    model, preparation = document.get("model_cfg"), document.get("preprocess_cfg")
    if not isinstance(model, dict):
        raise WeightsError(f"{name} states no model (model_cfg).", "It should be the file that open_clip wrote.")
    colours = preparation if isinstance(preparation, dict) else {}
    return of_model(model, name, _triple(colours.get("mean"), CLIP_MEAN), _triple(colours.get("std"), CLIP_STD))


def of_model(model: Mapping[str, Any], name: str, mean: Triple = CLIP_MEAN, std: Triple = CLIP_STD) -> Architecture:
    """What `model_cfg` says. name: for messages. Raises WeightsError for towers that tbps cannot build."""
    vision, text = model.get("vision_cfg"), model.get("text_cfg")
    if not isinstance(vision, dict) or not isinstance(text, dict):
        raise WeightsError(f"{name} states no vision_cfg or no text_cfg.", "It should be a configuration of open_clip.")
    strange = [f"vision_cfg.{key}" for key in _set(vision) - _VISION]
    strange += [f"text_cfg.{key}" for key in _set(text) - _TEXT] + sorted(_set(model) - _MODEL)
    if strange:
        raise WeightsError(
            f"{name}: tbps cannot build these towers ({', '.join(sorted(strange)[:3])}).",
            f"It has CLIP's own: {', '.join(TOWERS)}, and others of their kind.",
        )
    try:
        size = vision["image_size"]
        height, width = size if isinstance(size, list) else (size, size)
        tower = _tower(model, vision, text)
        return Architecture(tower, (int(height), int(width)), mean, std)
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:  # pydantic's are ValueErrors
        reason = " ".join(str(error).split())
        raise WeightsError(f"{name} is not a configuration of CLIP's towers ({reason:.80}).") from None


def _tower(model: Mapping[str, Any], vision: Mapping[str, Any], text: Mapping[str, Any]) -> Tower:
    layers, patch = vision["layers"], vision.get("patch_size")
    pooled = vision["width"] * (32 if isinstance(layers, list) else 1)
    return Tower(
        width=vision["width"],
        layers=(layers[0], layers[1], layers[2], layers[3]) if isinstance(layers, list) else layers,
        patch=patch,
        embed=model["embed_dim"],
        text_width=text["width"],
        text_layers=text["layers"],
        heads=pooled // vision.get("head_width", 64),
        text_heads=text["heads"],
        context=text.get("context_length", 77),
        vocabulary=text.get("vocab_size", 49408),
        activation="quickgelu" if model.get("quick_gelu") is True else "gelu",
    )


def _set(section: Mapping[str, Any]) -> set[str]:
    """The keys that say something."""
    return {key for key, value in section.items() if value not in (None, False)}


def _triple(value: object, otherwise: Triple) -> Triple:
    if not isinstance(value, list | tuple) or len(value) != 3:
        return otherwise
    red, green, blue = (float(number) for number in value)
    return red, green, blue


def _folder() -> Path:
    spec = find_spec("open_clip")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if not folders:
        raise WeightsError("open_clip's models are missing.", "Type: pip install open_clip_torch")
    return Path(folders[0]) / "model_configs"


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LIMIT:
            raise ValueError("it is too large")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        hint = "Copy it again from where the weights are."
        raise WeightsError(f"{path} cannot be read ({error!s:.80}).", hint) from None
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is not a table.", "Copy it again from where the weights are.")
    return found
