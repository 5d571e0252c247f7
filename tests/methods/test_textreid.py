"""TextReID beyond its golden numbers: sizes, copies and queues, what starts where, foreign checkpoints."""

import copy
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tbps_cli.engine import optim
from tbps_cli.engine.step import Stepper
from tbps_cli.errors import RecipeError, WeightsError
from tbps_cli.methods import find
from tbps_cli.methods._textreid_config import TextReidConfig
from tbps_cli.methods.textreid import TextReID
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.momentum import MomentumHead, follow
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.schema import OptimSection, TrainSection
from tbps_cli.types import Batch, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

GOLDEN = Path(__file__).parents[1] / "golden" / "textreid"
WEIGHTS = load_file(GOLDEN / "weights.safetensors")
TINY = Tower(width=4, layers=(1, 1, 1, 1), embed=16, text_width=64, text_layers=1, context=12, vocabulary=60, heads=2)
VIT = Tower(width=64, layers=2, patch=16, embed=16, text_width=64, text_layers=1, context=12, vocabulary=60)
TASK = Task((64, 32), 5)
YAML = {"INPUT": {"HEIGHT": 64, "WIDTH": 32}, "MODEL": {"EMBEDDING": {"EPSILON": 0.1}, "MOCO": {"M": 0.9}}}


def config(**more: object) -> TextReidConfig:
    values = {"tower": TINY, "vocabulary": 20, "word_width": 6, "gru_input": 5, "hidden": 4, "embed": 8, "queue": 12}
    return TextReID.Config(name="textreid", **(values | more))


def drawn(seed: int = 0, task: Task = TASK, **more: object) -> TextReID:
    method = TextReID(config(**more), task)
    method.initialise(torch.Generator().manual_seed(seed))
    method.word_table.copy_(torch.randn(method.word_table.shape, generator=torch.Generator().manual_seed(9)))
    return method


def batch(rows: int = 6) -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.zeros(rows, 105, dtype=torch.int64)
    for row in range(rows):
        text[row, : 3 + row] = torch.randint(1, 21, (3 + row,), generator=draws)
    person = torch.arange(rows) % 5
    return Batch({"image": torch.randn(rows, 3, 64, 32, generator=draws)}, {"text": text}, person, person, person)


def stepper(method: TextReID) -> Stepper:
    section = OptimSection(kind="adam", lr=1e-3, weight_decay=4e-5, scale={"bias": 2.0})
    return Stepper(method.train(), optim.build(method, section), train=TrainSection(batch=6, precision="fp32"))


def state(method: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


# Sizes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tower", "head", "trained", "names", "tensors"),
    [
        ("RN50", "moco", 45_097_056, 1_038, 183),
        ("RN101", "moco", 62_909_024, 1_956, 336),
        ("RN50", "simple", 45_097_056, 348, 183),
    ],
)
def test_the_real_model_has_the_published_sizes(tower, head, trained, names, tensors):
    with torch.device("meta"):
        method = TextReID(TextReID.Config(name="textreid", tower=tower, head=head), Task((384, 128), 11_003))
    own = [(name, value) for name, value in method.named_parameters() if method.group_of(name) != Group("frozen")]
    assert sum(value.numel() for _, value in own) == trained
    assert len(own) == tensors
    queries = [name for name in method.state_dict() if name.startswith(("visual.", "textual."))]
    twice = len(queries) if head == "moco" else 0  # published files hold the query towers under two names
    assert len(method.state_dict()) - 1 + twice == names
    assert sum(value.numel() for value in method.textual.parameters()) == 3_145_728
    assert method.visual.attnpool.positional_embedding.shape == (193, 2048)
    assert method.visual.attnpool.heads == 32


def test_what_only_training_needs_is_not_built_without_persons():
    bare = drawn(task=Task((64, 32)))
    assert not any(name.startswith(bare.training_only) for name in bare.state_dict())
    with pytest.raises(ValueError, match="how many identities"):
        bare(batch(), Step())


def test_the_file_is_its_registration():
    assert find("textreid") is TextReID


@pytest.mark.parametrize("tower", ["RN50x4", "RN50x16", "ViT-B-16"])
def test_larger_towers_and_vision_transformers_stand_under_the_heads(tower):
    with torch.device("meta"):
        method = TextReID(TextReID.Config(name="textreid", tower=tower), Task((384, 128), 7))
        assert method.encode_images(torch.zeros(2, 3, 384, 128)).shape == (2, 256)


# Training ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"contrast_mlp": True}, {"head": "simple"}, {"tower": VIT}])
def test_trained_parameters_move_and_copies_only_by_momentum(more):
    method = drawn(momentum=1.0, **more)
    for name, value in method.named_parameters():
        if name.endswith("bn3.weight"):
            torch.nn.init.ones_(value)  # drawn as 0, which stops every gradient behind it in the first step
    before, take = state(method), stepper(method)
    take([batch()], Step())
    after = state(method)
    for name, _ in method.named_parameters():
        moved = not torch.equal(before[name], after[name])
        if method.group_of(name).rate == "frozen":
            assert not moved, name
        elif not name.endswith("k_proj.bias"):  # its gradient is 0: a softmax sees no constant
            assert moved, name


def test_key_towers_move_before_the_step_towards_the_weights_of_then():
    method = drawn(momentum=0.9)
    key, query = state(method.head.v_encoder_k), state(method.visual)
    stepper(method)([batch()], Step())
    for name, value in method.head.v_encoder_k.named_parameters():
        assert torch.allclose(value, 0.9 * key[name] + 0.1 * query[name], atol=1e-6), name
    statistics = dict(method.head.v_encoder_k.named_buffers())
    assert not torch.equal(statistics["bn1.running_mean"], key["bn1.running_mean"])
    assert not torch.equal(statistics["bn1.running_mean"], 0.9 * key["bn1.running_mean"])


def test_a_step_puts_its_keys_into_the_queues():
    method = drawn()
    stepper(method)([batch()], Step())
    assert method.head.id_queue.tolist() == [[0, 1, 2, 3, 4, 0] + [-1] * 6]
    assert method.head.queue_ptr.tolist() == [6]


def test_going_on_from_a_state_equals_never_having_stopped():
    method = drawn()
    take = stepper(method)
    take([batch()], Step())
    kept, moments = state(method), copy.deepcopy(take.optimizer.state_dict())
    again = drawn(seed=5)
    other = stepper(again)
    again.load_state_dict(kept)
    other.optimizer.load_state_dict(moments)
    take([batch()], Step(iteration=1))
    other([batch()], Step(iteration=1))
    for name, value in method.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_losses_of_joined_features_equal_those_of_the_whole_batch():
    method, data = drawn().eval(), batch()
    with torch.no_grad():
        parts = [method.features(data.rows(0, 2)), method.features(data.rows(2, 6))]
        joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        kept = state(method)
        whole = method(data, Step())
        method.load_state_dict(kept)
        for name, loss in method.losses(joined, data, Step()).items():
            assert abs(loss - whole[name]) < 1e-4 * abs(whole[name]), name


def test_a_loss_of_weight_zero_is_left_out_and_weights_scale():
    with torch.no_grad():
        whole, scaled = drawn().eval()(batch(), Step()), drawn(align=0.5, identity=2.0).eval()(batch(), Step())
        assert torch.allclose(scaled["align"], 0.5 * whole["align"])
        assert torch.allclose(scaled["identity"], 2 * whole["identity"])
        assert set(drawn(contrast=0.0)(batch(), Step())) == {"identity", "align"}
        assert set(drawn(head="simple")(batch(), Step())) == {"identity", "align"}


def test_metrics_are_shares_of_the_batch():
    method, data = drawn(), batch()
    figures = method.metrics(method.features(data), data)
    assert set(figures) == {"img_acc", "txt_acc"}
    assert all(0 <= value <= 1 for value in figures.values())


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("visual.conv1.weight", Group()),
        ("visual.bn1.weight", Group()),
        ("visual.bn1.bias", Group("bias", decay=False)),
        ("visual.attnpool.positional_embedding", Group()),
        ("visual.attnpool.c_proj.bias", Group("bias", decay=False)),
        ("textual.gru.weight_ih_l0", Group()),
        ("head.t_embed_layer.bias", Group("bias", decay=False)),
        ("head.loss_evaluator.projection", Group()),
        ("head.v_encoder_k.bn1.bias", Group("frozen")),
        ("head.t_encoder_k.gru.weight_hh_l0", Group("frozen")),
    ],
)
def test_groups_follow_the_released_rules(name, group):
    method = drawn()
    assert name in dict(method.named_parameters())
    assert method.group_of(name) == group


def test_a_queue_that_the_batch_does_not_divide_is_refused_with_one_that_it_does():
    TextReID.Config(name="textreid").check_batch(128)
    TextReID.Config(name="textreid", head="simple").check_batch(100)
    with pytest.raises(RecipeError, match=r"method\.queue = 2048 .* 100 pairs") as caught:
        TextReID.Config(name="textreid").check_batch(100)
    assert caught.value.hint == "Set method.queue=2000, or train.batch to a divisor of 2048."


# What starts where -------------------------------------------------------------------------------


def clip_state() -> dict[str, torch.Tensor]:
    clip = Clip(TINY, (64, 64))
    clip.initialise(torch.Generator().manual_seed(7))
    return clip.state_dict()


POOL = [f"attnpool.{layer}_proj.weight" for layer in "qkvc"]


def test_the_released_head_draws_attention_pools_anew_and_apart_and_keeps_the_rest_of_clip():
    method, given = drawn(), clip_state()
    names = method.load_weights(given)
    assert "visual.conv1.weight" in names and not any("_proj" in name for name in names)
    query, key = method.visual.state_dict(), method.head.v_encoder_k.state_dict()
    assert torch.equal(query["conv1.weight"], given["visual.conv1.weight"])
    assert query["attnpool.positional_embedding"].shape == (9, 128)
    for name, value in query.items():
        assert torch.equal(value, key[name]) == (name not in POOL), name
    spread = query["attnpool.q_proj.weight"].std().item()
    assert abs(spread - (2 / 128) ** 0.5) < 0.005


@pytest.mark.parametrize("more", [{"reinit_attention_pool": False}, {"head": "simple"}])
def test_clips_attention_pool_is_kept_where_the_recipe_says_so(more):
    method, given = drawn(**more), clip_state()
    method.load_weights(given)
    towers = [method.visual, method.head.v_encoder_k] if isinstance(method.head, MomentumHead) else [method.visual]
    for tower in towers:
        assert all(torch.equal(tower.state_dict()[name], given[f"visual.{name}"]) for name in POOL)


def test_a_vision_transformer_starts_from_clip_whole():
    clip = Clip(VIT, (64, 64))
    clip.initialise(torch.Generator().manual_seed(7))
    method = drawn(tower=VIT)
    method.load_weights(clip.state_dict())
    for tower in (method.visual, method.head.v_encoder_k):
        assert torch.equal(tower.proj, clip.visual.proj)


def test_weights_of_another_tower_are_refused():
    with pytest.raises(WeightsError, match=r"of the towers' .* are missing"):
        drawn(tower=VIT).load_weights(clip_state())


def test_one_seed_draws_one_model_and_leaves_nothing_as_it_was():
    first, second, other = (state(drawn(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[name], value) for name, value in second.items())
    same = [name for name, value in other.items() if torch.equal(first[name], value)]
    assert all(
        "bn" in name or "downsample.1" in name or "bias" in name or "queue" in name or name == "word_table"
        for name in same
    )
    assert "head.v_queue" not in same


def test_a_copy_follows_its_query():
    one, two = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(one.weight, 1.0)
    torch.nn.init.constant_(two.weight, 2.0)
    follow(one, two, 0.75)
    assert (one.weight.item(), two.weight.item()) == (1.25, 2.0)


# Embeddings --------------------------------------------------------------------------------------


def test_embeddings_are_unit_rows_that_do_not_depend_on_companions():
    method, data = drawn().eval(), batch()
    with torch.no_grad():
        image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
        for rows, given in ((image, data.images["image"]), (text, data.tokens["text"])):
            encode = method.encode_images if given.ndim == 4 else method.encode_texts
            assert torch.allclose(rows.norm(dim=1), torch.ones(6))
            assert torch.allclose(encode(given[2:3]), rows[2:3], atol=1e-6)
            assert torch.allclose(encode(given.flip(0)).flip(0), rows, atol=1e-6)


def test_the_released_floor_depends_on_companions_and_says_so():
    method, data = drawn(zero_floor="batch").eval(), batch()
    with torch.no_grad():
        apart = method.encode_texts(data.tokens["text"][:1]) - method.encode_texts(data.tokens["text"])[:1]
    assert apart.abs().max() > 1e-3
    assert "--set method.zero_floor=always" in (TextReID.batch_dependent(method.config) or "")
    assert TextReID.batch_dependent(config()) is None


# Settings ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"pool_heads": 5}, "pool_heads = 5 does not divide the pool's 128 channels"),
        ({"tower": "ViT-B-16", "pool_heads": 4}, r"pool_heads is for ResNets \(RN50, "),
        ({"last_stride": 3}, "last_stride"),
        ({"zero_floor": "never"}, "zero_floor"),
        ({"tower": "RN500"}, "must be one of"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_the_reason(more, reason):
    with pytest.raises(ValidationError, match=reason):
        config(**more)


def test_an_image_too_small_for_the_tower_is_refused_with_the_least_size():
    with pytest.raises(RecipeError, match=r"image_size = \[64, 8\] is too small") as caught:
        drawn(task=Task((64, 8), 5))
    assert "1/16" in caught.value.hint


@pytest.mark.parametrize("size", [(64, 32), (63, 31), (79, 40), (80, 47)])
def test_images_of_any_size_fit_their_position_table(size):
    method = drawn(task=Task(size, 5)).eval()
    assert method.encode_images(torch.zeros(1, 3, *size)).shape == (1, 8)


def test_the_tokenizer_without_words_says_how_to_give_them():
    with pytest.raises(WeightsError, match="word table") as caught:
        TextReID.tokenizer(config())
    assert "--words" in caught.value.hint


# Foreign checkpoints -------------------------------------------------------------------------------


def files(drop: str | None = None, extra: dict[str, torch.Tensor] | None = None, **options: object) -> OfficialFiles:
    kept = {name: value for name, value in WEIGHTS.items() if drop is None or drop not in name}
    return OfficialFiles(kept | (extra or {}), options, "best.pth")


def test_shapes_and_the_yaml_tell_everything_but_the_heads():
    found = TextReID.recognise(files(**YAML))
    assert found is not None
    assert (found.sizes.width, found.sizes.layers, found.sizes.embed) == (4, (1, 2, 1, 1), 32)
    assert (found.last_stride, found.hidden, found.word_width, found.gru_input) == (1, 12, 16, 16)
    assert (found.head, found.queue, found.embed, found.momentum, found.contrast_mlp) == ("moco", 32, 16, 0.9, False)
    assert (found.label_smoothing, found.zero_floor) == (0.1, "always")
    assert TextReID.recognise_task(files(**YAML), found) == TASK.__class__((64, 32), 11)


def test_smoothing_above_zero_means_a_tenth_whatever_the_yaml_says():
    for epsilon, smoothing in ((0.3, 0.1), (0.0, 0.0)):
        yaml = YAML | {"MODEL": {"EMBEDDING": {"EPSILON": epsilon}}}
        found = TextReID.recognise(files(**yaml))
        assert found is not None and found.label_smoothing == smoothing


@pytest.mark.parametrize(
    ("folder", "stride", "head", "mlp"), [("simple", 2, "simple", False), ("moco_fc", 1, "moco", True)]
)
def test_other_heads_and_strides_are_read_off_the_shapes(folder, stride, head, mlp):
    weights = load_file(GOLDEN / folder / "weights.safetensors")
    size = (64, 32) if folder == "simple" else (48, 32)
    found = TextReID.recognise(OfficialFiles(weights, {"img_size": size}, "best.pth"))
    assert found is not None
    assert (found.last_stride, found.head, found.contrast_mlp) == (stride, head, mlp)


@pytest.mark.parametrize(("last_stride", "rows"), [(1, 193), (2, 49)])
def test_the_usual_image_needs_no_yaml(last_stride, rows):
    with torch.device("meta"):
        method = TextReID(TextReID.Config(name="textreid", last_stride=last_stride), Task((384, 128), 5))
    tensors = {}
    for name, value in method.state_dict().items():
        tensors[method.official.foreign(name)] = value
    tensors.pop("word_table")
    found = TextReID.recognise(OfficialFiles(tensors, {}, "best.pth"))
    assert found is not None
    assert (found.tower, found.last_stride, rows) == (
        "RN50",
        last_stride,
        len(method.visual.attnpool.positional_embedding),
    )
    assert TextReID.recognise_task(OfficialFiles(tensors, {}, "best.pth"), found).image_size == (384, 128)


def test_what_only_training_needs_may_be_absent():
    bare = {n: v for n, v in WEIGHTS.items() if not any(part in n for part in ("_k.", "queue", "loss_evaluator"))}
    found = TextReID.recognise(OfficialFiles(bare, YAML, "best.pth"))
    assert found is not None and found.head == "moco"


def test_a_missing_tensor_is_named_as_the_file_would_have_it():
    with pytest.raises(WeightsError, match=r"best.pth: 1 of \d+ .* missing \(first: embed_model.t_embed_layer.bias"):
        TextReID.recognise(files(drop="t_embed_layer.bias", **YAML))


def test_a_file_without_the_pools_table_is_incomplete():
    with pytest.raises(WeightsError, match="position table of TextReID's attention pool is missing"):
        TextReID.recognise(files(drop="attnpool", **YAML))


@pytest.mark.parametrize("extra", ["visual_model.transformer.resblocks.0.ln_1.weight", "base_model.visual.proj"])
def test_checkpoints_of_others_are_left_to_them(extra):
    assert TextReID.recognise(files(extra={extra: torch.zeros(1)}, **YAML)) is None


def test_an_image_that_denies_the_shapes_is_refused_with_both():
    with pytest.raises(WeightsError, match=r"positional_embedding is \(9, 128\).*image 384x128.*need \(193, 128\)"):
        TextReID.recognise(files(img_size=[384, 128]))
