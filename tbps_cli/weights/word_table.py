"""TextReID's word table on disk: which file it is, which words its rows belong to, or made with CLIP's text tower.

The authors publish the vectors as one .npy file beside their annotations, and the words only inside these
annotations, as numbered captions. So a table is read together with a list of words: one that lies beside it
(NAME.json), the annotations of its folder, or those of a data set that is named.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tbps_cli.data.open import LAYOUTS, find_layout, holds, home_of, open_dataset, read_named
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError, WeightsError
from tbps_cli.nn.block import Block
from tbps_cli.nn.clip_towers import copy_in
from tbps_cli.nn.sizes import read_sizes
from tbps_cli.nn.text_tower import TextTower, at_end, used
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.words import WordTable, build_vocabulary, pair_vocabulary
from tbps_cli.weights.pretrained import clip_state

logger = logging.getLogger("tbps")

PUBLISHED = "clip_vocab_vit.npy"
"""The authors' table, looked for in the data set's folder. Source: TextReID's released code."""
TOWER = "ViT-B-32"
"""Whose text tower makes a table. Source: TextReID's authors."""
_BATCH = 256


def published_table(data: str, data_root: Path) -> Path | None:
    """The authors' table in the folder of a data set, when it is there."""
    layout = find_layout(data)
    try:
        home = home_of(layout, data_root) if layout else Path(data).expanduser()
    except DataError:
        return None
    path = home / PUBLISHED
    return path if path.is_file() else None


def read_table(path: Path, *, width: int | None = None, data: tuple[str, Path] | None = None) -> WordTable:
    """A table with its words, without the rows past the last word.

    width: refuse vectors of another size. data: name and data root of the data set whose annotation says
    what the words are when nothing beside the table does. Raises WeightsError naming the file.
    """
    path = path.expanduser()
    if not path.is_file():
        raise WeightsError(f"words: there is no file {path}.", f"The published one is called {PUBLISHED}.")
    words = None if path.with_suffix(".json").is_file() else _words_for(path, data)
    table = WordTable.read(path, words, width=width)
    return WordTable(np.ascontiguousarray(table.vectors[: len(table.vocabulary) + 1]), table.vocabulary)


def _words_for(path: Path, data: tuple[str, Path] | None) -> list[str]:
    """The words of the annotations in the table's folder, else of the data set named."""
    layout = next((layout for layout in LAYOUTS.values() if holds(layout, path.parent)), None)
    if layout is not None:
        return vocabulary_of(read_named(layout, path.parent))
    if data is not None:
        try:
            return vocabulary_of(open_dataset(*data))
        except DataError as error:
            logger.debug("words: %s", error.message)
    raise WeightsError(
        f"{path}: which word each row belongs to is not known.",
        f"Put a list of the words beside it ({path.stem}.json), or the data set's annotation (annotations/*.json).",
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
        block=lambda _: Block(sizes.text_width, sizes.text_tower_heads, sizes.activation),
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
