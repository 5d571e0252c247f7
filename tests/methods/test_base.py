"""What a method gets without saying so: the defaults of `methods.base`, and how methods are found."""

import pytest
import torch
from torch import nn

from tbps_cli import methods
from tbps_cli.losses.contrastive import unit
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.heads import Classifier
from tbps_cli.nn.sizes import Tower
from tbps_cli.types import Batch, Task

TINY = Tower(width=64, layers=1, patch=16, embed=32, text_width=64, text_layers=1, context=12)
CONFIG = MethodConfig(name="own", tower=TINY)


class Towers(Method):
    """CLIP's towers and whatever head a test wants."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__(CONFIG, Task((32, 16), 5))
        self.clip = Clip(TINY, (32, 16))
        if head is not None:
            self.head = head


def batch() -> Batch:
    number = torch.arange(2)
    caption_BT = torch.tensor([[49406, 320, 49407, *[0] * 9], [49406, 320, 1125, 49407, *[0] * 8]])
    image_BCHW = torch.randn(2, 3, 32, 16, generator=torch.Generator().manual_seed(1))
    return Batch({"image": image_BCHW}, {"text": caption_BT}, number, number, number)


def test_a_method_on_clips_towers_embeds_by_their_class_and_end_tokens() -> None:
    method, data = Towers(), batch()
    method.initialise(torch.Generator().manual_seed(0))
    expected = image_feature(method.clip, data.images["image"]), text_feature(method.clip, data.tokens["text"])
    assert torch.equal(method.encode_images(data.images["image"]), unit(expected[0]))
    assert torch.equal(method.encode_texts(data.tokens["text"]), unit(expected[1]))
    features = method.features(data)
    assert torch.equal(features["image"], expected[0]) and torch.equal(features["text"], expected[1])
    assert method.tokenizer(CONFIG).context == TINY.context


def test_every_part_draws_itself_in_the_order_of_construction() -> None:
    method, draws = Towers(Classifier(32, 5)), torch.Generator().manual_seed(0)
    method.initialise(torch.Generator().manual_seed(0))
    clip, classifier = Clip(TINY, (32, 16)), Classifier(32, 5)
    clip.initialise(draws)
    classifier.initialise(draws)
    assert torch.equal(method.clip.text_projection, clip.text_projection)
    assert torch.equal(method.head.weight, classifier.weight)


def test_a_part_that_cannot_draw_itself_is_named() -> None:
    with pytest.raises(TypeError, match=r"Towers\.head has no initialise"):
        Towers(nn.Linear(32, 5)).initialise(torch.Generator())


def test_what_several_methods_share_is_not_a_method() -> None:
    assert "_token_head" not in methods.names() and "base" not in methods.names()
    assert {"php", "comoe"} <= set(methods.names())
