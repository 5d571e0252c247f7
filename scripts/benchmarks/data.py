"""Images per second: the usual way to feed a training beside ours, in one run.

scripts/bench data [--files mixed|jpeg] [--views irra|tbps_clip] [--images N] [--rounds N] [--batch N]
                   [--device cpu|cuda]

The usual way is the papers': every image is opened, converted, resized, flipped, padded, cropped, normalised
and partly erased by torchvision in two worker processes, its caption cut into byte pairs and masked; or made into
TBPS-CLIP's four views, which count as four images. Ours are the exact way (same draws as the papers, from files or
from pre-decoded images, in as many processes) and whole batches on the device. Images of the sizes and formats of
CUHK-PEDES, of which most are PNG, are drawn into a temporary folder; or JPEG crops alone, as other sets have them. The
first epoch of each way is not timed; rounds then alternate between all of them, so that a busy machine slows them
alike; the median round counts.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks import _machine, _views
from PIL import Image
from support import oracles

from tbps_cli.augment.batched import BatchAugmenter
from tbps_cli.augment.exact import CLIP_TRAIN
from tbps_cli.augment.transform import CLIP_MEAN, CLIP_STD
from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Split
from tbps_cli.loading.loader import Loader
from tbps_cli.prepare.decode import build_store
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.masking import mask_words

SIZE = (384, 128)
SHAPES = ((60, 160, "png"), (64, 128, "jpg"), (110, 290, "png"), (90, 220, "jpg"), (150, 400, "png"))
"""Widths, heights and formats as they are mixed in CUHK-PEDES."""
MASK = Bpe(mask=True).mask_id
CROPS = ((91, 224, "jpg"),)


@dataclass(frozen=True)
class Views:
    """IRRA's images and masked captions, or others."""

    images: dict[str, Any] = field(default_factory=lambda: {"image": CLIP_TRAIN})
    masked: bool = False
    augment_text: str | None = None
    text_options: dict[str, float] = field(default_factory=dict)


def write_images(root: Path, count: int, shapes: Sequence[tuple[int, int, str]] = SHAPES) -> Split:
    """A training split of smooth noisy images with one caption each."""
    rng, records = np.random.default_rng(0), []
    (root / "CUHK-PEDES" / "imgs").mkdir(parents=True)
    for number in range(count):
        name = f"{number:05}.{shapes[number % len(shapes)][2]}"
        draw_image(rng, number, shapes).save(root / "CUHK-PEDES" / "imgs" / name, quality=90)
        caption = f"The person number {number} wears a striped shirt, blue jeans and white sneakers."
        records.append({"split": "train", "id": number + 1, "file_path": name, "captions": [caption]})
    (root / "CUHK-PEDES" / "reid_raw.json").write_text(json.dumps(records), encoding="utf-8")
    return open_dataset("cuhk-pedes", root).split("train")


def draw_image(rng: np.random.Generator, number: int, shapes: Sequence[tuple[int, int, str]] = SHAPES) -> Image.Image:
    """A smooth noisy image of one of the shapes, in turn."""
    width, height, _ = shapes[number % len(shapes)]
    down, across = np.mgrid[0:height, 0:width]
    waves = [120 + 70 * np.sin(across / (5 + c) + number) + 40 * np.cos(down / 19 + c) for c in range(3)]
    pixels = np.stack(waves, -1) + rng.normal(0, 6, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


class Usual(torch.utils.data.Dataset[Any]):
    """A sample as the papers' code makes it: open_clip's tokenizer is that of CLIP, which they copied."""

    def __init__(self, split: Split, transform: Callable[[Any], Any], masked: bool = False) -> None:
        self.split, self.transform, self.masked = split, transform, masked
        self.tokenizer: Callable[[list[str]], Any] = oracles.open_clip_tokenizer().SimpleTokenizer()

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image = Image.open(self.split.paths[int(self.split.caption_image[index])]).convert("RGB")
        token_T = torch.as_tensor(self.tokenizer([self.split.captions[index]])[0])
        if not self.masked:
            return self.transform(image), token_T
        pair = mask_words(token_T.tolist(), random.Random(), mask=MASK, first_special=MASK)
        return self.transform(image), token_T, *map(torch.tensor, pair)


def usual_transform(size: tuple[int, int]) -> Callable[[Any], Any]:
    """The papers' changes of a training image, by torchvision."""
    t = oracles.torchvision().transforms
    steps = [t.Resize(size), t.RandomHorizontalFlip(0.5), t.Pad(10), t.RandomCrop(size), t.ToTensor()]
    steps += [t.Normalize(CLIP_MEAN, CLIP_STD), t.RandomErasing(scale=(0.02, 0.4), value=CLIP_MEAN)]
    return t.Compose(steps)


def usual_loader(
    split: Split, batch: int, workers: int, transform: Callable[[Any], Any] | None = None, masked: bool = False
) -> torch.utils.data.DataLoader[Any]:
    samples = Usual(split, transform or usual_transform(SIZE), masked)
    return torch.utils.data.DataLoader(
        samples, batch, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


def passes(split: Split, options: argparse.Namespace, store: Any) -> dict[str, Callable[[int], Iterator[Any]]]:
    """Name -> an epoch's batches."""
    common: dict[str, Any] = {"batch": options.batch, "seed": 1, "workers": options.workers}
    views, transform = Views(masked=True), usual_transform(store.size)
    if options.views == "tbps_clip":
        views, transform = Views(_views.FOUR), _views.usual_four(store.size)
    usual = usual_loader(split, options.batch, options.workers, transform, views.masked)
    files = Loader(split, views, Bpe(mask=True), store.size, **common)
    stored = Loader(split, views, Bpe(mask=True), store.size, store=store, **common)
    common["workers"] = 0
    augmenter = BatchAugmenter(store, split.paths, options.device)
    whole = Loader(split, views, Bpe(mask=True), store.size, store=store, augmenter=augmenter, **common)
    return {
        "the usual way": lambda number: iter(usual),
        "ours, exact, from files": files.epoch,
        "ours, exact, decoded before": stored.epoch,
        "ours, whole batches": whole.epoch,
    }


def speed(batches: Iterator[Any], device: str) -> tuple[float, float]:
    """Images a second over one epoch, by the clock and by the processor time of all our processes."""
    started, count, busy = time.perf_counter(), 0, _machine.processor_seconds()
    for batch in batches:
        for image in batch.images.values() if hasattr(batch, "images") else batch[:1]:
            count += image.to(device, non_blocking=True).shape[:-3].numel()
    if device == "cuda":
        torch.cuda.synchronize()
    return count / (time.perf_counter() - started), count / max(1e-9, _machine.processor_seconds() - busy)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("images", 1280), ("rounds", 5), ("batch", 64), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--files", default="mixed", choices=["mixed", "jpeg"])
    parser.add_argument("--views", default="irra", choices=["irra", "tbps_clip"])
    options = parser.parse_args(argv)
    size = SIZE if options.views == "irra" else _views.SIZE
    print(_machine.line(options.device))
    with tempfile.TemporaryDirectory() as folder:
        split = write_images(Path(folder), options.images, SHAPES if options.files == "mixed" else CROPS)
        store = build_store(split.root, split.paths, size)[0]
        ways = passes(split, options, store)
        seen: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, epoch in ways.items():
                figure = speed(epoch(number), options.device)
                if number:  # the first epoch starts processes and fills caches
                    seen[name].append(figure)
    print(
        f"{options.images} {options.files} images of {size[0]} x {size[1]}, views of {options.views}, "
        f"batches of {options.batch}, {options.workers} workers"
    )
    print(f"{'':30}{'images/s':>12}{'x usual':>9}   {'a core-second':>14}{'x usual':>9}   lowest to highest round")
    first: list[float] = []
    for name, figures in seen.items():
        clock, busy = (statistics.median(column) for column in zip(*figures, strict=True))
        first = first or [clock, busy]
        low, high = min(figures)[0], max(figures)[0]
        ratios = clock / first[0], busy / first[1]
        print(f"{name:30}{clock:12,.0f}{ratios[0]:9.1f}   {busy:14,.0f}{ratios[1]:9.1f}   {low:,.0f} to {high:,.0f}")
    print("a core-second: images for each second that processors worked for us, whatever else they had to do")
    return 0


if __name__ == "__main__":
    sys.exit(main())
