"""Do sets hold whom they promise? `--sure` on splits drawn by person, from a simulation or from a model's embeddings.

scripts/bench trust [--splits N] [--features FILE ...] [--level P] [--val N] [--persons N ...]

Each split has persons to calibrate on, a gallery of others, and others still who are described but not in it.
Printed are means over the splits, and the range in which nine of ten splits lie. --features: files of
`tbps eval --save-features`; persons of all of them are pooled. Without any, two simulated models: in "easy" a person's
images and captions lie close together, in "hard" they lie about as the demo's do.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.similarity import product
from tbps_cli.trust.conformal import ConformalRule
from tbps_cli.trust.fitting import Labelled, covered, fit_rule

Array = NDArray[np.float32]
WIDTH = 64
SPREAD = {"easy": (0.45, 0.5), "hard": (0.9, 1.7)}
"""How far images and captions lie from their person, who is at distance 1 from the middle."""
IMAGES, CAPTIONS = 3, 4
QUERIES = 400
"""Of those in the gallery, and of those who are not, in each split."""

World = Callable[..., Iterator[Labelled]]
"""Takes a generator and numbers of persons, and draws a split of so many other persons for each of them."""


@dataclass(frozen=True)
class Outcome:
    """One split, in shares."""

    coverage: float
    size: float
    present_refused: float
    absent_refused: float


def simulated(kind: str) -> World:
    """A model of which only the distances are known: persons, images and captions are normal around each other."""
    of_image, of_text = SPREAD[kind]

    def drawn(rng: np.random.Generator, persons: int) -> Labelled:
        centre = rng.standard_normal((persons, WIDTH))
        person_G, person_Q = np.repeat(np.arange(persons), IMAGES), np.repeat(np.arange(persons), CAPTIONS)
        image = centre[person_G] + of_image * rng.standard_normal((len(person_G), WIDTH))
        text = centre[person_Q] + of_text * rng.standard_normal((len(person_Q), WIDTH))
        return Labelled(_unit(text), _unit(image), person_Q, person_G)

    def world(rng: np.random.Generator, *counts: int) -> Iterator[Labelled]:
        return (drawn(rng, count) for count in counts)

    return world


def recorded(files: Sequence[Path]) -> World:
    """Embeddings of a model, from which persons are drawn."""
    parts, shift = [], 0
    for file in files:
        with np.load(file) as stored:
            part = Labelled.of(*(stored[key] for key in ("text_QE", "image_GE", "caption_person", "image_person")))
        parts.append(Labelled(part.text_QE, part.image_GE, part.person_Q + shift, part.person_G + shift))
        shift = 1 + int(parts[-1].person_G.max())
    joined = (np.concatenate([getattr(part, name) for part in parts]) for name in Labelled.__dataclass_fields__)
    whole = Labelled(*joined)

    def world(rng: np.random.Generator, *counts: int) -> Iterator[Labelled]:
        order = rng.permutation(np.unique(whole.person_Q))
        if sum(counts) > len(order):
            raise SystemExit(f"Error: {sum(counts)} persons are needed, the files have {len(order)}.")
        for chosen in np.split(order, np.cumsum(counts))[:-1]:
            inside_Q, inside_G = np.isin(whole.person_Q, chosen), np.isin(whole.person_G, chosen)
            yield Labelled(
                whole.text_QE[inside_Q], whole.image_GE[inside_G], whole.person_Q[inside_Q], whole.person_G[inside_G]
            )

    return world


def outcome(rule: ConformalRule, gallery: Labelled, absent: Labelled, level: float) -> Outcome:
    """What the rule does for people in a gallery and for others."""
    there = covered(rule, gallery, level)
    limit = rule.judge(level, 1.0, len(gallery.image_GE))
    best_Q = product(absent.text_QE, gallery.image_GE).max(axis=1)
    refused = best_Q < max(limit.stranger, limit.threshold)
    return Outcome(there.coverage, there.size, there.present_refused, float(np.mean(refused)))


def run(world: World, splits: int, val: int, persons: int, level: float, seed: int = 0) -> list[Outcome]:
    """One outcome a split; those in which nobody got a set say nothing of coverage and are left out there."""
    made = []
    for split in range(splits):
        rng = np.random.default_rng((seed, split))
        calibration, gallery, absent = world(rng, val, persons, val)
        made.append(outcome(fit_rule(calibration), _some(gallery, rng), _some(absent, rng), level))
    return made


def _some(split: Labelled, rng: np.random.Generator) -> Labelled:
    """At most `QUERIES` captions of a split, all of its images."""
    kept = rng.permutation(len(split.text_QE))[:QUERIES]
    return Labelled(split.text_QE[kept], split.image_GE, split.person_Q[kept], split.person_G)


def _unit(row_BE: NDArray[np.float64]) -> Array:
    made: Array = (row_BE / np.linalg.norm(row_BE, axis=1, keepdims=True)).astype(np.float32)
    return made


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--splits", type=int, default=200)
    parser.add_argument("--features", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--level", type=float, default=0.9)
    parser.add_argument("--val", type=int, default=135, help="persons to calibrate on")
    parser.add_argument("--persons", type=int, nargs="+", default=[8, 20, 60, 135, 500], help="persons in the gallery")
    options = parser.parse_args(argv)
    worlds = (
        {"recorded": recorded(options.features)} if options.features else {kind: simulated(kind) for kind in SPREAD}
    )
    print(f"{options.splits} splits, calibrated on {options.val} persons, --sure {options.level:g}")
    print(
        f"{'model':<9}{'persons':>8}{'in the set':>12}{'9 of 10 splits':>16}{'images':>8}{'present refused':>17}",
        end="",
    )
    print(f"{'absent refused':>16}")
    for name, world in worlds.items():
        for persons in options.persons:
            found = run(world, options.splits, options.val, persons, options.level)
            coverage = np.array([one.coverage for one in found])
            low, high = np.nanquantile(coverage, (0.05, 0.95))
            size, present, absent = np.mean([(o.size, o.present_refused, o.absent_refused) for o in found], axis=0)
            print(f"{name:<9}{persons:>8}{np.nanmean(coverage):>11.1%} {low:>7.1%} - {high:>5.1%}", end=" ")
            print(f"{size:>7.1f}{present:>16.1%} {absent:>15.1%}")


if __name__ == "__main__":
    main()
