"""TextReID's ImageNet baseline written again from its equations, tiny: a golden folder, and files as its authors have.

The image tower is made of torchvision's own blocks, the text tower of PyTorch's layers; losses are written out pair by
pair. Nothing of `tbps_cli` takes part.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from support import oracles
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

WIDTH, LAYERS, EMBED, PERSONS, ROWS, INSIDE, HIDDEN = 4, (1, 2, 1, 1), 12, 9, 30, 10, 6
SIZE, BATCH, STEPS, LR = (64, 32), 8, 2, 1e-3
YAML = """MODEL:
  DEVICE: "cuda"
  VISUAL_MODEL: "resnet50"
  NUM_CLASSES: 9
  GRU:
    ONEHOT: "yes"
    VOCABULARY_SIZE: 30
    EMBEDDING_SIZE: 10
  RESNET:
    RES5_STRIDE: 1
  EMBEDDING:
    EMBED_HEAD: 'simple'
    FEATURE_SIZE: 12
    EPSILON: 0.1
INPUT:
  HEIGHT: 64
  WIDTH: 32
DATASETS:
  TRAIN: ("cuhkpedes_train", )
"""


class Visual(nn.Module):
    """torchvision's ResNet with narrow stages, the last one at stride 1, without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTH, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTH)
        self.pool = nn.MaxPool2d(3, 2, 1)
        block, inside = oracles.torchvision().models.resnet.Bottleneck, WIDTH
        for number, (blocks, stride) in enumerate(zip(LAYERS, (1, 2, 2, 1), strict=True)):
            planes = WIDTH * 2**number
            shortcut = nn.Sequential(nn.Conv2d(inside, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes))
            stage = [block(inside, planes, stride, shortcut)]
            stage += [block(4 * planes, planes) for _ in range(blocks - 1)]
            self.add_module(f"layer{number + 1}", nn.Sequential(*stage))
            inside = 4 * planes
        self.average = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.bn1(self.conv1(x))))
        return self.average(self.layer4(self.layer3(self.layer2(self.layer1(x))))).flatten(1)


class Textual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(ROWS, INSIDE, padding_idx=0)
        self.gru = nn.GRU(INSIDE, HIDDEN, bias=False, bidirectional=True, batch_first=True)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0].amax(1)


class Baseline(nn.Module):
    """Parameter names are those of the published files."""

    def __init__(self) -> None:
        super().__init__()
        self.visual_model, self.textual_model = Visual(), Textual()
        self.embed_model = nn.Module()
        self.embed_model.visual_embed_layer = nn.Linear(32 * WIDTH, EMBED)
        self.embed_model.textual_embed_layer = nn.Linear(2 * HIDDEN, EMBED)
        self.embed_model.loss_evaluator = nn.Module()
        self.embed_model.loss_evaluator.projection = nn.Parameter(torch.empty(EMBED, PERSONS))

    def forward(self, images: Tensor, ids: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        image = self.embed_model.visual_embed_layer(self.visual_model(images))
        return image, self.embed_model.textual_embed_layer(self.textual_model(ids, lengths))

    def losses(self, image: Tensor, text: Tensor, person: Tensor) -> dict[str, Tensor]:
        columns = self.embed_model.loss_evaluator.projection / self.embed_model.loss_evaluator.projection.norm(dim=0)
        identity = torch.zeros(())
        for features in (image, text):
            for row, right in zip(torch.log_softmax(features @ columns, 1), person, strict=True):
                identity = identity - (0.9 * row[right] + 0.1 / PERSONS * row.sum()) / len(person)
        align = torch.zeros(())
        for one, caption in enumerate(text):
            for other, view in enumerate(image):
                cosine = torch.cosine_similarity(caption, view, dim=0)
                same = person[one] == person[other]
                align = align + torch.log1p(torch.exp(-10 * (cosine - 0.6) if same else 40 * (cosine - 0.4)))
        return {"instance_loss": identity, "global_align_loss": 2 / len(person) * align}


def drawn(seed: int = 0) -> Baseline:
    model, draws = Baseline(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point():
                # shifts so small that no channel is positive everywhere: its gradient would be rounding alone
                scale = 0.1 if value.ndim == 1 else 0.5
                value.copy_(scale * torch.randn(value.shape, generator=draws) / math.sqrt(value[0].numel()))
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(0.5 + torch.rand(value.shape, generator=draws))
    return model


def inputs(step: int) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(100 + step)
    lengths = torch.randint(2, 9, (BATCH,), generator=draws)
    ids = torch.zeros(BATCH, 105, dtype=torch.int64)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(1, ROWS, (int(length),), generator=draws)
    person = torch.arange(BATCH) % 5 + step - 1
    images = torch.randn(BATCH, 3, *SIZE, generator=draws)
    return {"images": images, "tokens": ids, "lengths": lengths, "pids": person}


def golden_folder(folder: Path) -> Path:
    """What the published code would have computed, in the layout of the other golden folders."""
    model = drawn()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    given = {f"{name}_{step}": value for step in (1, 2) for name, value in inputs(step).items()}
    outputs = _evaluated(model.eval(), inputs(1))
    groups = [
        {"params": [value], "lr": LR * (2 if "bias" in name else 1), "weight_decay": 0.0 if "bias" in name else 4e-5}
        for name, value in model.named_parameters()
    ]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8)
    for step in range(1, STEPS + 1):
        data = inputs(step)
        image, text = model.train()(data["images"], data["tokens"], data["lengths"])
        losses = model.losses(image, text, data["pids"])
        total = torch.stack([*losses.values()]).sum()
        optimizer.zero_grad()
        total.backward()
        prefix = f"step{step}."
        outputs |= {f"{prefix}v_embed": image.detach(), f"{prefix}t_embed": text.detach()}
        outputs |= {f"{prefix}loss.{name}": value.detach()[None] for name, value in (*losses.items(), ("total", total))}
        outputs |= {f"{prefix}grad.{name}": value.grad.clone() for name, value in model.named_parameters()}
        optimizer.step()
        outputs |= {f"{prefix}after.{name}": value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        data = inputs(1)
        image, text = model.eval()(data["images"], data["tokens"], data["lengths"])
    outputs |= {"after_steps.image_features": image, "after_steps.text_features": text}
    config = {
        "method": "textreid",
        "set": "baseline",
        "visual": {"kind": "ResNet", "width": WIDTH, "layers": LAYERS, "input_resolution": SIZE, "last_stride": 1},
        "text": {"embedding": "trained", "table_rows": ROWS, "gru_input": INSIDE, "hidden": HIDDEN},
        "head": {"kind": "simple", "num_classes": PERSONS, "label_smoothing": 0.1, "K": 0, "momentum": 0},
        "optimizer": {
            "name": "Adam",
            "base_lr": LR,
            "bias_lr_factor": 2,
            "weight_decay": 4e-5,
            "weight_decay_bias": 0.0,
            "betas": [0.9, 0.999],
            "eps": 1e-8,
            "warmup_factor": 1.0,
            "warmup_epochs": 5,
            "epoch_of_all_steps": 0,
        },
        "steps": STEPS,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, tensors in {"weights": weights, "inputs": given, "outputs": outputs}.items():
        save_file({key: value.detach().contiguous() for key, value in tensors.items()}, folder / f"{name}.safetensors")
    return folder


@torch.no_grad()
def _evaluated(model: Baseline, data: dict[str, Tensor]) -> dict[str, Tensor]:
    image, text = model(data["images"], data["tokens"], data["lengths"])
    alone = [model(data["images"][row : row + 1], *_row(data, row))[1] for row in range(BATCH)]
    raw = model.textual_model(data["tokens"], data["lengths"])
    unit = [torch.nn.functional.normalize(features, dim=1) for features in (image, text)]
    return {
        "image_features": image,
        "text_features": text,
        "image_features_norm": unit[0],
        "text_features_norm": unit[1],
        "similarity_t2i": unit[1] @ unit[0].T,
        "text_features_alone": torch.cat(alone),
        "text_features_floor": model.embed_model.textual_embed_layer(raw.clamp(min=0)),
        "act.visual_pooled": model.visual_model(data["images"]),
        "act.text_gru_pooled": raw,
    }


def _row(data: dict[str, Tensor], row: int) -> tuple[Tensor, Tensor]:
    return data["tokens"][row : row + 1], data["lengths"][row : row + 1]


def checkpoint(folder: Path, *, yaml: bool = True) -> Path:
    """best.pth as the released training loop writes it, and the YAML that lies beside it."""
    folder.mkdir(parents=True)
    content = {"model": drawn().state_dict(), "epoch": 41, "iteration": 1200, "max_epoch": 80, "distributed": False}
    torch.save(content, folder / "best.pth")
    if yaml:
        (folder / "baseline_gru_rn50_ls_bs128.yaml").write_text(YAML)
    return folder / "best.pth"
