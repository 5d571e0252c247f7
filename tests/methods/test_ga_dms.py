"""GA-DMS beyond its golden numbers: where masks come from, when scores count, which files are its, what is trained."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from support.training import make_batch, make_stepper

from tbps_cli.errors import WeightsError
from tbps_cli.methods import find
from tbps_cli.methods.ga_dms import GADMS
from tbps_cli.methods.irra import IRRA
from tbps_cli.nn.dual_masking import FIRST
from tbps_cli.nn.grad_eclip import Relevance
from tbps_cli.nn.precision import to_half
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.load import load
from tbps_cli.types import Batch, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

GOLDEN = Path(__file__).parents[1] / "golden"
PRETRAINED = load_file(GOLDEN / "ga_dms" / "weights.safetensors")
FINETUNED = load_file(GOLDEN / "irra" / "weights.safetensors")
"""Of IRRA's code: fine-tuned GA-DMS has the same tensors."""
TINY = Tower(width=64, layers=1, patch=16, embed=64, text_width=64, text_layers=3, context=12, vocabulary=60)
CAPTIONS = 40


def drawn(seed: int = 0, **more: object) -> GADMS:
    method = GADMS(GADMS.Config(name="ga_dms", tower=TINY, cross_layers=1, **more), Task((96, 32), 5, CAPTIONS))
    method.initialise(torch.Generator().manual_seed(seed))
    return method


def batch(first: int = 0) -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (6, 12), generator=draws)
    text[:, 0], text[:, 8], text[:, 9:] = 58, 59, 0
    images = torch.randn(6, 3, 96, 32, generator=draws)
    person, sample = torch.tensor([0, 1, 1, 4, 0, 2]), torch.arange(first, first + 6)
    return Batch({"image": images}, {"text": text}, person, sample // 2, sample)


# The model ------------------------------------------------------------------------------------


def test_the_real_models_have_the_published_sizes() -> None:
    with torch.device("meta"):
        pretraining = GADMS(GADMS.Config(name="ga_dms"), Task((384, 128), 0))
        config = GADMS.Config(name="ga_dms", masking="random", identity=1.0)
        finetuning = GADMS(config, Task((384, 128), 68_126))
    assert sum(value.numel() for value in pretraining.parameters()) == 188_890_880
    assert len(pretraining.state_dict()) == 365
    # one class a training caption of CUHK-PEDES, as released; ours has one a person
    assert sum(value.numel() for value in finetuning.parameters()) == 223_839_518
    assert len(finetuning.state_dict()) == 367
    half = [value.dtype for value in to_half(pretraining).state_dict().values()]
    assert (half.count(torch.float16), half.count(torch.float32)) == (235, 130)


def test_the_file_is_its_registration() -> None:
    assert find("ga_dms") is GADMS


def test_every_parameter_has_one_rate_and_one_decay() -> None:
    method = drawn(identity=1.0)
    assert {method.group_of(name) for name, _ in method.named_parameters()} == {Group()}


def test_every_trained_parameter_gets_a_gradient() -> None:
    method = drawn()
    sum(method(batch(), Step()).values()).backward()
    assert [name for name, value in method.named_parameters() if value.grad is None] == []


# Masks and scores -----------------------------------------------------------------------------


def nothing_said(*_: object, **__: object) -> Relevance:
    return Relevance(*[torch.zeros(6, 12)] * 5, block_NBT=torch.zeros(1, 6, 12))


def test_finding_scores_changes_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and gradients are those of the views alone."""
    gradients = []
    for found in (True, False):
        method = drawn()
        if not found:
            monkeypatch.setattr("tbps_cli.methods.ga_dms.relevance", nothing_said)
        torch.manual_seed(5)
        sum(method(batch(), Step()).values()).backward()
        gradients.append([value.grad for value in method.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_scores_of_a_step_count_after_it_and_those_of_a_look_never() -> None:
    method = drawn()
    scores = method.dual.word_scores
    method(batch(), Step())
    assert (scores == FIRST).all(), "the step is not taken yet"
    method.before_step()
    method(batch(20), Step())
    method.after_step()
    assert (scores[:20] == FIRST).all() and (scores[26:] == FIRST).all(), "the first look was no step"
    assert (scores[20:26] != FIRST).any(1).all() and scores[20:26].min() == 0 and scores[20:26].max() == 1


def test_micro_batches_of_one_step_are_all_remembered() -> None:
    method = drawn()
    method.before_step()
    method(batch(0), Step())
    method(batch(6), Step())
    method.after_step()
    assert (method.dual.word_scores != FIRST).any(1).sum() == 12


def test_chunks_of_a_batch_draw_the_masks_and_find_the_scores_of_the_whole(tmp_path: Path) -> None:
    results = []
    for chunk in (None, 2):
        stepper = make_stepper(tmp_path, "ga_dms", *([f"train.chunk={chunk}"] if chunk else []))
        stepper.method.train()
        losses = stepper.backward(make_batch(), Step()).losses
        results.append((losses, {name: value.grad for name, value in stepper.method.named_parameters()}))
    (whole, gradients), (parts, others) = results
    for name, loss in whole.items():
        assert abs(loss - parts[name]) < 1e-5 * abs(loss), name
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, others[name], atol=1e-5 * float(gradient.abs().max())), name


def test_an_empty_caption_is_matched_by_the_place_of_its_masked_end() -> None:
    method, data = drawn(), batch()
    data.tokens["text"][0, 1:] = 0
    data.tokens["text"][0, 1] = 59
    noise_BT = method.dual.draw(data.tokens["text"], data.sample_B).noise_BT
    assert noise_BT[0].tolist() == [58, 57, *[0] * 10]
    torch.manual_seed(3)
    with torch.no_grad():
        text_BE = method.features(data)["text"]
        assert torch.allclose(text_BE[0], method.clip.text_tokens(noise_BT[:1])[0, 1], atol=1e-6)


def test_scores_of_a_tower_with_lora_are_those_of_the_folded_one() -> None:
    method, data = drawn(lora={"rank": 2, "where": "qkvo+mlp"}), batch()
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, value in method.named_parameters():
            if "lora_B" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=draws))
        apart = method.features(data)["relevance"]
        method.fold()
        together = method.features(data)["relevance"]
        plain = drawn().features(data)["relevance"]
    # what is divided by may be near 0, which amplifies the rounding of a product
    assert torch.allclose(apart, together, atol=2e-3 * float(together.max()))
    assert not torch.allclose(plain, together, atol=0.05 * float(together.max()))


@pytest.mark.parametrize(("matched", "same"), [("person", "person_B"), ("image", "image_B"), ("caption", "sample_B")])
def test_a_recipe_says_what_a_match_is(matched: str, same: str) -> None:
    data = batch()
    with torch.no_grad():
        torch.manual_seed(3)
        found = drawn(matched=matched)(data, Step())["sdm"]
        torch.manual_seed(3)
        expected = drawn()(replace(data, person_B=getattr(data, same)), Step())["sdm"]
        torch.manual_seed(3)
        others = {name: drawn(matched=name)(data, Step())["sdm"] for name in ("person", "image", "caption")}
    assert found == expected and len({float(value) for value in others.values()}) == 3


def test_identities_of_captions_are_refused_with_a_classifier() -> None:
    with pytest.raises(ValidationError, match="identity: the classifier tells persons apart"):
        GADMS.Config(name="ga_dms", identity=1.0, matched="caption")


def test_without_masked_words_the_noise_view_is_trained_alone() -> None:
    method = drawn(masked=0.0)
    assert set(method(batch(), Step())) == {"sdm"}
    assert all(name.startswith(("clip.", "dual.")) for name in method.state_dict())


def test_random_masking_is_irras_training() -> None:
    """The same losses from the same tensors; nothing is remembered and no further view drawn."""
    same = {"tower": TINY, "cross_layers": 1}
    ours = drawn(masking="random", identity=1.0, masked=1.0)
    theirs = IRRA(IRRA.Config(name="irra", **same), Task((96, 32), 5, CAPTIONS))
    theirs.load_state_dict(ours.state_dict())
    data = batch()
    masked, label = data.tokens["text"].clone(), torch.zeros_like(data.tokens["text"])
    label[:, 3], masked[:, 3] = masked[:, 3], 57
    data.tokens |= {"masked": masked, "label": label}
    with torch.no_grad():
        assert ours(data, Step()) == theirs(data, Step())
    assert GADMS.views(ours.config).masked and not GADMS.views(drawn().config).masked


def test_fine_tuning_starts_from_towers_and_masked_words_of_pre_training(tmp_path: Path) -> None:
    names = set(drawn(masking="random", identity=1.0, masked=1.0).state_dict())
    fresh = names - set(drawn().state_dict())
    assert fresh == {"classifier.weight", "classifier.bias"}


# Foreign checkpoints ------------------------------------------------------------------------

SAYS = {"nam": True, "img_size": [96, 32], "stride_size": 16, "loss_names": "sdm+mlm", "mlm_loss_weight": 0.3}


def files(weights: dict[str, torch.Tensor], **options: object) -> OfficialFiles:
    return OfficialFiles(weights, options, "best0.pth")


def test_a_pre_trained_file_tells_its_sizes_and_that_words_are_masked_by_importance() -> None:
    found = GADMS.recognise(files(PRETRAINED, **SAYS))
    assert found is not None
    assert (found.sizes.text_layers, found.cross_layers, found.stride) == (10, 1, 16)
    assert (found.masking, found.sdm, found.identity, found.masked) == ("importance", 1, 0, 0.3)
    assert GADMS.recognise_task(files(PRETRAINED, **SAYS), found) == Task((96, 32), 0)


def test_a_fine_tuned_file_may_have_a_class_for_every_caption() -> None:
    options = SAYS | {"loss_names": "sdm+id+mlm", "mlm_loss_weight": 1.0}
    found = GADMS.recognise(files(FINETUNED, **options))
    assert found is not None
    assert (found.masking, found.identity, found.masked) == ("random", 1, 1)
    wide = FINETUNED | {"classifier.weight": torch.zeros(72, 64), "classifier.bias": torch.zeros(72)}
    assert GADMS.recognise_task(files(wide, **options), GADMS.recognise(files(wide, **options))).identities == 72


@pytest.mark.parametrize("weights", [PRETRAINED, FINETUNED], ids=["pre-trained", "fine-tuned"])
@pytest.mark.parametrize("said", [{}, {"nam": False}, {"nam": "yes"}, {"nam": 1}, {"nam": True}])
def test_one_method_claims_a_file_and_it_is_irra_unless_the_options_say_nam(weights, said) -> None:
    given = files(weights, img_size=[96, 32], **said)
    claims = [kind.__name__ for kind in (GADMS, IRRA) if kind.recognise(given) is not None]
    assert claims == (["GADMS"] if said.get("nam") is True else ["IRRA"])


def test_towers_alone_are_irras_whatever_the_options_say() -> None:
    """NAM's and HAM's pre-trained files."""
    towers = {name: value for name, value in PRETRAINED.items() if name.startswith("base_model.")}
    given = files(towers, **SAYS)
    assert GADMS.recognise(given) is None and IRRA.recognise(given) is not None


def test_a_file_of_a_relative_is_left_to_it() -> None:
    odd = PRETRAINED | {"visul_emb_layer.fc.weight": torch.zeros(1)}
    assert GADMS.recognise(files(odd, **SAYS)) is None


def test_a_missing_tensor_is_named_as_the_file_would_have_it() -> None:
    kept = {name: value for name, value in PRETRAINED.items() if "transformer.resblocks.9.attn.in" not in name}
    with pytest.raises(WeightsError, match=r"best0.pth: 2 of .* missing \(first: base_model.*resblocks.9.attn.in"):
        GADMS.recognise(files(kept, **SAYS))


# Recipes --------------------------------------------------------------------------------------


def test_recipes_say_what_paper_and_script_disagree_on() -> None:
    paper, script = load("ga_dms-pretrain"), load("ga_dms-pretrain-released")
    assert (paper.optim.lr, paper.method.masked, paper.train.batch) == (1e-4, 0.4, 512)
    assert (script.optim.lr, script.method.masked, script.train.batch) == (1e-5, 0.3, 1024)
    for recipe in (paper, script):
        assert (recipe.train.epochs, recipe.optim.warmup_epochs, recipe.optim.eps) == (30, 5, 1e-3)
        assert (recipe.method.masking, recipe.method.matched) == ("importance", "caption")
    finetuning = load("ga_dms")
    assert (finetuning.optim.lr, finetuning.train.batch, finetuning.train.epochs) == (1e-5, 128, 60)
    assert finetuning.method.masking == "random" and finetuning.method.identity == 1
