"""A folder that open_clip opens: `create_model_and_transforms("local-dir:FOLDER")`.

Only for methods whose inference is CLIP's two towers and nothing else; that is tried on numbers, not
taken from the method's word. open_clip runs any image shape, but no stride other than the patch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tbps_cli.errors import UsageError
from tbps_cli.models.run import OPEN_CLIP_WEIGHTS
from tbps_cli.weights.weights_file import write_safetensors

if TYPE_CHECKING:
    from tbps_cli.models.model import Model
    from tbps_cli.nn.sizes import Tower

CLOSE = 1e-5


def inference_state(model: Model) -> dict[str, torch.Tensor]:
    """The tensors that embeddings depend on; heads of training stay at home."""
    state, only = model.method.state_dict(), model.method.training_only
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items() if not name.startswith(only)}


def check(model: Model) -> None:
    """Raises UsageError for a model that open_clip could not run, or would run otherwise."""
    config = model.recipe.method
    if any(not name.startswith("clip.") for name in inference_state(model)) or not _is_plain(model):
        raise UsageError(
            f"--format hub: {model.name} is more than a CLIP model, open_clip could not run it.",
            "Use --format onnx or safetensors.",
        )
    stride = getattr(config, "stride", None)
    if stride not in (None, config.sizes.patch):
        raise UsageError(
            f"--format hub: the stride {stride} differs from the patch of {config.sizes.patch}, which open_clip "
            "cannot do.",
            "Use --format onnx or safetensors.",
        )


def _is_plain(model: Model) -> bool:
    """Whether the embeddings are those of the towers alone, on a noise image and a sentence."""
    from tbps_cli.losses.contrastive import unit
    from tbps_cli.nn.clip_features import image_feature, text_feature
    from tbps_cli.nn.clip_towers import Clip

    clip = getattr(model.method, "clip", None)
    if not isinstance(clip, Clip):
        return False
    noise = torch.randn(1, 3, *model.transform.size, generator=torch.Generator().manual_seed(0)).to(model.device)
    tokens = torch.from_numpy(model.tokenizer(["a man in a white shirt"])).to(model.device)
    with torch.inference_mode():
        image = unit(image_feature(clip, noise)) - model.method.encode_images(noise)
        text = unit(text_feature(clip, tokens)) - model.method.encode_texts(tokens)
    return float(image.abs().max()) < CLOSE and float(text.abs().max()) < CLOSE


def write(model: Model, folder: Path) -> None:
    """open_clip's two files."""
    state = {name.removeprefix("clip."): tensor for name, tensor in inference_state(model).items()}
    temperature = float(getattr(model.recipe.method, "temperature", 0.01))
    state["logit_scale"] = torch.tensor(math.log(1 / temperature))
    write_safetensors(folder / OPEN_CLIP_WEIGHTS, state, {"format": "pt"})
    text = json.dumps(_config(model, model.recipe.method.sizes), indent=2)
    (folder / "open_clip_config.json").write_text(text + "\n", "utf-8")


def _config(model: Model, sizes: Tower) -> dict[str, Any]:
    transform = model.transform
    return {
        "model_cfg": {
            "embed_dim": sizes.embed,
            "quick_gelu": sizes.activation == "quickgelu",
            "vision_cfg": {
                "image_size": list(transform.size),
                "layers": sizes.layers,
                "width": sizes.width,
                "patch_size": sizes.patch,
                # What open_clip divides by to get its heads; a ResNet's pool is 32 widths wide.
                "head_width": sizes.width * (32 if sizes.is_resnet else 1) // sizes.image_heads,
            },
            "text_cfg": {
                "context_length": sizes.context,
                "vocab_size": sizes.vocabulary,
                "width": sizes.text_width,
                "heads": sizes.text_tower_heads,
                "layers": sizes.text_layers,
            },
        },
        "preprocess_cfg": {
            "mean": list(transform.mean),
            "std": list(transform.std),
            "interpolation": transform.resample,
            "resize_mode": "squash",
        },
    }
