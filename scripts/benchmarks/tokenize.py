"""Captions per second: our tokenizer beside open_clip's and Hugging Face's, in one run.

scripts/bench tokenize [--captions N] [--rounds N]

All three make whole rows of 77 ids, on one thread. Rounds alternate between them, so that a busy machine slows all;
the median round of processor time counts. Hugging Face's `tokenizers` is set up as its CLIP tokenizer is: it has no
repair of broken encodings or entities, so the captions that need one are not given to it; on all others the ids are
compared first. Kinds of captions: plain ones, ones with a large vocabulary, ones that need repair, all with warm
caches; then with the construction of the tokenizer and empty caches: plain ones, and ones in which no word repeats;
last a second pass over so many different words that our cache does not hold them.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from support import oracles

from tbps_cli.text import bpe
from tbps_cli.text.bpe import CACHED_CHUNKS, Bpe

COLOURS = ["red", "dark-blue", "grey", "white", "light green", "black", "striped", "brown", "pink", "floral"]
CLOTHES = ["T-shirt", "jeans", "knee-length dress", "hooded sweatshirt", "sneakers", "backpack", "coat", "skirt"]
ACTIONS = ["is walking away", "carries a handbag", "talks on a phone", "pushes a bicycle", "looks to the left"]
SYLLABLES = ["ka", "ro", "ment", "shir", "tle", "ing", "an", "bo", "der", "qui", "sel", "ton", "u", "wex", "fy"]
MARKS = ["café-coloured", "naïve", "“vintage”", "&amp;", "–", "cafÃ©", "man’s"]
LETTERS = "abcdefghijklmnopqrstuvwxyz"

IdRows = NDArray[np.int64]
Encode = Callable[[Sequence[str]], IdRows]


class Kind(NamedTuple):
    """What is encoded, and how."""

    make: Callable[[random.Random], str]
    count: int
    cold: bool = False
    """The tokenizer is made anew each round, within the time."""
    rival: bool = True
    """Hugging Face's gives the same ids."""


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


def new(rng: random.Random) -> str:
    """A caption of 23 words of which none comes twice anywhere."""
    return " ".join("".join(rng.choices(LETTERS, k=rng.randint(5, 11))) for _ in range(23))


def ours() -> Encode:
    return Bpe()


def open_clips() -> Encode:
    tokenizer = oracles.open_clip_tokenizer().SimpleTokenizer()
    return lambda captions: tokenizer(captions).numpy()  # type: ignore[no-any-return]


def hugging_faces() -> Encode:
    """`tokenizers` with the parts of CLIP's published fast tokenizer, from the same merges."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    merges = [(left, right) for left, right in (line.split() for line in bpe._merge_lines())]
    bytes_in_order = pre_tokenizers.ByteLevel.alphabet()
    order = sorted(bytes_in_order, key=lambda letter: (ord(letter) >= 256, ord(letter)))
    symbols = [*order, *(letter + "</w>" for letter in order), *(left + right for left, right in merges)]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>", fuse_unk=False))
    blanks = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), blanks, normalizers.Lowercase()])
    pieces = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pieces, behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()

    def encode(captions: Sequence[str]) -> IdRows:
        rows = np.zeros((len(captions), 77), np.int64)
        for row, found in zip(rows, tokenizer.encode_batch_fast(list(captions)), strict=True):
            ids = [Bpe.start, *found.ids[:75], Bpe.end]
            row[: len(ids)] = ids
        return rows

    return encode


MAKERS = {"open_clip": open_clips, "tokenizers": hugging_faces, "ours": ours}


def kinds(captions: int) -> dict[str, Kind]:
    return {
        "plain": Kind(plain, captions),
        "rich": Kind(rich, captions),
        "marked": Kind(marked, captions, rival=False),
        "plain, cold": Kind(plain, captions, cold=True),
        "nothing repeats, cold": Kind(new, captions, cold=True),
        "beyond the cache": Kind(new, max(captions, CACHED_CHUNKS // 12)),
    }


def seconds(make: Callable[[], Encode], ready: Encode | None, captions: Sequence[str]) -> float:
    """Processor time of one pass, with the construction of the tokenizer where none is ready."""
    bpe._merges.cache_clear()
    start = time.process_time()
    (ready or make())(captions)
    return time.process_time() - start


def compare(kind: Kind, captions: Sequence[str], rounds: int) -> dict[str, float]:
    """Captions a second of each, medians over alternating rounds."""
    names = [name for name in MAKERS if kind.rival or name != "tokenizers"]
    encoders = {name: MAKERS[name]() for name in names}
    expected = encoders["ours"](captions)
    for name in names:
        assert (encoders[name](captions) == expected).all(), f"{name} gives other ids"
    taken: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            taken[name].append(seconds(MAKERS[name], None if kind.cold else encoders[name], captions))
    return {name: len(captions) / statistics.median(found) for name, found in taken.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(argv)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    print(f"{'captions/s':<24}{'open_clip':>11}{'tokenizers':>12}{'ours':>10}{'x open_clip':>13}{'x tokenizers':>14}")
    for name, kind in kinds(options.captions).items():
        rng = random.Random(1)
        found = compare(kind, [kind.make(rng) for _ in range(kind.count)], options.rounds)
        rival = f"{found['tokenizers']:>12,.0f}" if kind.rival else f"{'-':>12}"
        ratio = f"{found['ours'] / found['tokenizers']:>14.2f}" if kind.rival else f"{'-':>14}"
        print(
            f"{name:<24}{found['open_clip']:>11,.0f}{rival}{found['ours']:>10,.0f}"
            f"{found['ours'] / found['open_clip']:>13.2f}{ratio}",
            flush=True,
        )


if __name__ == "__main__":
    main()
