"""Pairs of captions that differ in one thing: one is true of its image, the other is not.

Five things are changed. `colour`: two garments of a caption exchange their colours. `negation`: "a red, not blue,
coat" beside "a blue, not red, coat". Both captions of such a pair have the same words, so whoever reads words without
their order, a bag of words, cannot tell them apart. `garment`, `side` and `count` change a word; there, two captions
of different persons exchange it, so that every word stands as often in the true captions as in the false ones. A
model that likes some words better than others, whatever the image shows, therefore gets half of the pairs right.

A change that may leave the caption true makes no pair: what the other captions of the image say, and what is known
of the person where a data set knows the truth, is never exchanged for, nor is anything that people confuse with it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from tbps_cli.data.types import Person, Split, Truth
from tbps_cli.probing import wording
from tbps_cli.probing.wording import Counted, Sided, Span, Thing

KINDS = ("colour", "negation", "garment", "side", "count")
SOURCES = ("captions", "renderer")


@dataclass(frozen=True)
class Pair:
    """A caption that is true of an image, and the same with one thing changed."""

    kind: str
    source: str
    """Whose caption was changed: the data set's own, or one that its renderer's truth gave."""
    image: int
    """Position in the split's list."""
    true: str
    false: str

    @property
    def same_words(self) -> bool:
        """Whether only the order of the words differs."""
        return wording.bag_of(self.true) == wording.bag_of(self.false)


@dataclass
class Known:
    """What is said of one image, and known of its person: a change must not end there."""

    hues: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Slot -> colours."""
    families: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Slot -> garments."""
    sides: set[tuple[str, str]] = field(default_factory=set)
    numbers: set[tuple[str, str]] = field(default_factory=set)

    def add(self, caption: str) -> None:
        """Take in what a caption says."""
        for thing in wording.things(caption):
            self.hues[thing.slot] |= thing.hues
            self.families[thing.slot].add(thing.family)
        found = wording.side(caption)
        self.sides |= {(found.side, found.part)} if found else set()
        self.numbers |= {(counted.number, counted.noun) for counted in wording.counted(caption)}

    def learn(self, truth: Truth) -> None:
        """Take in what is known of the person, whether this image shows it or not."""
        for slot in wording.SLOTS:
            named = [truth.facts.get(f"{slot} colour")]
            named += [truth.facts.get("accent"), truth.facts.get("inner")] if slot == "upper" else []
            self.hues[slot] |= {wording.COLOURS[colour] for colour in named if colour in wording.COLOURS}
            noun = truth.facts.get(slot)
            if noun in wording.NOUNS:
                self.families[slot].add(wording.NOUNS[noun][1])
        if "inner" in truth.facts:
            self.families["upper"].add("shirt")


@dataclass(frozen=True)
class Sentence:
    """A caption to change."""

    source: str
    image: int
    text: str
    known: Known


def pairs(split: Split, truths: Sequence[Truth] | None = None, *, seed: int = 0) -> list[Pair]:
    """All pairs of a split, by kind; at most one of each kind a caption.

    truths: what is known of each image, in the order of `split.paths`; captions made of it are changed as well.
    seed: which of several possible changes are made.
    """
    sentences = _sentences(split, truths)
    person_G = split.image_person
    found: list[Pair] = []
    for number, kind in enumerate(KINDS):
        rng = np.random.default_rng((seed, number))
        if kind in _WITHIN:
            found += _within(kind, sentences, rng)
        else:
            found += _between(kind, sentences, person_G, rng)
    return found


def _sentences(split: Split, truths: Sequence[Truth] | None) -> list[Sentence]:
    """Every caption with what is said of its image."""
    known = [Known() for _ in split.paths]
    texts = [("captions", int(image), text) for image, text in zip(split.caption_image, split.captions, strict=True)]
    for image, truth in enumerate(truths or ()):
        known[image].learn(truth)
        texts += [("renderer", image, text) for text in truth.captions]
    for _, image, text in texts:
        known[image].add(text)
    return [Sentence(source, image, text, known[image]) for source, image, text in texts]


# Within one caption: the same words in another order -------------------------------------------


def _within(kind: str, sentences: Iterable[Sentence], rng: np.random.Generator) -> Iterator[Pair]:
    for sentence in sentences:
        options = list(_WITHIN[kind](sentence))
        for place in rng.permutation(len(options)):
            true, false = options[place]
            pair = Pair(kind, sentence.source, sentence.image, true, false)
            if pair.same_words and true != false:
                yield pair
                break


def _exchanged_colours(sentence: Sentence) -> Iterator[tuple[str, str]]:
    """Two garments of one colour each exchange their colours."""
    named = _one_a_slot(sentence.text)
    for number, one in enumerate(named):
        for other in named[number + 1 :]:
            if _may_take(one, other.hue, sentence.known) and _may_take(other, one.hue, sentence.known):
                text = sentence.text
                changes = _new_colour(text, one, _colour(text, other)) | _new_colour(text, other, _colour(text, one))
                yield text, wording.edited(text, changes)


def _one_a_slot(text: str) -> list[Thing]:
    """The things of one colour, without those that stand beside another one of their slot."""
    found = wording.things(text)
    slots = [thing.slot for thing in found]
    return [thing for thing in found if thing.hue and slots.count(thing.slot) == 1]


def _may_take(thing: Thing, hue: str | None, known: Known) -> bool:
    """Whether a colour is certainly not that of a thing."""
    return hue is not None and wording.apart(hue, frozenset(known.hues[thing.slot] | thing.hues))


def _colour(text: str, thing: Thing) -> str:
    assert thing.colour
    return text[slice(*thing.colour)].lower()


def _new_colour(text: str, thing: Thing, colour: str) -> dict[Span, str]:
    """What to write where, so that a thing is described by these words; its article fits them."""
    assert thing.colour
    changes = {thing.colour: colour}
    if thing.article and thing.start == thing.colour[0]:
        changes[thing.article] = wording.article(colour)
    return changes


def _negated(sentence: Sentence) -> Iterator[tuple[str, str]]:
    """A colour that a thing has, and one that it does not have: which of them is denied."""
    for thing in _one_a_slot(sentence.text):
        own = _colour(sentence.text, thing)
        for other in dict.fromkeys(wording.COLOURS.values()):
            if _may_take(thing, other, sentence.known):
                true, false = (
                    wording.edited(sentence.text, _new_colour(sentence.text, thing, words))
                    for words in (f"{own}, not {other},", f"{other}, not {own},")
                )
                yield true, false


_WITHIN = {"colour": _exchanged_colours, "negation": _negated}


# Between two captions: they exchange a word -----------------------------------------------------


@dataclass(frozen=True, eq=False)
class Word:
    """A word of a caption that can be exchanged for another one of its group."""

    sentence: Sentence
    group: str
    text: str
    replaced: Callable[[str], str | None]
    """The caption with another word in its place; None where it would make no sense, or might be true."""


def _between(
    kind: str, sentences: Iterable[Sentence], person_G: Sequence[Person], rng: np.random.Generator
) -> Iterator[Pair]:
    """Pairs of captions of different persons that exchange a word, each caption in one of them at most."""
    words = [
        options[int(rng.integers(len(options)))]
        for sentence in sentences
        if (options := list(_BETWEEN[kind](sentence)))
    ]
    waiting: defaultdict[tuple[str, str], dict[str, list[Word]]] = defaultdict(lambda: defaultdict(list))
    for place in rng.permutation(len(words)):
        word = words[place]
        there = waiting[word.sentence.source, word.group]
        partner = _partner(word, there, person_G)
        if partner is None:
            there[word.text].append(word)
            continue
        other, texts = partner
        there[other.text].remove(other)
        for one, false in zip((word, other), texts, strict=True):
            yield Pair(kind, one.sentence.source, one.sentence.image, one.sentence.text, false)


def _partner(
    word: Word, waiting: dict[str, list[Word]], person_G: Sequence[Person]
) -> tuple[Word, tuple[str, str]] | None:
    """The first word in waiting with which `word` can be exchanged, and both captions afterwards."""
    person = person_G[word.sentence.image]
    for text, others in waiting.items():
        mine = word.replaced(text) if text != word.text else None
        if mine is None:
            continue
        for other in others[:TRIED]:
            theirs = other.replaced(word.text)
            if theirs is not None and person_G[other.sentence.image] != person:
                return other, (mine, theirs)
    return None


TRIED = 50
"""So many partners of one word are looked at; more would make a large split slow and find hardly any."""


def _garments(sentence: Sentence) -> Iterator[Word]:
    for thing in wording.things(sentence.text):
        if thing.family and (thing.hue or not thing.hues):
            noun = sentence.text[slice(*thing.noun)].lower()
            yield Word(sentence, thing.slot, noun, partial(_other_garment, sentence, thing))


def _other_garment(sentence: Sentence, thing: Thing, noun: str) -> str | None:
    known = (sentence.known.families[thing.slot] | {thing.family}) - {""}
    family = wording.NOUNS[noun][1]
    if not all(wording.unlike(family, other) for other in known):
        return None
    text, changes = sentence.text, {thing.noun: noun}
    plural = noun in wording.PLURAL
    if thing.article:
        first = noun if thing.start == thing.noun[0] else text[thing.start :]
        changes[thing.article] = "" if plural else wording.article(first)
    elif not plural and text[slice(*thing.noun)].lower() in wording.PLURAL:
        if wording.determined(text, thing.start):
            return None
        changes[thing.start, thing.start] = wording.article(text[thing.start :])
    return wording.edited(text, changes)


def _sides(sentence: Sentence) -> Iterator[Word]:
    found = wording.side(sentence.text)
    if found:
        yield Word(sentence, "side", found.side, partial(_other_side, sentence, found))


def _other_side(sentence: Sentence, found: Sided, side: str) -> str | None:
    if (side, found.part) in sentence.known.sides:
        return None
    return wording.edited(sentence.text, {found.span: side})


def _counts(sentence: Sentence) -> Iterator[Word]:
    for found in wording.counted(sentence.text):
        yield Word(sentence, "count", found.number, partial(_other_number, sentence, found))


def _other_number(sentence: Sentence, found: Counted, number: str) -> str | None:
    if (number, found.noun) in sentence.known.numbers:
        return None
    return wording.edited(sentence.text, {found.span: number, found.plural: "" if number == "one" else "s"})


_BETWEEN = {"garment": _garments, "side": _sides, "count": _counts}
