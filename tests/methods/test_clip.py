"""Plain CLIP: its loss, its temperature, and the files that it recognises."""

import pytest
import torch

from tbps_cli.losses.contrastive import itc
from tbps_cli.methods import find
from tbps_cli.methods.clip import LOWEST_TEMPERATURE, PlainCLIP
from tbps_cli.nn.sizes import TOWERS, Tower
from tbps_cli.types import Batch, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles

TINY = Tower(width=64, layers=1, patch=16, embed=32, text_width=64, text_layers=1, context=12, vocabulary=60)


def drawn(size: tuple[int, int] = (96, 32), **more: object) -> PlainCLIP:
    method = PlainCLIP(PlainCLIP.Config(name="clip", tower=TINY, **more), Task(size))
    method.initialise(torch.Generator().manual_seed(0))
    return method


def batch() -> Batch:
    draws = torch.Generator().manual_seed(1)
    text = torch.randint(1, 50, (4, 12), generator=draws)
    text[:, 6], text[:, 7:] = 59, 0
    number = torch.arange(4)
    return Batch({"image": torch.randn(4, 3, 96, 32, generator=draws)}, {"text": text}, number, number, number)


def test_the_file_is_its_registration():
    assert find("clip") is PlainCLIP


def test_the_loss_is_the_contrastive_one_of_what_is_searched_with():
    method, data = drawn(), batch()
    with torch.no_grad():
        image, text = method.encode_images(data.images["image"]), method.encode_texts(data.tokens["text"])
        losses = method(data, Step())
    assert set(losses) == {"itc"}
    assert torch.allclose(losses["itc"], itc(image, text, temperature=0.02), rtol=1e-5)
    assert torch.allclose(image.norm(dim=1), torch.ones(4))


def test_a_learned_temperature_starts_where_told_gets_a_gradient_and_never_freezes():
    method = drawn(learn_temperature=True, temperature=0.07)
    assert method.temperature().item() == pytest.approx(0.07)
    method(batch(), Step())["itc"].backward()
    assert method.logit_scale.grad.abs() > 0
    with torch.no_grad():
        method.logit_scale.fill_(20)
    assert method.temperature().item() == pytest.approx(LOWEST_TEMPERATURE)


def test_biases_and_the_temperature_do_not_decay():
    method = drawn(learn_temperature=True)
    assert method.group_of("clip.visual.ln_pre.bias") == Group("bias", decay=False)
    assert method.group_of("logit_scale") == Group("bias", decay=False)
    assert method.group_of("clip.visual.proj") == Group("tower")


def test_an_openai_state_is_recognised_with_its_square_image():
    extras = {name: torch.tensor(224) for name in ("input_resolution", "context_length", "vocab_size", "logit_scale")}
    files = OfficialFiles(dict(drawn((64, 64)).clip.state_dict()) | extras, {}, "tiny.pt")
    found = PlainCLIP.recognise(files)
    assert found is not None and found.sizes == TINY
    assert PlainCLIP.recognise_task(files, found) == Task((64, 64))


def test_a_state_of_a_named_tower_is_called_by_its_name():
    with torch.device("meta"):
        state = PlainCLIP(PlainCLIP.Config(name="clip"), Task((224, 224))).clip.state_dict()
    found = PlainCLIP.recognise(OfficialFiles(dict(state), {}, "ViT-B-16.pt"))
    assert found is not None
    assert found.tower == "ViT-B-16" and found.sizes == TOWERS["ViT-B-16"]


@pytest.mark.parametrize("extra", ["base_model.visual.proj", "classifier.weight", "visual.adapter.weight"])
def test_a_state_with_tensors_of_another_method_is_left_to_it(extra):
    state = dict(drawn().clip.state_dict())
    assert PlainCLIP.recognise(OfficialFiles(state | {extra: torch.zeros(1)}, {}, "x.pt")) is None
    assert PlainCLIP.recognise(OfficialFiles({"classifier.weight": torch.zeros(1)}, {}, "x.pt")) is None
