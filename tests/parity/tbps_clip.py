"""TBPS-CLIP's golden folders, full and simplified: features, losses, gradients, steps, captions and images."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import tools
from parity.check import Figures, Golden
from PIL import Image
from torch import Tensor

from tbps_cli.augment import ops
from tbps_cli.augment.exact import POOL_TRAIN
from tbps_cli.augment.transform import EvalTransform
from tbps_cli.data.open import open_dataset
from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.losses.contrastive import citc, hard_targets
from tbps_cli.methods.tbps_clip import TbpsClip
from tbps_cli.nn.position import resize_context, resize_grid
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.retrieval.metrics import details_of_similarity
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.masking import Corruption, corrupt_words
from tbps_cli.text.word_changes import clean_caption, delete_words, rewrite_captions
from tbps_cli.types import Batch, Step, Task

LOSSES = {"nitc": "nitc", "ritc": "ritc", "citc": "citc", "simclr": "ss", "identity": "id", "masked": "mlm"}
"""Our names of the losses -> the golden ones, without `_loss`."""
VIEWS = {"image": "image", "second": "aug1", "contrast_a": "aug_ss_1", "contrast_b": "aug_ss_2"}
RAMPED = Step(epoch=1)
"""After the first epoch, when soft labels have their whole share."""
UNLABELLED = -100


def check(golden: Golden) -> None:
    method, data = _method(golden), _batch(golden.inputs)
    _features(golden, method, data)
    _activations(golden, method, data)
    _losses(golden, method, data)
    tools.gradients(golden.outputs, "grad.", method, tools.total(method(data, RAMPED)))
    extra = golden.file("weights_extra.safetensors").use_all() if golden.has("weights_extra.safetensors") else {}
    _all_switches(golden, extra, data)
    _groups(golden, extra)
    _schedule(golden)
    _steps(golden, _method(golden), data)
    _tables(golden)
    if golden.has("text.json"):
        _texts(golden.file("text.json"))
    if golden.has("preprocess.safetensors"):
        _images(golden.file("preprocess.safetensors"), golden.file("text.json").sub("image_golden"))


def _method(golden: Golden, extra: Mapping[str, Tensor] | None = None, **changes: Any) -> TbpsClip:
    """What `recognise` reads from the weights and the configuration of a run, with some keys changed."""
    said, weights = golden.config["config"], golden.weights | dict(extra or {})
    options = {"experiment": {**said, "id": "classifier.weight" in weights, "mlm": "mlm_head.fc.weight" in weights}}
    config = TbpsClip.recognise(tools.official_files(weights, options))
    assert config is not None, "the golden weights are not recognised as TBPS-CLIP's"
    config = tools.with_heads(config.model_copy(update=changes), said)
    task = TbpsClip.recognise_task(tools.official_files(weights, options), config)
    assert task == Task(tuple(said["input_resolution"]), said["num_classes"] if extra else 0)
    return tools.load(TbpsClip, config, task, weights)


def _batch(inputs: Mapping[str, Tensor], text: str = "token_ids") -> Batch:
    images = {ours: inputs[theirs] for ours, theirs in VIEWS.items() if theirs in inputs}
    tokens = {"text": inputs[text]}
    if text != "token_ids":
        label_BT = inputs["mlm_labels"]
        assert not (label_BT == 0).any(), "no place may ask for id 0, which says that nothing is asked"
        tokens |= {"masked": inputs[text], "label": label_BT.masked_fill(label_BT == UNLABELLED, 0)}
    return tools.batch(images, tokens, inputs["pids"], inputs["image_ids"])


@torch.no_grad()
def _features(golden: Golden, method: TbpsClip, data: Batch) -> None:
    out = golden.outputs
    tools.embeddings(out, method, data)
    out.check("image_dense_row0", method.clip.image_tokens(data.images["image"])[0])
    out.check("text_dense_row0", method.clip.text_tokens(data.tokens["text"])[0])


@torch.no_grad()
def _activations(golden: Golden, method: TbpsClip, data: Batch) -> None:
    out, visual = golden.outputs, "clip.visual."
    names = {f"act.visual.{name}": f"{visual}{name}" for name in ("conv1", "ln_pre", "ln_post")}
    names |= {
        f"act.visual.block{block}": f"{visual}transformer.resblocks.{block}"
        for block in out.starting("act.visual.block")
    }
    for figure, value in tools.activations(
        method, names, lambda: method.clip.image_tokens(data.images["image"])
    ).items():
        out.check(figure, value)
    names = {
        f"act.text.block{block}": f"clip.transformer.resblocks.{block}" for block in out.starting("act.text.block")
    }
    names["act.text.ln_final"] = "clip.ln_final"
    for figure, value in tools.activations(method, names, lambda: method.clip.text_tokens(data.tokens["text"])).items():
        out.check(figure, value)


@torch.no_grad()
def _losses(golden: Golden, method: TbpsClip, data: Batch) -> None:
    out, losses = golden.outputs, method(data, RAMPED)
    for name, value in losses.items():
        out.loss(f"loss.{LOSSES[name]}_loss", value)
    out.loss("loss.total", tools.total(losses))
    out.check("hard_targets", hard_targets(data.person_B))
    for softness in out.starting("loss_alpha.nitc_loss@"):
        other = _method(golden, soft_labels=float(softness))
        out.loss(f"loss_alpha.nitc_loss@{softness}", other(data, RAMPED)["nitc"])
    features = method.features(data)
    out.loss("component.citc_inmodal", citc(features["image"], features["text"], within=1, across=0))
    out.loss("component.citc_crossmodal", citc(features["image"], features["text"], within=0, across=1))
    alone = _method(golden, second_view=False, nitc=1.0)
    out.loss("component.nitc_loss_without_mvs", alone(data, RAMPED)["nitc"])


def _all_switches(golden: Golden, extra: Mapping[str, Tensor], data: Batch) -> None:
    """With the classifier and the masked words, which no published recipe switches on."""
    if not extra:
        return
    method, data = _method(golden, extra), _batch(golden.inputs, "token_ids_masked")
    losses = method(data, RAMPED)
    for name, value in losses.items():
        golden.outputs.loss(f"all.loss.{LOSSES[name]}_loss", value)
    golden.outputs.loss("all.loss.total", tools.total(losses))
    tools.gradients(golden.outputs, "all.grad.", method, tools.total(losses))


# Training ---------------------------------------------------------------------------------------


def _optim(golden: Golden) -> OptimSection:
    said = golden.config["config"]["schedule"]
    return OptimSection(
        kind="adamw",
        lr=said["lr"],
        betas=tuple(said["betas"]),
        eps=said["eps"],
        weight_decay=said["weight_decay"],
        scale={"new": said["ratio_factor"]},
        schedule="cosine-per-step",
        warmup_epochs=said["epoch_warmup"],
        lr_start=said["lr_start"],
        lr_end=said["lr_end"],
    )


def _groups(golden: Golden, extra: Mapping[str, Tensor]) -> None:
    """Rates and decays as the released optimiser has them; its patch convolution never gets a gradient."""
    section = _optim(golden)
    expected = [
        {
            "name": name,
            "lr": section.lr * said["lr_ratio"],
            "weight_decay": said["weight_decay"],
            "frozen": name == "visual.conv1.weight",
        }
        for name, said in golden.config["param_groups"].items()
    ]
    figures = Figures({"param_groups": expected}, golden.report, f"{golden.place}config.json:")
    tools.groups(figures, "param_groups", _method(golden, extra), section)


def _at(golden: Golden, iteration: int) -> Step:
    said = golden.config["config"]
    length = said["steps_per_epoch"]
    return Step(iteration // length, iteration % length, length, said["schedule"]["epoch"])


def _schedule(golden: Golden) -> None:
    section, out = _optim(golden), golden.outputs
    if "schedule.lr" in out:
        count = len(out.values["schedule.lr"])
        rates = [schedule.rate(section, section.lr, _at(golden, iteration)) for iteration in range(count)]
        out.check("schedule.lr", torch.tensor(rates, dtype=torch.float64), tools.RATE, relative=True)


def _steps(golden: Golden, method: TbpsClip, data: Batch) -> None:
    out, section = golden.outputs, _optim(golden)
    if "steps.iteration" not in out:
        return
    optimizer = engine_optim.build(method, section)
    softness, rates, losses = [], [], []
    for iteration in out.use("steps.iteration").tolist():
        at = _at(golden, iteration)
        softness.append(method.softness(at))
        rates.append(schedule.set_rates(optimizer, section, at))
        loss = tools.total(method(data, at))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        method.after_step()
        losses.append(loss.item())
    out.check("steps.alpha", softness, 1e-6, relative=True)  # kept in float32
    out.check("steps.lr", rates, 1e-6, relative=True)
    out.check("steps.loss_total", losses, 1e-4)
    tools.parameters(out, "steps.param.", method)


def _tables(golden: Golden) -> None:
    """Position tables brought to another size, and the scores of a given similarity matrix."""
    inputs, out, said = golden.inputs, golden.outputs, golden.config["config"]
    if "posemb_in" in inputs:
        rows, columns = (side // said["patch_size"] for side in said["input_resolution"])
        out.check("posemb_out", resize_grid(inputs["posemb_in"], (rows, columns)))
    for length in out.starting("textpos_out_"):
        out.check(f"textpos_out_{length}", resize_context(inputs["textpos_in"], int(length)))
    if "metric_scores_t2i" in inputs:
        persons = inputs["metric_text_pids"], inputs["metric_image_pids"]
        scores = details_of_similarity(inputs["metric_scores_t2i"], *persons).scores()
        for name, value in {"r1": scores.R1, "r5": scores.R5, "r10": scores.R10, "mAP": scores.mAP}.items():
            out.check(f"metric.{name}", value, 1e-4)
        out.check("metric.r_mean", (scores.R1 + scores.R5 + scores.R10) / 3, 1e-4)


# Captions ---------------------------------------------------------------------------------------


class Replay(random.Random):
    """Python's generator, answering with recorded draws; each must be asked for by its own kind."""

    def __init__(self, draws: list[list[Any]]) -> None:
        super().__init__()
        self.draws = iter(draws)

    def _next(self, kind: str) -> Any:
        recorded, value = next(self.draws)
        assert recorded == kind, f"{kind} was drawn where {recorded} is recorded"
        return value

    def random(self) -> float:
        return float(self._next("random"))

    def uniform(self, a: float, b: float) -> float:
        assert (a, b) == (0, 1)
        return float(self._next("uniform"))

    def choice(self, seq: Any) -> Any:
        return seq[self._next("choice_index")]


def _texts(text: Figures) -> None:
    for case in _cases(text, "pre_caption"):
        case.exact("output", clean_caption(case.use("input"), case.use("max_words")))
    for case in _cases(text, "tokenize"):
        case.exact("ids", Bpe(case.use("context_length"), mask=True)([case.use("text")])[0])
    for case in _cases(text, "random_deletion"):
        case.exact("output", delete_words(case.use("text"), Replay(case.use("draws")), case.use("p")))
    for case in _cases(text, "mlm_corruption"):
        _corruption(case)
    if "train_text_path" in text:
        _training_text(text.sub("train_text_path"))
    if "annotations" in text:
        _annotations(text.sub("annotations"))


def _cases(figures: Figures, name: str) -> list[Figures]:
    """The entries of a list, each a table of figures that is closed with the file."""
    if name not in figures:
        return []
    cases = figures.use(name)
    for number, case in enumerate(cases):
        prefix = f"{figures.prefix}{name}.{number}."
        figures.tables[f"{name}.{number}"] = Figures(case, figures.report, prefix)
    return [figures.tables[f"{name}.{number}"] for number in range(len(cases))]


def _corruption(case: Figures) -> None:
    chosen, masked, randomised = (
        np.array(case.use(name), bool) for name in ("draw_mask_15", "draw_replace_80", "draw_random_50")
    )
    draws, bpe = Corruption(chosen, masked, randomised, np.array(case.use("random_ids"))), Bpe(mask=True)
    corrupted, labels = corrupt_words(
        np.array(case.use("ids")), draws, mask=bpe.mask_id, first_special=bpe.first_special
    )
    case.exact("output", corrupted)
    case.exact("labels", labels)


def _training_text(path: Figures) -> None:
    path.use("order_of_draws")
    chances = {"back_translation": path.use("backtrans_p"), "deletion": path.use("eda_alpha")}
    replay = Replay(path.use("draws"))
    texts = rewrite_captions(path.use("captions"), path.use("captions_bt"), replay, **chances)
    assert next(replay.draws, None) is None, "not all recorded draws were used"
    path.exact("texts", texts)
    path.exact("ids", Bpe(path.use("context_length"), mask=True, clean_words=77)(texts))


def _annotations(facts: Figures) -> None:
    """The same records as training and as test file, through the reader of the layout.

    Where a record has fewer back-translations than captions the released code drops the captions that
    are left over; ours refuses the file, so the training file is given as the released code reads it.
    """
    records, root = facts.use("json"), facts.use("image_root")
    with tempfile.TemporaryDirectory() as folder:
        cut = [_paired(record) for record in records]
        plain = [{key: value for key, value in record.items() if key != "captions_bt"} for record in records]
        for split, content in (("train", cut), ("test", plain)):
            (Path(folder) / f"{split}_reid.json").write_text(json.dumps(content), encoding="utf-8")
        dataset = open_dataset(folder, Path(folder))
        train, test = dataset.split("train"), dataset.split("test")
    first_seen = {person: number for number, person in enumerate(dict.fromkeys(train.caption_class.tolist()))}
    pairs = zip(train.captions, train.back_translations, train.caption_image, train.caption_class, strict=True)
    facts.exact(
        "train_pairs",
        [
            [
                _below(root, train, image),
                clean_caption(caption),
                clean_caption(back or ""),
                first_seen[int(person)],
            ]
            for caption, back, image, person in pairs
        ],
    )
    facts.exact("num_classes", train.identities)
    facts.exact("eval_text", [clean_caption(caption) for caption in test.captions])
    facts.exact("eval_image", [_below(root, test, image) for image in range(len(test.paths))])
    facts.exact("eval_text_pid", test.caption_person)
    facts.exact("eval_image_pid", test.image_person)


def _paired(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record with as many captions as back-translations; without any, all captions count."""
    backs = record.get("captions_bt")
    if not backs:
        return {key: value for key, value in record.items() if key != "captions_bt"}
    pairs = list(zip(record["captions"], backs, strict=False))
    return {**record, "captions": [caption for caption, _ in pairs], "captions_bt": [back for _, back in pairs]}


def _below(root: str, split: Any, image: int) -> str:
    return f"{root}/{split.paths[image].relative_to(split.root).as_posix()}"


# Images ---------------------------------------------------------------------------------------


def _images(tensors: Figures, facts: Figures) -> None:
    image, size = Image.fromarray(tensors.use("source_uint8").numpy()), tuple(facts.use("size"))
    given = {name: facts.use(name) for name in ("resized_crop", "erase", "jitter")}
    transform = TbpsClip.eval_transform(TbpsClip.Config(name="tbps_clip"), Task(size))
    tensors.check("eval", transform(image), 1e-6)
    pixels = EvalTransform(size, POOL_TRAIN.mean, POOL_TRAIN.std, POOL_TRAIN.resample).pixels(image)
    start_BCHW = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (POOL_TRAIN.mean, POOL_TRAIN.std))
    for name in tensors.starting("pool."):
        pixel_BCHW = start_BCHW.clone()  # erasing writes in place
        for operation in name.split("_then_"):
            pixel_BCHW = _operated(operation, pixel_BCHW, given)
        tensors.check(f"pool.{name}", ((pixel_BCHW - mean) / std)[0], 1e-6)


def _operated(name: str, pixel_BCHW: Tensor, given: Mapping[str, Any]) -> Tensor:
    """One operation of the pool with the stated numbers; rotations have theirs in the name."""
    if name.startswith("rotate_"):
        return ops.rotate(pixel_BCHW, float(name[7:].replace("minus_", "-").replace("p", ".")))
    if name.startswith("jitter"):
        for change in given["jitter"]["order"].split(", "):
            pixel_BCHW = getattr(ops, change)(pixel_BCHW, given["jitter"][change])
        return pixel_BCHW
    crop, hole = (
        [given[key][side] for side in ("top", "left", "height", "width")] for key in ("resized_crop", "erase")
    )
    changes = {
        "none": lambda: pixel_BCHW,
        "hflip": lambda: ops.flip(pixel_BCHW),
        "grayscale": lambda: ops.grey(pixel_BCHW),
        "resized_crop": lambda: ops.resized_crop(pixel_BCHW, *crop),
        "erase": lambda: ops.erase_(pixel_BCHW, *hole, fill=given["erase"]["value"]),
    }
    return changes[name]()
