"""TextReID's golden folders: both heads, two training steps with keys and queues, words, schedules, sampler, ranks.

Word vectors are an input (`vocab_table`) or, where they are trained, among the weights; the image tower is CLIP's or
an ImageNet ResNet.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from parity import tools
from parity.check import TOLERANCE, Figures, Golden
from torch import Tensor

from tbps_cli.data.open import open_dataset
from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.loading import samplers
from tbps_cli.losses.queue import queue_scores, usable_negatives
from tbps_cli.methods._textreid_config import TextReidConfig
from tbps_cli.methods.textreid import TextReID
from tbps_cli.nn.momentum import MomentumHead
from tbps_cli.nn.position import resize_grid
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.retrieval.metrics import details
from tbps_cli.retrieval.rerank import NeighbourBonus
from tbps_cli.text.words import Words, build_vocabulary, pair_vocabulary, split_words
from tbps_cli.types import Batch, Step, Task

LOSSES = {"identity": "instance_loss", "align": "global_align_loss", "contrast": "infonce_loss"}
"""Our names of the losses -> the golden ones."""
CONSTANTS = ("temperature", "label_smoothing", "alpha", "beta", "scale_pos", "scale_neg")
EVAL = 1e-5
FIRST, LATER = 5e-5, 5e-4
"""Absolute, for losses of 20 to 55: of the first step, and of those after Adam has taken one."""
GRADIENT = 1e-4
"""Relative to the largest entry: float32 differs from float64 by 3e-4 on values up to 30."""
IDLE = "attnpool.k_proj.bias"
"""Its true gradient is 0 (a softmax does not see a constant): Adam makes full steps of rounding noise."""
RANK = 1e-3
"""Percent: the published figures are float32."""


def check(golden: Golden) -> None:
    if golden.config.get("set") == "metrics":
        _metrics(golden)
        return
    config = _config(golden)
    task = Task(_size(golden), golden.config["head"]["num_classes"])
    weights = dict(golden.weights)
    if config.word_vectors == "table":
        weights["word_table"] = golden.inputs["vocab_table"]
    method = tools.load(TextReID, config, task, weights)
    always = tools.load(TextReID, config.model_copy(update={"zero_floor": "always"}), task, weights)
    _eval(golden, method.eval(), always.eval())
    _activations(golden, method)
    _steps(golden, method)
    if golden.has("tokens.json"):
        _words(golden.file("tokens.json"))
    if golden.has("extra/extra.json"):
        _extra(golden)


def _config(golden: Golden) -> TextReidConfig:
    """What `recognise` reads from the weights and the YAML of a run, and what neither says."""
    visual, head = golden.config["visual"], golden.config["head"]
    height, width = _size(golden)
    options = {
        "INPUT": {"HEIGHT": height, "WIDTH": width},
        "MODEL": {
            "RESNET": {"RES5_STRIDE": visual.get("last_stride", 1)},
            "EMBEDDING": {"EPSILON": head["label_smoothing"]},
            "MOCO": {"M": head.get("momentum")},
        },
    }
    config = TextReID.recognise(tools.official_files(golden.weights, options))
    assert config is not None, "the golden weights are not recognised as TextReID's"
    table = golden.inputs.get("vocab_table")
    told = {
        "pool_heads": visual["heads"] if config.image_network == "clip" else None,
        "vocabulary": config.vocabulary if table is None else len(table) - 1,
        "zero_floor": "batch",
        **{key: head[key] for key in CONSTANTS if key in head},
    }
    return TextReID.Config.model_validate(config.model_dump() | told)


def _size(golden: Golden) -> tuple[int, int]:
    height, width = golden.inputs["images_1"].shape[-2:]
    return height, width


def _batch(golden: Golden, step: int) -> Batch:
    given = {name: golden.inputs[f"{name}_{step}"] for name in ("images", "tokens", "pids", "lengths")}
    assert torch.equal((given["tokens"] > 0).sum(1), given["lengths"]), "ids stand at the front of each row"
    return tools.batch({"image": given["images"]}, {"text": given["tokens"]}, given["pids"], given["pids"])


@torch.no_grad()
def _eval(golden: Golden, method: TextReID, always: TextReID) -> None:
    """Embeddings with the published floor, without companions, and with the floor that needs none."""
    out, data = golden.outputs, _batch(golden, 1)
    image, text, token_BT = data.images["image"], method.features(data)["text"], data.tokens["text"]
    out.check("image_features", method.features(data)["image"], EVAL)
    out.check("text_features", text, EVAL)
    out.check("image_features_norm", method.encode_images(image), EVAL)
    out.check("text_features_norm", method.encode_texts(token_BT), EVAL)
    out.check("similarity_t2i", method.encode_texts(token_BT) @ method.encode_images(image).T, EVAL)
    alone = [method.features(data.rows(row, row + 1))["text"] for row in range(len(data))]
    out.check("text_features_alone", torch.cat(alone), EVAL)
    out.check("text_features_floor", always.features(data)["text"], EVAL)


@torch.no_grad()
def _activations(golden: Golden, method: TextReID) -> None:
    data = _batch(golden, 1)
    parts = ("layer1", "layer2", "layer3", "layer4", *(["attnpool"] if method.config.image_network == "clip" else []))
    names = {f"act.visual_{name}": f"visual.{name}" for name in parts}
    for figure, value in tools.activations(method, names, lambda: method.encode_images(data.images["image"])).items():
        golden.outputs.check(figure, value)
    golden.outputs.check("act.visual_pooled", method.visual(data.images["image"]))
    given: list[Tensor] = []
    handle = method.visual.get_submodule("layer1").register_forward_pre_hook(lambda _, x: given.append(x[0]))
    method.encode_images(data.images["image"])
    handle.remove()
    golden.outputs.check("act.visual_stem", given[0])
    token_BT = data.tokens["text"]
    words = token_BT if method.word_table is None else method.word_table[token_BT]
    sequence = method.textual.sequence(words, (token_BT > 0).sum(1))
    golden.outputs.check("act.text_gru_sequence", sequence)
    golden.outputs.check("act.text_gru_pooled", sequence.amax(1))
    for name in golden.outputs.starting("act."):
        if f"act.{name}" not in golden.outputs.done:
            golden.outputs.skip(f"act.{name}", "an inner value of a module that is built otherwise here")


# Training --------------------------------------------------------------------------------------


def _optim(golden: Golden) -> OptimSection:
    given = golden.config["optimizer"]
    return OptimSection(
        kind=given["name"].lower(),
        lr=given["base_lr"],
        eps=given["eps"],
        betas=tuple(given["betas"]),
        weight_decay=given["weight_decay"],
        weight_decay_bias=given["weight_decay_bias"],
        scale={"bias": float(given["bias_lr_factor"])},
        schedule="step",
        milestones=(40, 70),
        warmup_epochs=given["warmup_epochs"],
        warmup_factor=given["warmup_factor"],
    )


def _steps(golden: Golden, method: TextReID) -> None:
    """Consecutive steps on different batches, as the engine takes them."""
    out, section = golden.outputs, _optim(golden)
    optimizer = engine_optim.build(method, section)
    method.train()
    at = Step(epoch=golden.config["optimizer"]["epoch_of_all_steps"], epochs=80)
    for number in range(1, golden.config["steps"] + 1):
        name, data = f"step{number}.", _batch(golden, number)
        out.check(f"{name}lr", [schedule.set_rates(optimizer, section, at)], 1e-6, relative=True)
        method.before_step()
        features = method.features(data)
        out.check(f"{name}v_embed", features["image"], EVAL)
        out.check(f"{name}t_embed", features["text"], EVAL)
        _contrast(out, name, method, features, data.person_B)
        losses, tolerance = method.losses(features, data, at), FIRST if number == 1 else LATER
        for ours, theirs in LOSSES.items():
            if ours in losses:
                out.check(f"{name}loss.{theirs}", losses[ours][None], tolerance)
        out.check(f"{name}loss.total", tools.total(losses)[None], tolerance)
        optimizer.zero_grad(set_to_none=True)
        tools.total(losses).backward()
        _gradients(out, f"{name}grad.", method)
        optimizer.step()
        method.after_step()
        _after(out, f"{name}after.", method)
    features = method.eval().features(_batch(golden, 1))
    out.check("after_steps.image_features", features["image"], LATER)
    out.check("after_steps.text_features", features["text"], LATER)


@torch.no_grad()
def _contrast(out: Figures, name: str, method: TextReID, features: Mapping[str, Tensor], person_B: Tensor) -> None:
    """Which keys are negatives, and the cosines with them; before the batch's own keys go in."""
    head = method.head
    if not isinstance(head, MomentumHead):
        return
    negative_K = usable_negatives(head.id_queue[0], person_B)
    out.exact(f"{name}neg_idx", negative_K.nonzero()[:, 0])
    sides = {"v": ("image", "text_key", head.t_queue), "t": ("text", "image_key", head.v_queue)}
    for side, (query, key, queue) in sides.items():
        own_B1, queued_BK = queue_scores(features.get(f"{query}_query", features[query]), features[key], queue)
        out.check(f"{name}{side}_pos", own_B1, EVAL)
        out.check(f"{name}{side}_neg", queued_BK[:, negative_K], EVAL)


def _gradients(out: Figures, prefix: str, method: TextReID) -> None:
    own = dict(method.named_parameters())
    for name in out.starting(prefix):
        grad = own[method.official.ours(name) or name].grad
        assert grad is not None, name
        out.gradient(prefix + name, grad, GRADIENT)


def _after(out: Figures, prefix: str, method: TextReID) -> None:
    """Parameters, statistics, copies, queues and pointer; whole numbers exactly."""
    own = method.state_dict()
    for name in out.starting(prefix):
        value = own[method.official.ours(name) or name]
        if name.endswith(IDLE) and "encoder_k" not in name:
            out.skip(prefix + name, "its true gradient is 0: Adam turns rounding into steps, no output changes")
        elif value.is_floating_point():
            out.check(prefix + name, value)
        else:
            out.exact(prefix + name, value)


# Words, schedules, sampler, ranks ----------------------------------------------------------------


def _words(figures: Figures) -> None:
    figures.use("reference_commit", "branch", "about")
    raw = figures.use("raw")
    captions = [caption for entry in raw for caption in entry["captions"]]
    figures.exact("vocabulary", build_vocabulary(captions))
    tokenizer = Words(build_vocabulary(captions))
    figures.exact("annotations", _annotations(figures.values["annotations"], tokenizer))
    figures.exact("queries", [_query(case, tokenizer) for case in figures.values["queries"]])
    rare = build_vocabulary(captions, threshold=1)
    with_rest = Words(rare)
    ids = [[with_rest.encode(caption)[0] for caption in entry["captions"]] for entry in raw]
    figures.exact("threshold_1", figures.values["threshold_1"] | {"vocabulary": rare, "captions": ids})


def _annotations(expected: Mapping[str, Any], tokenizer: Words) -> dict[str, Any]:
    """The published files through the reader, and written again from what it made of them."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "cuhkpedes" / "annotations"
        place.mkdir(parents=True)
        for split, content in expected.items():
            (place / f"{split}.json").write_text(json.dumps(content))
        dataset = open_dataset("cuhk-pedes", Path(folder))
    assert pair_vocabulary((caption.text, caption.word_ids or ()) for caption in dataset.captions) == list(
        tokenizer.vocabulary
    )
    again: dict[str, Any] = {split: {"categories": [], "annotations": []} for split in expected}
    for caption in dataset.captions:
        image = dataset.images[caption.image]
        part = again[image.split]
        part["categories"] += [image.person] if image.person not in part["categories"] else []
        entry = {"image_id": caption.image + 1, "id": image.person, "file_path": image.path}
        part["annotations"].append(entry | {"sentence": caption.text, "onehot": tokenizer.encode(caption.text)[0]})
    return again


def _query(case: Mapping[str, Any], tokenizer: Words) -> dict[str, Any]:
    ids, unknown = tokenizer.encode(case["query"])
    return {**case, "words": split_words(case["query"]), "ids_known_only": ids, "unknown": unknown}


def _extra(golden: Golden) -> None:
    extra = golden.file("extra/extra.json")
    extra.use("reference_commit")
    grid = tuple(extra.use("target_grid"))
    if golden.has("extra/pos_embed_resize.safetensors"):
        tables = golden.file("extra/pos_embed_resize.safetensors")
        tables.check("pos_grid_out", resize_grid(tables.use("pos_grid_in"), grid))
    schedules = extra.sub("schedules")
    for name in schedules:
        _schedule(schedules.sub(name))
    extra.exact("sampler", _sampler(extra.values["sampler"]))


def _schedule(figures: Figures) -> None:
    """Rates of an epoch each; the base rate is what the first epoch and its factor say."""
    given = figures.use("parameters")
    rates, epochs = figures.values["lr_per_epoch"], given["total_epochs"]
    section = OptimSection(
        lr=rates[0] / given["warmup_factor"],
        schedule=given["mode"],
        milestones=tuple(given["milestones"]),
        gamma=given.get("gamma", 0.1),
        warmup_factor=given["warmup_factor"],
        warmup_epochs=given["warmup_epochs"],
        warmup_method=given.get("warmup_method", "linear"),
        target_lr=float(given.get("target_lr", 0)),
        power=given.get("power", 0.9),
    )
    for name, factor in (("lr_per_epoch", 1.0), ("lr_per_epoch_bias", 2.0)):
        ours = [schedule.rate(section, factor * section.lr, Step(epoch=at, epochs=epochs)) for at in range(epochs)]
        figures.check(name, ours, tools.RATE, relative=True)


def _sampler(given: Mapping[str, Any]) -> dict[str, Any]:
    rng = random.Random(given["python_random_seed"])
    batches = samplers.chunk_batches(
        given["group_of_item"], given["permutation"], given["batch_size"], given["per_identity"], rng
    )
    return {**given, "batches": [rows.tolist() for rows in batches]}


def _metrics(golden: Golden) -> None:
    """Both directions, plain and re-ranked; the gallery is the first of each image's rows."""
    given, out = golden.inputs, golden.outputs
    first = torch.tensor(
        [list(given["image_ids"]).index(number) for number in dict.fromkeys(given["image_ids"].tolist())]
    )
    text = torch.nn.functional.normalize(given["text_features"].double(), dim=1)
    image = torch.nn.functional.normalize(given["image_features"].double(), dim=1)[first]
    persons = {"text": given["pids"], "image": given["pids"][first]}
    out.exact("query_pids", persons["text"])
    out.exact("gallery_pids", persons["image"])
    for way, (query, gallery), sides in (("t2i", (text, image), "text image"), ("i2t", (image, text), "image text")):
        query_person, gallery_person = (persons[side] for side in sides.split())
        bonus = NeighbourBonus(query, gallery, golden.config["neighbour_num"], golden.config["alpha"])
        added = torch.from_numpy(bonus(torch.arange(len(query)).numpy()))
        out.check(f"rerank_add_{way}", added)
        for name, extra in ((way, None), (f"re_{way}", bonus)):
            found = details(query, gallery, query_person, gallery_person, extra)
            similarity = query @ gallery.T + (added if extra else 0)
            out.check(f"{name}.similarity", similarity)
            _order(out, f"{name}.indices", similarity)
            out.check(f"{name}.cmc_1_5_10", [found.cmc()[place - 1] for place in golden.config["topk"]], RANK)
            out.check(f"{name}.mAP", [found.scores().mAP], RANK)


def _order(out: Figures, name: str, similarity_QG: Tensor) -> None:
    """The published order is one by our similarities, up to rounding: nowhere does it rise."""
    order_QG = out.use(name)
    whole = torch.equal(order_QG.sort(1).values, torch.arange(similarity_QG.shape[1]).expand_as(order_QG))
    rise = similarity_QG.gather(1, order_QG).diff(dim=1).max().item()
    out.report.judge(f"{out.prefix}{name}", max(0.0, rise) if whole else float("inf"), TOLERANCE)
