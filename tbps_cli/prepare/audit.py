"""What is wrong with a data set beyond broken files: captions and images that teach or test the wrong thing.

Users of the benchmarks report captions shared by different persons, fragments of program code and other
non-text, and images or persons that are in two splits; long captions are cut at the tokenizer's 77 places without
a word. Each kind is counted with examples, and those of the training split go on a list that `data.exclude`
reads. Nothing of val or test is put on that list, since that would change what a score means.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from tbps_cli.data.exclusions import Exclusion
from tbps_cli.data.types import Dataset, ImageRecord

EXAMPLES = 5
_CODE = re.compile(
    r"</?[a-z]+[^<>]*>|https?://|\w+\.(?:jpe?g|png|bmp)\b|[{}\\]|\w+\(\)|==|!=|\bdef \w+\(|\b(?:NaN|null|undefined)\b"
    r"|[=+*/^|]{3,}|\[\s*['\"]|&#?\w+;"
)  # fmt: skip
_WORD = re.compile(r"[^\W\d_]{2,}")
_LATIN = re.compile(r"[A-Za-z]")
_BLANKS = re.compile(r"\W+")


@dataclass
class Finding:
    """One kind of trouble: how often, and where first."""

    kind: str
    meaning: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    exclusions: list[Exclusion] = field(default_factory=list)

    def add(self, example: str, exclusion: Exclusion | None = None) -> None:
        """Count one case; only those of the training split can be left out."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)
        if exclusion and exclusion.split == "train":
            self.exclusions.append(exclusion)

    def exclude(self, image: ImageRecord, copies: list[ImageRecord], reason: str) -> None:
        """Put a training image on the list because of its copies, if it has any."""
        if copies and image.split == "train":
            splits = " and ".join(sorted({copy.split for copy in copies}))
            self.exclusions.append(Exclusion(image.path, None, image.split, f"{reason} {splits}: {copies[0].path}"))

    def document(self) -> dict[str, object]:
        return {"kind": self.kind, "meaning": self.meaning, "count": self.count, "examples": self.examples}


def audit(dataset: Dataset, hash_of: Mapping[str, str]) -> list[Finding]:
    """All findings of a data set.

    hash_of: path of an image below the root -> hash of its content (`prepare.check` makes it).
    """
    return [
        _shared_captions(dataset),
        _no_sentences(dataset),
        _cut_captions(dataset),
        _images_in_two_splits(dataset, hash_of),
        _persons_in_two_splits(dataset),
    ]


def near_copies(dataset: Dataset, pairs: Iterable[tuple[str, str]], hash_of: Mapping[str, str]) -> Finding:
    """Images that show the same within a data set; a training image with a copy in another split can be left out.

    pairs: paths of images, one for each content.
    """
    finding = Finding("near-copy", "images that are another one saved again, resized or cropped")
    images_of = _images_by_content(dataset, hash_of)
    for path, other_path in pairs:
        images, others = images_of[hash_of[path]], images_of[hash_of[other_path]]
        image, other = images[0], others[0]
        persons = "" if image.person == other.person else f" (persons {image.person} and {other.person})"
        finding.add(f"{image.split}: {image.path} ~ {other.split}: {other.path}{persons}")
        for one, copies in [*((image, others) for image in images), *((other, images) for other in others)]:
            finding.exclude(one, [copy for copy in copies if copy.split != one.split], "a copy of it is in")
    return finding


def copies_elsewhere(
    dataset: Dataset,
    other: Dataset,
    pairs: Iterable[tuple[str, str]],
    hash_of: Mapping[str, str],
    other_hash_of: Mapping[str, str],
) -> Finding:
    """Images that another data set has too; training images that are in its val or test can be left out.

    pairs: path in the data set, path in the other, one for each content.
    """
    finding = Finding(
        "copy-elsewhere", f"images that {other.name} has too, as they are, saved again, resized or cropped"
    )
    images_of, others_of = _images_by_content(dataset, hash_of), _images_by_content(other, other_hash_of)
    for path, other_path in pairs:
        images, others = images_of[hash_of[path]], others_of[other_hash_of[other_path]]
        finding.add(f"{images[0].split}: {images[0].path} ~ {other.name} {others[0].split}: {others[0].path}")
        for image in images:
            held = [copy for copy in others if copy.split != "train"]
            finding.exclude(image, held, f"a copy of it is in {other.name}")
    return finding


def _images_by_content(dataset: Dataset, hash_of: Mapping[str, str]) -> dict[str, list[ImageRecord]]:
    groups: defaultdict[str, list[ImageRecord]] = defaultdict(list)
    for image in dataset.images:
        if image.path in hash_of:
            groups[hash_of[image.path]].append(image)
    return groups


def exclusion_list(findings: list[Finding]) -> list[Exclusion]:
    """Everything worth leaving out of training, each place once, in the order of the findings."""
    found: dict[tuple[str, int | None], Exclusion] = {}
    for finding in findings:
        for exclusion in finding.exclusions:
            found.setdefault((exclusion.path, exclusion.caption), exclusion)
    return list(found.values())


def _places(dataset: Dataset) -> list[int]:
    """For each caption its position among those of its image, from 0."""
    seen: defaultdict[int, int] = defaultdict(int)
    places = []
    for caption in dataset.captions:
        places.append(seen[caption.image])
        seen[caption.image] += 1
    return places


def _exclusion(dataset: Dataset, number: int, place: int, reason: str) -> Exclusion:
    image = dataset.images[dataset.captions[number].image]
    return Exclusion(image.path, place, image.split, reason)


def _shared_captions(dataset: Dataset) -> Finding:
    finding = Finding("shared-caption", "the same caption for different persons of one split")
    places = _places(dataset)
    for numbers in _equal_captions(dataset):
        persons = {dataset.images[dataset.captions[number].image].person for number in numbers}
        if len(persons) < 2:
            continue
        for number in numbers:
            exclusion = _exclusion(dataset, number, places[number], finding.meaning)
            finding.add(f"{exclusion.path}: {_shown(dataset.captions[number].text)}", exclusion)
    return finding


def _equal_captions(dataset: Dataset) -> list[list[int]]:
    """The numbers of captions of one split that are equal but for case and blanks, in groups, by first appearance.

    Hashes are compared first, so that the texts of a large set are not there twice.
    """
    split_C = dataset.split_of_images()[dataset.image_of_captions()]
    marks = (hash((split, _plain(caption.text))) for split, caption in zip(split_C, dataset.captions, strict=True))
    mark_C = np.fromiter(marks, np.int64, len(split_C))
    _, number_C, count = np.unique(mark_C, return_inverse=True, return_counts=True)
    groups: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for place in np.flatnonzero(count[number_C] > 1).tolist():
        plain = _plain(dataset.captions[place].text)
        if plain:
            groups[int(split_C[place]), plain].append(place)
    return list(groups.values())


def _plain(text: str) -> str:
    return _BLANKS.sub(" ", text.lower()).strip()


def _no_sentences(dataset: Dataset) -> Finding:
    finding = Finding("non-text", "captions that hold code, markup or hardly any words")
    for number, (caption, place) in enumerate(zip(dataset.captions, _places(dataset), strict=True)):
        reason = oddity(caption.text)
        if reason:
            exclusion = _exclusion(dataset, number, place, reason)
            finding.add(f"{exclusion.path}: {_shown(caption.text)} ({reason})", exclusion)
    return finding


def oddity(text: str) -> str | None:
    """Why a caption is hardly a sentence, or None."""
    if not text.strip():
        return "empty"
    if "\ufffd" in text or any(ord(letter) < 32 and letter not in "\t\n\r" for letter in text):
        return "broken characters"
    code = _CODE.search(text)
    if code:
        return f"code or markup: {code[0][:20]}"
    letters = sum(letter.isalpha() for letter in text)
    if letters < 0.5 * len(text.replace(" ", "")):
        return "mostly no letters"
    if letters and len(_LATIN.findall(text)) < 0.5 * letters:
        return "not in Latin letters"
    return "fewer than three words" if len(_WORD.findall(text)) < 3 else None


def _cut_captions(dataset: Dataset) -> Finding:
    from tbps_cli.text.bpe import Bpe

    finding = Finding("cut-caption", "captions longer than CLIP's 77 tokens: their end is never seen")
    tokenizer = Bpe()
    for caption in dataset.captions:
        # no token is shorter than a byte, so short ones need not be tokenised
        if len(caption.text.encode()) > tokenizer.context - 2 and tokenizer.cut_count([caption.text]):
            finding.add(f"{dataset.images[caption.image].path}: {_shown(caption.text)}")
    return finding


def _images_in_two_splits(dataset: Dataset, hash_of: Mapping[str, str]) -> Finding:
    finding = Finding("two-splits", "the same image in two splits")
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for number, image in enumerate(dataset.images):
        if image.path in hash_of:
            groups[hash_of[image.path]].append(number)
    for numbers in groups.values():
        images = [dataset.images[number] for number in numbers]
        if len({image.split for image in images}) < 2:
            continue
        for image in images:
            others = sorted({other.split for other in images} - {image.split})
            reason = f"also in {' and '.join(others)}"
            finding.add(f"{image.split}: {image.path} ({reason})", Exclusion(image.path, None, image.split, reason))
    return finding


def _persons_in_two_splits(dataset: Dataset) -> Finding:
    finding = Finding("person-in-splits", "the same person in two splits, which makes every score too good")
    shared = dataset.persons_in_several_splits()
    for person, splits in shared.items():
        finding.add(f"person {person} is in {' and '.join(splits)}")
    for image in dataset.images:
        if image.person in shared and image.split == "train":
            others = [split for split in shared[image.person] if split != "train"]
            reason = f"person {image.person} is also in {' and '.join(others)}"
            finding.exclusions.append(Exclusion(image.path, None, image.split, reason))
    return finding


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else text[:77] + "..."
