"""The word table of a method that reads words (TextReID): which file, which words, or made with CLIP.

Such a method has the keys `words`, `word_weights`, `vocabulary` and `word_width`, and keeps the vectors in
a buffer `word_table`, so that its weights carry them; the words themselves are its tokenizer, which a run
folder keeps in `tokenizer.json`. A table comes in from outside at three places only: where an official
checkpoint is read, where training begins, and where `--words` replaces the one of a run.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tbps_cli import methods, places
from tbps_cli.data import recognise
from tbps_cli.data.layouts import LAYOUTS, find_layout, home_of, open_dataset
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError, WeightsError
from tbps_cli.methods.base import MethodConfig
from tbps_cli.nn.block import Block
from tbps_cli.nn.clip import copy_in
from tbps_cli.nn.sizes import read_sizes
from tbps_cli.nn.text_tower import TextTower, at_end, used
from tbps_cli.recipe.schema import Recipe
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.text.words import Words, WordTable, build_vocabulary, pair_vocabulary
from tbps_cli.weights.pretrained import clip_state

logger = logging.getLogger("tbps")

TENSOR = "word_table"
"""The buffer of a method that holds the vectors."""
PUBLISHED = "clip_vocab_vit.npy"
"""The authors' table, looked for in the data set's folder. Source: TextReID's released code."""
TOWER = "ViT-B-32"
"""Whose text tower makes a table. Source: TextReID's authors."""
_BATCH = 256


@dataclass(frozen=True)
class Reading:
    """How captions become ids, and a recipe that says the table's size instead of its path."""

    recipe: Recipe
    tokenizer: Tokenizer
    table: WordTable | None = None
    reason: str = ""
    """Where the table comes from, for the user."""

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The vectors under their name in the method; empty without a table."""
        return {} if self.table is None else {TENSOR: torch.from_numpy(self.table.vectors)}


def reads_words(config: MethodConfig) -> bool:
    """Whether a method reads whole words through a table."""
    return "words" in type(config).model_fields


def for_checkpoint(recipe: Recipe, data_root: Path | None = None) -> Reading:
    """The table of an official checkpoint: as stated, else from the data set's folder.

    Raises WeightsError when there is none: another table would give plausible nonsense.
    """
    config: Any = recipe.method
    if not reads_words(config):
        return Reading(recipe, methods.find(config.name).tokenizer(config))
    root = places.data_root(data_root)
    path = Path(config.words).expanduser() if config.words else _beside_data(recipe.data.name, root)
    if path is None:
        raise missing(config.name)
    if not config.words:
        logger.info("words: %s (found in the data set's folder)", path)
    return _with_table(recipe, _read(path, width=config.word_width, data=(recipe.data.name, root)), str(path))


def for_run(recipe: Recipe, kept: Tokenizer | None) -> Reading:
    """What a run kept, unless a path replaces it (`--words`). Raises WeightsError when it kept nothing."""
    config: Any = recipe.method
    if not reads_words(config):
        return Reading(recipe, kept or methods.find(config.name).tokenizer(config))
    if config.words:
        path = Path(config.words).expanduser()
        return _with_table(recipe, _read(path, width=config.word_width, data=None), str(path))
    if kept is None:
        raise missing(config.name)
    return Reading(recipe, kept)


def for_training(
    recipe: Recipe,
    dataset: Dataset,
    data_root: Path,
    *,
    kept: Tokenizer | None = None,
    saved: Mapping[str, Any] | None = None,
) -> Reading:
    """The table as stated, else from the data set's folder, else made of the data set's own words.

    kept, saved: tokenizer and settings of a run that is resumed; its checkpoint brings the vectors.
    """
    config: Any = recipe.method
    if not reads_words(config):
        return Reading(recipe, methods.find(config.name).tokenizer(config))
    if isinstance(kept, Words):
        width = (saved or {}).get("method", {}).get("word_width", config.word_width)
        return Reading(_sized(recipe, len(kept.vocabulary), width), kept)
    path = Path(config.words).expanduser() if config.words else _beside_data(recipe.data.name, data_root)
    if path is not None:
        return _with_table(recipe, _read(path, width=None, data=None), f"read from {path}")
    vocabulary = vocabulary_of(dataset)
    table = make_table(vocabulary, config.word_weights, width=config.word_width, seed=recipe.train.seed)
    return _with_table(recipe, table, f"the words of {dataset.name}, vectors from {config.word_weights} {TOWER}")


def missing(method: str) -> WeightsError:
    """What to do where a table is needed and none is there."""
    return WeightsError(
        f"{method} reads words through a table of vectors, which its authors' checkpoints do not hold.",
        f"Give it: --words {PUBLISHED}; or put that file beside the data set's annotation below --data-root.",
    )


def vocabulary_of(dataset: Dataset) -> list[str]:
    """Every word of all splits, numbered as the annotation does, else by first appearance."""
    pairs = [(caption.text, caption.word_ids) for caption in dataset.captions]
    numbered = [(text, ids) for text, ids in pairs if ids is not None]
    if len(numbered) == len(pairs):
        return pair_vocabulary(numbered)
    return build_vocabulary(text for text, _ in pairs)


def make_table(vocabulary: Sequence[str], weights: str, *, width: int, seed: int) -> WordTable:
    """A table for any words: what CLIP's text tower says of each alone, after its projection, not normalised.

    weights: of `TOWER` in the catalogue, a path, or "random": drawn from `seed`, `width` numbers a word.
    Source: TextReID's authors, who made the published table so.
    """
    if weights == "random":
        draws = torch.randn(len(vocabulary), width, generator=torch.Generator().manual_seed(seed))
        return _table(draws.numpy(), vocabulary)
    state, activation = clip_state(weights, TOWER)
    sizes = read_sizes(state, activation)
    tower = TextTower(
        context=sizes.context,
        vocabulary=sizes.vocabulary,
        width=sizes.text_width,
        layers=sizes.text_layers,
        embed=sizes.embed,
        block=lambda _: Block(sizes.text_width, sizes.words_heads, sizes.activation),
    )
    copy_in(tower, state, tower.state_dict())
    logger.info("words: making vectors of %s words with %s %s", f"{len(vocabulary):,}", weights, TOWER)
    tokenizer = Bpe(sizes.context)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(vocabulary), _BATCH):
            id_BT = used(torch.from_numpy(tokenizer(vocabulary[start : start + _BATCH], query=True)))
            rows.append(at_end(tower.text_tokens(id_BT), id_BT).numpy())
    return _table(np.concatenate(rows), vocabulary)


def _table(vector_VW: NDArray[np.float32], vocabulary: Sequence[str]) -> WordTable:
    padding = np.zeros((1, vector_VW.shape[1]), np.float32)
    return WordTable(np.concatenate([padding, vector_VW]), tuple(vocabulary))


def _with_table(recipe: Recipe, table: WordTable, reason: str) -> Reading:
    """The rows that the words need; a published table may have more."""
    words = len(table.vocabulary)
    table = WordTable(np.ascontiguousarray(table.vectors[: words + 1]), table.vocabulary)
    return Reading(_sized(recipe, words, table.width), Words(table.vocabulary), table, reason)


def _sized(recipe: Recipe, vocabulary: int, width: int) -> Recipe:
    """Without the path: a run carries its table, and holds no path of the machine that made it."""
    update = {"words": None, "vocabulary": vocabulary, "word_width": width}
    return recipe.model_copy(update={"method": recipe.method.model_copy(update=update)})


def _read(path: Path, *, width: int | None, data: tuple[str, Path] | None) -> WordTable:
    """A table, its words from the list beside it, from annotations in its folder, or from the data named."""
    if not path.is_file():
        raise WeightsError(f"words: there is no file {path}.", f"The published one is called {PUBLISHED}.")
    if path.with_suffix(".json").is_file():
        return WordTable.read(path, width=width)
    dataset = _annotated(path.parent)
    if dataset is None and data is not None:
        dataset = _quiet(*data)
    if dataset is None:
        raise WeightsError(
            f"{path}: which word each row belongs to is not known.",
            f"Put a list of the words beside it ({path.stem}.json), or the data set's annotation (annotations/*.json).",
        )
    return WordTable.read(path, vocabulary_of(dataset), width=width)


def _annotated(folder: Path) -> Dataset | None:
    """The data set whose annotation lies in a folder."""
    layout = next((layout for layout in LAYOUTS.values() if recognise.holds(layout, folder)), None)
    return recognise.read_named(layout, folder) if layout else None


def _quiet(name: str, data_root: Path) -> Dataset | None:
    try:
        return open_dataset(name, data_root)
    except DataError:
        return None


def _beside_data(name: str, data_root: Path) -> Path | None:
    """The published table in the folder of a data set, when it is there."""
    layout = find_layout(name)
    try:
        home = home_of(layout, data_root) if layout else Path(name).expanduser()
    except DataError:
        return None
    path = home / PUBLISHED
    return path if path.is_file() else None
