"""Somebody who reads and sees perfectly, and somebody who reads words without their order: the ends of the probe.

The reader understands the renderer's sentences by rules of his own, which share nothing with `probing.wording`, and
knows of every image what was drawn. His embeddings count statements that are true: one entry a statement.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from support.encoder import FakeEncoder, unit

from tbps_cli.features.encoder import Embeddings
from tbps_cli.synthetic.camera import Shot
from tbps_cli.synthetic.captions import describe, sides, visible
from tbps_cli.synthetic.figure import draw_stance
from tbps_cli.synthetic.person import people

NOUNS = {
    "upper=t-shirt": "t-shirt|tee|short sleeved shirt",
    "upper=shirt": "shirt|long sleeved shirt|button-up shirt",
    "upper=jacket": "jacket|short jacket",
    "upper=coat": "coat|long coat|overcoat",
    "upper=hoodie": "hoodie|hooded sweatshirt",
    "upper=dress": "dress",
    "upper=": "top",
    "lower=trousers": "trousers|pants|slacks",
    "lower=jeans": "jeans|denim pants",
    "lower=shorts": "shorts|short pants",
    "lower=skirt": "skirt",
    "shoes=sneakers": "sneakers|trainers|sports shoes",
    "shoes=boots": "boots",
    "shoes=": "shoes|leather shoes",
    "bag=backpack": "backpack|rucksack",
    "bag=shoulder bag": "shoulder bag|crossbody bag|messenger bag",
    "bag=handbag": "handbag|purse",
    "bag=suitcase": "suitcase|rolling suitcase|trolley case",
    "bag=": "bag",
    "hat=cap": "cap|baseball cap",
    "hat=beanie": "beanie|knit hat",
    "hat=hat": "wide-brimmed hat|sun hat",
}
MEANS = {noun: fact for fact, nouns in NOUNS.items() for noun in nouns.split("|")}
COLOURS = "black|white|grey|gray|red|blue|green|yellow|orange|pink|purple|brown|beige"
SAID = re.compile(
    rf"(?P<over>over an? )?(?:\b(?P<hue>{COLOURS})(?:, not (?P<denied>{COLOURS}),)? )?"
    rf"(?:(?:striped|stripy|checked|plaid|checkered) )?\b(?P<noun>{'|'.join(sorted(MEANS, key=len, reverse=True))})\b"
)
HELD = re.compile(
    r"(?:with|holding) (?:an? )?(?:[a-z]+ )??(something|shoulder bag|handbag|suitcase|phone|bottle|papers|umbrella) "
    r"(?:on|in) (?:his|her) (left|right) (side|hand)"
)
WIDTH = 512


def statements(text: str) -> dict[str, int]:
    """What a sentence says: statement -> 1, or -1 where it is denied."""
    text, found = text.lower(), {}
    for match in SAID.finditer(text):
        slot, _, value = MEANS[match["noun"]].partition("=")
        if match["over"]:
            slot, value = "under", {"shirt": "shirt", "t-shirt": "shirt", "": "shirt"}.get(value, value)
        found |= {f"{slot}={value}": 1} if value else {}
        for sign, hue in ((1, match["hue"]), (-1, match["denied"])):
            found |= {f"{slot} colour={hue.replace('gray', 'grey')}": sign} if hue else {}
    for thing, side, part in HELD.findall(text):
        found[f"{thing} {part}: {side}"] = 1
    for number in re.findall(r"(one|two) things?\.", text):
        found[f"things: {number}"] = 1
    return found


def facts(record: Mapping[str, object]) -> dict[str, int]:
    """The statements that are true of an image."""
    attributes, own = record["attributes"], record["sides"]
    assert isinstance(attributes, list) and isinstance(own, dict)
    found = dict.fromkeys(attributes, 1)
    of = dict(item.split("=", 1) for item in attributes)
    if "bag" in own:
        places = ("side", "hand") if of["bag"] in ("handbag", "suitcase") else ("side",)
        found |= {f"{what} {place}: {own['bag']}": 1 for place in places for what in (of["bag"], "something")}
    if "carried" in own:
        found |= {f"{what} hand: {own['carried']}": 1 for what in (of["carried"], "something")}
    things = sum(item.startswith(("bag=", "carried=")) for item in attributes)
    under = [item.partition("=")[2] for item in attributes if item.startswith("inner=")]
    found |= {"under=shirt": 1, f"under colour={under[0]}": 1} if under else {}
    return found | {f"things: {('no', 'one', 'two')[things]}": 1}


class Knowing(FakeEncoder):
    """Images are known by their pixels, each with the row that it was given."""

    embed = WIDTH

    def __init__(self, root: Path, row_of: Mapping[str, Embeddings], read: Callable[[str], Embeddings]) -> None:
        super().__init__()
        self.read = read
        self.row_of = {}
        for path, row_E in row_of.items():
            with Image.open(root / "imgs" / path) as image:
                self.row_of[self.transform(image).tobytes()] = row_E

    def image_arrays(self, image_BCHW: Embeddings) -> Embeddings:
        return unit(np.stack([self.row_of[image.tobytes()] for image in image_BCHW]))

    def encode_texts(self, texts: Sequence[str], *, batch: int | None = None, query: bool = False) -> Embeddings:
        return unit(np.stack([self.read(text) for text in texts]))


def oracle(root: Path) -> Knowing:
    """The perfect reader of the set in `root`."""
    places: dict[str, int] = {}

    def row(said: Mapping[str, int]) -> Embeddings:
        row_E = np.full(WIDTH, 1e-3, np.float32)
        for statement, sign in said.items():
            row_E[places.setdefault(statement, len(places))] += sign
        return row_E

    known = {record["file_path"]: row(facts(record)) for record in read_records(root)}
    return Knowing(root, known, lambda text: row(statements(text)))


def bag_of_words(root: Path, *, sees: bool) -> Knowing:
    """Sums of random vectors of words. sees: an image is the words of its captions, else all images are one vector."""

    @functools.cache
    def vector(word: str) -> Embeddings:
        return np.random.default_rng(list(word.encode())).standard_normal(WIDTH).astype(np.float32)

    def row(text: str) -> Embeddings:
        return np.sum([vector(word) for word in re.findall(r"[a-z-]+", text.lower())], axis=0)

    records = read_records(root)
    texts = {record["file_path"]: " ".join(record["captions"]) if sees else "any image" for record in records}
    return Knowing(root, {path: row(text) for path, text in texts.items()}, row)


def read_records(root: Path) -> list[dict]:
    return list(json.loads((root / "reid_raw.json").read_text(encoding="utf-8")))


def write_spoken(root: Path, persons: int, seed: int = 0) -> Path:
    """A synthetic set, all of it test, in root/synthetic: its records are true ones, its images noise of 4 x 8."""
    folder = root / "synthetic"
    (folder / "imgs").mkdir(parents=True)
    rng, records = np.random.default_rng(seed), []
    for number, person in enumerate(people(persons, seed, [0])):
        for shown in range(3):
            shot = Shot(b"", (80, 200), draw_stance(person, rng), frozenset())
            path = f"{number:04}_{shown}.png"
            Image.fromarray(rng.integers(0, 256, (8, 4, 3), dtype=np.uint8)).save(folder / "imgs" / path)
            said = [describe(person, shot, rng) for _ in range(2)]
            records.append(
                {
                    "split": "test",
                    "id": number,
                    "file_path": path,
                    "captions": [one.text for one in said],
                    "attributes": sorted(person.attributes),
                    "visible": sorted(visible(person, shot)),
                    "sides": sides(person, shot),
                    "named": [sorted(one.named) for one in said],
                }
            )
    (folder / "reid_raw.json").write_text(json.dumps(records), encoding="utf-8")
    return folder
