"""Captions per second: our tokenizer beside open_clip's, in one run.

scripts/bench tokenize [--captions N] [--rounds N]

Both make whole rows of 77 ids. Rounds alternate between the two, so that a busy machine slows both;
the median round counts. Four kinds of captions: plain ones, ones with a large vocabulary, ones with
accents, quotes and entities, and first contact (fresh tokenizers, so no word is cached yet).
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

from support import oracles

from tbps_cli.text.bpe import Bpe

COLOURS = ["red", "dark-blue", "grey", "white", "light green", "black", "striped", "brown", "pink", "floral"]
CLOTHES = ["T-shirt", "jeans", "knee-length dress", "hooded sweatshirt", "sneakers", "backpack", "coat", "skirt"]
ACTIONS = ["is walking away", "carries a handbag", "talks on a phone", "pushes a bicycle", "looks to the left"]
SYLLABLES = ["ka", "ro", "ment", "shir", "tle", "ing", "an", "bo", "der", "qui", "sel", "ton", "u", "wex", "fy"]
MARKS = ["café-coloured", "naïve", "“vintage”", "&amp;", "–", "cafÃ©", "man’s"]

Encode = Callable[[Sequence[str]], object]


def plain(rng: random.Random) -> str:
    """A caption as people write them about pedestrians: about 30 words, few different ones."""
    clothes = ", ".join(f"a {rng.choice(COLOURS)} {rng.choice(CLOTHES)}" for _ in range(5))
    return f"The {rng.choice(['man', 'woman'])} wears {clothes}. He or she {rng.choice(ACTIONS)}."


def rich(rng: random.Random) -> str:
    """A caption in which every third word is new."""
    words = plain(rng).split()
    return " ".join(word if rng.random() < 0.67 else "".join(rng.choices(SYLLABLES, k=4)) for word in words)


def marked(rng: random.Random) -> str:
    """A caption that needs the repair of encodings and entities."""
    return f"{plain(rng)} {rng.choice(MARKS)} {rng.choice(CLOTHES)}"


def seconds(encode: Encode, captions: Sequence[str]) -> float:
    """Wall time of one pass."""
    start = time.perf_counter()
    encode(captions)
    return time.perf_counter() - start


def compare(ours: list[Encode], theirs: list[Encode], captions: Sequence[str]) -> tuple[float, float]:
    """Captions per second of both, medians over alternating rounds; one tokenizer for each round."""
    pairs = [(seconds(mine, captions), seconds(other, captions)) for mine, other in zip(ours, theirs, strict=True)]
    return tuple(len(captions) / statistics.median(column) for column in zip(*pairs, strict=True))


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    simple = oracles.open_clip_tokenizer().SimpleTokenizer
    print(f"{'captions':<16}{'ours/s':>10}{'open_clip/s':>13}{'ratio':>8}")
    for name, make, fresh in (
        ("plain", plain, False),
        ("rich", rich, False),
        ("marked", marked, False),
        ("first contact", rich, True),
    ):
        rng = random.Random(1)
        captions = [make(rng) for _ in range(options.captions)]
        count = options.rounds if fresh else 1
        ours: list[Encode] = [Bpe() for _ in range(count)]
        theirs: list[Encode] = [simple() for _ in range(count)]
        if not fresh:
            assert (ours[0](captions) == theirs[0](captions).numpy()).all()
            ours, theirs = ours * options.rounds, theirs * options.rounds
        mine, other = compare(ours, theirs, captions)
        print(f"{name:<16}{mine:>10,.0f}{other:>13,.0f}{mine / other:>8.2f}")


if __name__ == "__main__":
    main()
