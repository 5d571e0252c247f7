"""Where TextReID's words come from: a table of vectors, or a list whose vectors are trained."""

from __future__ import annotations

from pathlib import Path

import torch

from tbps_cli.data.open import open_dataset
from tbps_cli.data.types import Dataset
from tbps_cli.errors import DataError, WeightsError
from tbps_cli.methods._textreid_config import TextReidConfig
from tbps_cli.methods.base import TextInput, TextSources
from tbps_cli.text.words import Words, WordTable, read_words
from tbps_cli.weights.word_table import PUBLISHED, vocabulary_of


def words_alone(config: TextReidConfig, sources: TextSources) -> TextInput:
    """The words whose vectors a checkpoint holds, or which training is about to learn."""
    kept, dataset = sources.kept, sources.dataset
    if dataset and isinstance(kept, Words):  # resumed: the places for words stay as many
        return TextInput(sized(config, sources.saved.get("vocabulary", config.vocabulary)), kept)
    path = sources.words or (Path(config.words) if config.words else None)
    if path is None and kept is not None:
        return TextInput(config, kept)
    words = read_words(path) if path else vocabulary_of(dataset or _dataset_of(config, sources))
    if dataset:
        places = max(config.vocabulary, len(words))
        choice = f"method.vocabulary: {places:,} (places for the {len(words):,} words of {path or dataset.name})"
        return TextInput(sized(config, places), Words(words), choice=choice)
    if len(words) > config.vocabulary:
        raise WeightsError(
            f"words: {path or sources.data} has {len(words):,} words, the checkpoint {config.vocabulary:,} vectors.",
            "Give the words that it was trained with: --words FILE.json, or the data set's annotation (--data-root).",
        )
    return TextInput(sized(config, config.vocabulary), Words(words))


def _dataset_of(config: TextReidConfig, sources: TextSources) -> Dataset:
    """The data set that a checkpoint was trained on. Raises WeightsError when its annotation is not there."""
    reason = "no data set's folder is given"
    if sources.data_root is not None:
        try:
            return open_dataset(sources.data, sources.data_root)
        except DataError as error:
            reason = error.message.rstrip(".")
    raise WeightsError(
        f"{config.name} has a vector for each word in this checkpoint, but the words stand in the annotation of "
        f"{sources.data}: {reason}.",
        "Give the folder of the data set (--data-root), or a list of the words (--words FILE.json).",
    )


def no_table(config: TextReidConfig) -> WeightsError:
    return WeightsError(
        f"{config.name} reads words through a table of vectors (the word table), which its authors' checkpoints "
        "do not hold.",
        f"Give it: --words {PUBLISHED}; or put that file beside the data set's annotation below --data-root.",
    )


def with_table(config: TextReidConfig, table: WordTable, reason: str) -> TextInput:
    words = len(table.vocabulary)
    tensors = {"word_table": torch.from_numpy(table.vectors)}
    choice = f"method.words: {words:,} ({reason})"
    return TextInput(sized(config, words, table.width), Words(table.vocabulary), tensors, choice)


def sized(config: TextReidConfig, vocabulary: int, width: int | None = None) -> TextReidConfig:
    """Without the path: a run carries its words, and holds no path of the machine that made it."""
    sizes = {"words": None, "vocabulary": vocabulary, "word_width": width or config.word_width}
    return config.model_copy(update=sizes)
