"""The further files of a golden folder: captions to ids, masked words, metrics, images to tensors."""

from __future__ import annotations

import random
from typing import Any

import torch
from parity.check import Figures

from tbps_cli.retrieval.metrics import details_of_similarity
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.masking import dual_masks, informative_chances, mask_words, noise_chances


def tokenizer(figures: Figures, bpe: Bpe) -> None:
    """tokenizer.json of IRRA: the special ids and, caption by caption, ids and whole rows."""
    figures.exact("vocab_size", bpe.vocabulary)
    figures.exact("mask", bpe.mask_id)
    figures.exact("sot", bpe.start)
    figures.exact("eot", bpe.end)
    cases = figures.use("note", "cases")
    for number, case in enumerate(cases):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        text = entry.use("text")
        entry.exact("ids", bpe.encode(text))
        entry.exact("tokens77", bpe([text])[0])
        entry.close()


def masking(figures: Figures, bpe: Bpe) -> None:
    """mlm_masking.json of IRRA: masked rows and labels from seeded draws."""
    cases = figures.use("rng", "replacement_population", "cases")
    for number, case in enumerate(cases):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        rng = random.Random(entry.use("seed"))
        masked, labels = mask_words(entry.use("tokens"), rng, mask=bpe.mask_id, first_special=bpe.mask_id)
        entry.exact("masked", masked)
        entry.exact("labels", labels)
        entry.close()


class Recorded(random.Random):
    """Python's generator, which remembers what it gave: shares and chosen words."""

    def __init__(self, seed: int) -> None:
        self.draws: list[Any] = []
        super().__init__(seed)

    def random(self) -> float:
        self.draws.append(super().random())
        return float(self.draws[-1])

    def choice(self, seq: Any) -> Any:
        self.draws.append(super().choice(seq))
        return self.draws[-1]

    def getrandbits(self, k: int, /) -> int:
        """As ever; stated, since a subclass that overrides `random` alone chooses otherwise."""
        return super().getrandbits(k)


def dual_masking(figures: Figures) -> None:
    """masking.json of GA-DMS: both views of a caption from scores and seeded draws, the chances and the draws."""
    cases = figures.use("rng", "replacement_population", "rule", "cases")
    for number, case in enumerate(cases):
        entry = Figures(case, figures.report, f"{figures.prefix}cases.{number}.")
        scores, rng = entry.use("importance"), Recorded(entry.use("kind", "seed"))
        bpe = Bpe(len(scores), mask=True)
        entry.exact("tokens", bpe([entry.use("text")])[0])
        views = dual_masks(entry.use("tokens"), scores, rng, mask=bpe.mask_id, first_special=bpe.mask_id)
        entry.exact("masked", views.masked)
        entry.exact("labels", views.labels)
        entry.exact("noise", views.noise)
        entry.check("mlm_probability", informative_chances(scores), 1e-15)
        entry.check("noise_probability", noise_chances(scores), 1e-15)
        words = len(entry.values["draws_masked"])
        entry.exact("draws_masked", rng.draws[:words])
        entry.exact("draws_noise", rng.draws[words:])
        entry.close()


def metrics(figures: Figures) -> None:
    """metrics.json of IRRA: a similarity matrix scored in both directions; scores are float32 there."""
    similarity = torch.tensor(figures.use("note", "similarity"))
    query, gallery = figures.use("query_pids"), figures.use("gallery_pids")
    ways = {"t2i": (similarity, query, gallery), "i2t": (similarity.T.contiguous(), gallery, query)}
    expected = figures.sub("expected")
    for way, given in ways.items():
        found = details_of_similarity(*given)
        table = expected.sub(way)
        table.check("cmc", found.cmc(len(table.values["cmc"])))
        for name, value in found.scores()._asdict().items():
            table.check(name, value)


def transforms(tensors: Figures, remarks: Figures) -> None:
    """transforms.* of IRRA: one image, its evaluation tensor and seeded training tensors."""
    from PIL import Image

    from tbps_cli.augment.exact import CLIP_TRAIN, PLAIN_TRAIN, augment
    from tbps_cli.augment.rng import Draws
    from tbps_cli.augment.transform import CLIP_EVAL, EvalTransform

    size = tuple(remarks.use("note", "torch", "torchvision", "pillow", "size"))
    image = Image.fromarray(tensors.use("image_uint8_hwc").numpy())
    tensors.check("eval", EvalTransform(size, **CLIP_EVAL)(image))
    for name, how in (("train_aug", CLIP_TRAIN), ("train_noaug", PLAIN_TRAIN)):
        for seed in tensors.starting(f"{name}.seed"):
            tensors.check(f"{name}.seed{seed}", augment(image, size, how, Draws(int(seed))))
