"""CLIP's golden folder: both towers and the contrastive loss, as IRRA's code runs the papers' baseline.

Weights and inputs are those of IRRA's folder beside it, unless the folder has its own.
"""

from __future__ import annotations

from parity import tools
from parity.check import Golden

from tbps_cli.methods.clip import PlainCLIP
from tbps_cli.types import Step, Task

TOWERS = "base_model."
"""What CLIP's names stand under in IRRA's weights."""


def check(golden: Golden) -> None:
    model = golden.config["model"]
    options = {"img_size": list(model["image_size"]), "temperature": model["temperature"]}
    given = golden if golden.weights else Golden(golden.folder.parent / "irra", golden.report)
    weights = {name.removeprefix(TOWERS): value for name, value in given.weights.items() if name.startswith(TOWERS)}
    weights = weights or given.weights
    config = PlainCLIP.recognise(tools.official_files(weights, options))
    assert config is not None, "the golden weights are not recognised as CLIP's"
    config = tools.with_heads(config.model_copy(update={"temperature": model["temperature"]}), model)
    method = tools.load(PlainCLIP, config, Task(tuple(model["image_size"])), weights)
    inputs, out = given.inputs, golden.outputs
    data = tools.batch(
        {"image": inputs["images"]}, {"text": inputs["caption_ids"]}, inputs["pids"], inputs["image_ids"]
    )
    features = method.features(data)
    image, text = method.encode_images(inputs["images"]), method.encode_texts(inputs["caption_ids"])
    out.check("image_features", features["image"])
    out.check("text_features", features["text"])
    out.check("image_features_norm", image)
    out.check("text_features_norm", text)
    out.check("similarity_t2i", text @ image.T)
    out.loss("loss.itc", tools.total(method(data, Step())))
