"""RDE's golden folder: both embeddings, what is selected, four losses, two steps; and the division beside it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import torch
from parity import tools
from parity.check import TOLERANCE, Figures, Golden
from torch import Tensor

from tbps_cli.engine import optim as engine_optim
from tbps_cli.engine import schedule
from tbps_cli.losses import division, ranking
from tbps_cli.losses.contrastive import unit
from tbps_cli.methods.rde import RDE
from tbps_cli.nn.selection import select_patches, select_words, selected_count
from tbps_cli.nn.text_tower import end_of
from tbps_cli.recipe.schema import OptimSection
from tbps_cli.types import Batch, Step, Task

PAIRS = "bge", "tse"
POSTERIOR = 1e-3
SOFTMAX = 1e-4
"""Of InfoNCE and SDM, pair by pair: nats at a temperature of 1/50, up to 2e-5 from float64 in either code."""


def check(golden: Golden) -> None:
    if golden.config.get("set") == "ccd":
        _division(golden, golden.file("ccd.safetensors"))
        return
    method = _method(golden)
    first, second = (_batch(golden.inputs, number) for number in ("1", "2"))
    _trust(golden, method, first, second)
    method.eval()
    _features(golden, method, first)
    _short(golden, method)
    _costs(golden, method, first)
    _losses_of_unit(golden, method)
    _never_in_train_mode(golden, first)
    method.train()
    _steps(golden, method, [first, second])


def _method(golden: Golden, **changes: Any) -> RDE:
    clip, tse, loss = golden.config["clip"], golden.config["tse"], golden.config["loss"]
    options = {
        "img_size": list(clip["image"]),
        "stride_size": clip["stride"],
        "select_ratio": tse["select_ratio"],
        "loss_names": loss["kind"],
        "tau": loss["tau"],
        "margin": loss["margin"],
        "temperature": 1 / loss["logit_scale"],
    }
    config = RDE.recognise(tools.official_files(golden.weights, options))
    assert config is not None, "the golden weights are not recognised as RDE's"
    assert config.tse_dim == tse["embed_dim"]
    heads = {"vision_heads": clip["heads"], "text_heads": clip["heads"]}
    config = tools.with_heads(config.model_copy(update={"tse_bn_train": True} | changes), heads)
    captions = sum(len(value) for name, value in golden.inputs.items() if name.startswith("pids_"))
    # the trust labels of both batches stand one after the other, as the captions of a training list
    method = RDE(config, Task(tuple(clip["image"]), captions=captions))
    tensors, unknown = RDE.official.to_ours(golden.weights)
    missing, unexpected = method.load_state_dict(tensors, strict=False)
    assert not unknown and not unexpected and missing == ["trusted"], (unknown, unexpected, missing)
    return method


def _batch(inputs: dict[str, Tensor], number: str) -> Batch:
    person_B = inputs[f"pids_{number}"]
    first = 0 if number == "1" else len(inputs["pids_1"])
    place_B = first + torch.arange(len(person_B))
    images, tokens = inputs[f"images_{number}"], inputs[f"tokens_{number}"]
    return Batch({"image": images}, {"text": tokens}, person_B, place_B, place_B)


def _trust(golden: Golden, method: RDE, *batches: Batch) -> None:
    assert method.trusted is not None
    for number, batch in enumerate(batches, 1):
        method.trusted[batch.sample_B] = golden.inputs[f"label_hat_{number}"].bool()


@torch.no_grad()
def _features(golden: Golden, method: RDE, data: Batch) -> None:
    out, features = golden.outputs, method.features(data)
    image, token_BT = data.images["image"], data.tokens["text"]
    for name, ours in (
        ("bge_image", "image"),
        ("bge_text", "text"),
        ("tse_image", "image_tse"),
        ("tse_text", "text_tse"),
    ):
        out.check(name, features[ours])
    token_BPE, attention_BP = method.clip.visual.forward_with_attention(image)
    word_BTE, attention_BT = method.clip.text_tokens_with_attention(token_BT)
    out.check("image_tokens", token_BPE)
    out.check("text_tokens", word_BTE)
    attention_BP[:, 0] = -1
    out.check("tse_image.attention_row", attention_BP)
    ends_BT = torch.arange(token_BT.shape[1]) == end_of(token_BT)[:, None]
    ends_BT[:, 0] = True
    out.check("tse_text.attention_row", attention_BT.masked_fill(ends_BT, -1) * (token_BT != 0))
    ratio, tse = method.config.select_ratio, golden.config["tse"]
    image_k, text_k = selected_count(attention_BP.shape[1] - 1, ratio), selected_count(token_BT.shape[1] - 2, ratio)
    assert (image_k, text_k) == (tse["k_image"], tse["k_text"])
    out.exact("tse_image.selected", select_patches(attention_BP, image_k))
    place_BK, kept_BK = select_words(attention_BT, token_BT, text_k)
    selected_BK = golden.outputs.values["tse_text.selected"]
    # beyond a caption's words the published choice is arbitrary, and reaches nothing
    out.exact("tse_text.selected", torch.where(kept_BK, place_BK, selected_BK))
    by_bge = unit(features["text"]) @ unit(features["image"]).T
    by_tse = unit(features["text_tse"]) @ unit(features["image_tse"]).T
    out.check("sim_bge", by_bge)
    out.check("sim_tse", by_tse)
    out.check("sim", method.encode_texts(token_BT) @ method.encode_images(image).T)
    out.check("per_sample.bge_diag", by_bge.diagonal())
    out.check("per_sample.tse_diag", by_tse.diagonal())


@torch.no_grad()
def _short(golden: Golden, method: RDE) -> None:
    """Captions with fewer words than are selected."""
    global_BE, selected_BF = method.text_features(golden.inputs["tokens_short"])
    golden.outputs.check("bge_text_short", global_BE)
    golden.outputs.check("tse_text_short", selected_BF)


@torch.no_grad()
def _costs(golden: Golden, method: RDE, data: Batch) -> None:
    out, features = golden.outputs, method.features(data)
    for name, cost_B in method.costs(features, data).items():
        out.check(f"per_sample.{name}", cost_B, _tolerance(method.config.loss))
    for kind in out.starting("per_sample.bge."):
        other = _with_loss(method, kind)
        out.check(f"per_sample.bge.{kind}", other.costs(features, data)["bge"], _tolerance(kind))


def _with_loss(method: RDE, kind: str) -> RDE:
    other = copy.copy(method)
    other.config = method.config.model_copy(update={"loss": kind})
    return other


@torch.no_grad()
def _losses_of_unit(golden: Golden, method: RDE) -> None:
    """The four costs on given embeddings."""
    image_BE, text_BE, person_B = (golden.inputs[f"unit_{name}"] for name in ("image", "text", "pids"))
    c = method.config
    triplet, softmax = {"tau": c.tau, "margin": c.margin}, {"temperature": c.temperature}
    figures = {
        "TAL": ranking.tal(image_BE, text_BE, person_B, **triplet),
        "TRL": ranking.trl(image_BE, text_BE, person_B, **triplet),
        "InfoNCE": ranking.pair_itc(image_BE, text_BE, person_B, **softmax),
        "SDM": ranking.pair_sdm(image_BE, text_BE, person_B, **softmax),
    }
    for kind, cost_B in figures.items():
        golden.outputs.check(f"unit.{kind}", cost_B, _tolerance(kind))


def _tolerance(kind: str) -> float:
    return SOFTMAX if kind in ("InfoNCE", "SDM") else TOLERANCE


def _never_in_train_mode(golden: Golden, data: Batch) -> None:
    """The code behind the paper's figures: batch norms stay at their running statistics."""
    out, method = golden.outputs, _method(golden, tse_bn_train=False).train()
    _trust(golden, method, data)
    losses = method(data, Step())
    for name, value in losses.items():
        out.loss(f"eval_mode.loss.{name}_loss", value.reshape(1))
    tools.gradients(out, "eval_mode.grad.", method, tools.total(losses))


def _steps(golden: Golden, method: RDE, batches: list[Batch]) -> None:
    out, section = golden.outputs, _optim(golden)
    at = Step(golden.config["optimizer"]["epoch_of_both_steps"], epochs=60)
    optimizer = engine_optim.build(method, section)
    schedule.set_rates(optimizer, section, at)
    _groups(golden, optimizer)
    for number, data in enumerate(batches, 1):
        losses = method(data, at)
        for name, value in losses.items():
            out.loss(f"step{number}.loss.{name}_loss", value.reshape(1))
        out.loss(f"step{number}.loss.total", tools.total(losses).reshape(1))
        optimizer.zero_grad(set_to_none=True)
        tools.total(losses).backward()
        own = tools.named_official(method)
        for name in out.starting(f"step{number}.grad."):
            out.gradient(f"step{number}.grad.{name}", own[name].grad)
        optimizer.step()
        state = {RDE.official.foreign(name) or name: value for name, value in method.state_dict().items()}
        for name in out.starting(f"step{number}.after."):
            out.check(f"step{number}.after.{name}", state[name])
    method.eval()
    with torch.no_grad():
        features = method.features(batches[0])
    out.check("after_steps.tse_image", features["image_tse"])
    out.check("after_steps.tse_text", features["text_tse"])


def _optim(golden: Golden) -> OptimSection:
    said = golden.config["optimizer"]
    return OptimSection(
        kind="adam",
        lr=said["lr"],
        eps=said["eps"],
        betas=tuple(said["betas"]),
        weight_decay=said["weight_decay"],
        weight_decay_bias=said["weight_decay_bias"],
        scale={"new": said["tse_lr"] / said["lr"], "bias": float(said["bias_lr_factor"])},
        warmup_epochs=5,
        warmup_factor=said["warmup_factor"],
    )


def _groups(golden: Golden, optimizer: torch.optim.Optimizer) -> None:
    """Rate and decay at the epoch of the steps -> how many tensors."""
    found: Counter[tuple[str, str]] = Counter()
    for group in optimizer.param_groups:
        found[f"{group['lr']:.6g}", f"{group['weight_decay']:.6g}"] += len(group["params"])
    expected = {
        (f"{lr:.6g}", f"{decay:.6g}"): count for lr, decay, count in golden.config["optimizer"]["groups_lr_wd_count"]
    }
    golden.report.judge("config.json:groups_lr_wd_count", 0.0 if found == expected else float("inf"), 0.0)


# Consensus division ------------------------------------------------------------------------


def _division(golden: Golden, figures: Figures) -> None:
    for case, said in golden.config["cases"].items():
        _case(golden, figures, case, said)
    if "split_all_above.prob" in figures:
        clean_N = division.split_clean(figures.use("split_all_above.prob").numpy())
        figures.exact("split_all_above.pred", clean_N.astype(int))
        zeros = int((~clean_N).sum()) == golden.config["split_all_above"]["zeros"]
        golden.report.judge("config.json:split_all_above.zeros", 0.0 if zeros else float("inf"), 0.0)


def _case(golden: Golden, figures: Figures, case: str, said: dict[str, Any]) -> None:
    kind = RDE.choose(RDE.Config(name="rde"), said["dataset_name"].lower(), said["noisy_rate"])["gmm"][0]
    care = division.THOROUGH if kind == "thorough" else division.QUICK
    gmm = said["gmm"]
    same = (care.rounds, care.gain, care.variance) == (gmm["max_iter"], gmm["tol"], gmm["reg_covar"])
    golden.report.judge(f"{golden.place}{case}.gmm", 0.0 if same else float("inf"), 0.0)
    random = np.random.RandomState(golden.config["numpy_seed_before_fit"])
    flags, rounds = [], []
    for pair in PAIRS:
        mixture = division.fit(figures.use(f"{case}.loss_{pair}").numpy(), care, random)
        assert mixture is not None
        rounds.append(mixture.rounds)
        table = np.stack([mixture.mean, mixture.variance, mixture.weight], axis=1)
        figures.check(f"{case}.gmm_{pair}", table, POSTERIOR)
        figures.check(f"{case}.prob_{pair}", mixture.clean_N, POSTERIOR)
        flags.append(division.split_clean(mixture.clean_N))
        figures.exact(f"{case}.clean_{pair}", flags[-1].astype(float))
    one_N, other_N = flags
    trusted_N = division.consensus(one_N, other_N, figures.use(f"{case}.draws").numpy().astype(bool))
    figures.exact(f"{case}.label_hat", trusted_N.astype(float))
    figures.exact(f"{case}.consensus_sum", one_N.astype(float) + other_N)
    facts = {
        "n": len(one_N),
        "n_iter": rounds,
        "clean": [int(one_N.sum()), int(other_N.sum())],
        "uncertain": int((one_N != other_N).sum()),
        "label_hat_sum": int(trusted_N.sum()),
    }
    for name, value in facts.items():
        golden.report.judge(
            f"{golden.place}config.json:{case}.{name}", 0.0 if value == said[name] else float("inf"), 0.0
        )
