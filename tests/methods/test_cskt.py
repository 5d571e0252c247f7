"""CSKT beyond its golden numbers: sizes, what is frozen, batch companions, refusals, the two starts."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from tbps_cli.engine import optim
from tbps_cli.methods.cskt import CSKT
from tbps_cli.methods.irra import IRRA
from tbps_cli.nn.prompts import make_room
from tbps_cli.nn.sizes import Tower
from tbps_cli.recipe.load import load
from tbps_cli.types import Batch, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

WEIGHTS = load_file(Path(__file__).parents[1] / "golden" / "cskt" / "weights.safetensors")
TINY = Tower(width=64, layers=2, patch=16, embed=64, text_width=64, text_layers=2, context=20, vocabulary=60)
TASK = Task((96, 32), 5)


def drawn(**more: object) -> CSKT:
    method = CSKT(CSKT.Config(name="cskt", tower=TINY, depth=2, **more), TASK)
    method.initialise(torch.Generator().manual_seed(0))
    return method.eval()


def batch(rows: int = 6) -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (rows, 20), generator=draws)
    for row in range(rows):
        text[row, 0], text[row, 3 + 3 * row], text[row, 4 + 3 * row :] = 58, 59, 0
    images = torch.randn(rows, 3, 96, 32, generator=draws)
    person = torch.arange(rows) % 5
    return Batch({"image": images}, {"text": text}, person, person, person)


def test_the_real_model_has_the_published_number_of_parameters():
    with torch.device("meta"):
        method = CSKT(CSKT.Config(name="cskt"), Task((384, 128), 11_003))
    trained = [value for name, value in method.named_parameters() if method.group_of(name).rate != "frozen"]
    assert sum(value.numel() for value in method.parameters()) == 161_735_552
    assert sum(value.numel() for value in trained) == 12_117_888
    assert (len(trained), len(method.state_dict())) == (216, 517)


@pytest.mark.parametrize("row", range(6))
def test_an_embedding_does_not_depend_on_batch_companions(row):
    method, data = drawn(), batch()
    with torch.no_grad():
        image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
        alone = data.rows(row, row + 1)
        assert torch.allclose(method.encode_images(alone.images["image"])[0], image[row], atol=1e-6)
        assert torch.allclose(method.encode_texts(alone.tokens["text"])[0], text[row], atol=1e-6)


def test_steps_leave_clip_as_it_was_and_move_everything_else():
    method, recipe = drawn(), load("cskt")
    before = {name: value.detach().clone() for name, value in method.named_parameters()}
    optimizer = optim.build(method, recipe.optim)
    for _ in range(2):
        optimizer.zero_grad()
        torch.stack(list(method(batch(), Step()).values())).sum().backward()
        optimizer.step()
    moved = {name for name, value in method.named_parameters() if not torch.equal(value, before[name])}
    new = {name for name in before if "adapter_mlp" in name or "ln_3" in name or name.startswith("prompts.")}
    assert moved == new


def test_a_long_caption_keeps_its_end_token_when_prompts_take_room():
    ids = torch.tensor([[8, 1, 2, 3, 9, 0], [8, 1, 2, 3, 4, 9], [8, 9, 0, 0, 0, 0]])
    shifted = make_room(ids, 2, torch.tensor([5, 6]))
    assert shifted.tolist() == [[8, 5, 6, 1, 2, 9], [8, 5, 6, 1, 2, 9], [8, 5, 6, 9, 0, 0]]


@pytest.mark.parametrize(("key", "value"), [("n_ctx", 9), ("n_ctx", 0), ("reduction", 7), ("tower", "RN50")])
def test_impossible_settings_are_refused(key, value):
    with pytest.raises(ValidationError, match=key):
        CSKT.Config.model_validate({"name": "cskt", key: value})


def test_the_meant_start_takes_the_words_of_the_phrase_from_clip():
    tower = TINY.model_copy(update={"vocabulary": 49408, "context": 77})
    method = CSKT(CSKT.Config(name="cskt", tower=tower, depth=1, ctx_init="clip"), TASK)
    method.initialise(torch.Generator().manual_seed(0))
    state = {name: value.clone() for name, value in method.clip.state_dict().items()}
    method.load_weights(state)
    assert torch.equal(method.prompts.ctx, state["token_embedding.weight"][[320, 1125, 539, 320]])


def test_relatives_do_not_claim_each_others_files():
    files = OfficialFiles(WEIGHTS, {"img_size": [96, 32]}, "best.pth")
    assert CSKT.recognise(files) is not None
    assert IRRA.recognise(files) is None
    plain = {name: value for name, value in WEIGHTS.items() if "prompt" not in name and "adapter" not in name}
    assert CSKT.recognise(OfficialFiles(plain, {}, "best.pth")) is None
