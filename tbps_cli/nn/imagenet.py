"""The plain ResNet that ImageNet's classifiers are made of: one 7x7 convolution, a maximum pool, an average at the end.

TextReID's baseline stands on it (Han et al., BMVC 2021). Parameter names are torchvision's, whose weights it starts
from; what it lacks is their last layer, the classifier of ImageNet. Differences from CLIP's ResNet (`nn.resnet`):
the stem, strides inside convolutions, and no attention pool, so that images of any size fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tbps_cli.nn.norm import BatchNorm2d
from tbps_cli.nn.resnet import EXPANSION, stages


class ImageNetResNet(nn.Module):
    """[B, 3, H, W] -> [B, 32 * width], the mean of the last map. `last_stride` 1 keeps the last stage at 1/16.

    width: channels of the stem; layers: blocks of the four stages (3, 4, 6, 3 are ResNet-50).
    """

    def __init__(self, layers: tuple[int, int, int, int], width: int, last_stride: int = 2) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm2d(width)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages(width, layers, last_stride, pooled=False)
        self.embed = imagenet_embed(width)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu(self.bn1(self.conv1(image_BCHW.to(self.conv1.weight.dtype))))
        x_BCHW = F.max_pool2d(x_BCHW, 3, stride=2, padding=1)
        x_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return x_BCHW.mean((2, 3))

    def initialise(self, generator: torch.Generator) -> None:
        """Convolutions as torchvision draws them: Kaiming-normal by their outputs."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)


def imagenet_embed(width: int) -> int:
    """Length of the feature of a ResNet whose stem has `width` channels."""
    return 8 * EXPANSION * width


class _Shaped(Protocol):
    @property
    def shape(self) -> Any: ...


def is_imagenet(state: Mapping[str, _Shaped]) -> bool:
    """Whether tensors (names as torchvision's) are those of this network: its first convolution tells."""
    first = state.get("conv1.weight")
    return first is not None and tuple(first.shape[1:]) == (3, 7, 7) and "layer1.0.conv1.weight" in state
