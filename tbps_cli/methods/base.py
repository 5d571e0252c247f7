"""What a method states, and the defaults for what most of them have in common.

A method is a file in this folder; the module's name is the registration (`methods.find`). It ends
in one unit vector per image and per caption, so nothing above this layer asks which one it is.
To add one: the file and a recipe; a golden folder and a parity adapter prove it. See docs/methods.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tbps_cli.augment.exact import CLIP_TRAIN, Augment
from tbps_cli.augment.transform import CLIP_EVAL, EvalTransform
from tbps_cli.data.types import Dataset
from tbps_cli.errors import UsageError
from tbps_cli.losses.contrastive import unit
from tbps_cli.methods.config import MethodConfig
from tbps_cli.nn.clip_features import image_feature, text_feature
from tbps_cli.nn.clip_towers import Clip
from tbps_cli.nn.draw import DrawsItself, shapes_alone
from tbps_cli.nn.position import PEDESTRIAN, image_size_of
from tbps_cli.text.bpe import Bpe
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import Mismatch, OfficialFiles, named_shapes
from tbps_cli.weights.key_table import KeyTable


@dataclass(frozen=True)
class Views:
    """What a training batch must contain, for the loader to make.

    images: view name -> augmentation; each view is an independent draw from the same image.
    masked: whether the masked words and their labels are drawn too (tokens "masked", "label").
    sampler: "random" (every caption once an epoch), "identity" (groups of one person) or
    "identity-chunks" (groups along one shuffle of all captions).
    drop_last: whether an incomplete last batch is left out.
    augment_text: name of a word-level augmentation of `text.word_changes`, applied before tokenising;
    text_options: its numbers.
    """

    images: Mapping[str, Augment] = field(default_factory=lambda: {"image": CLIP_TRAIN})
    masked: bool = False
    augment_text: str | None = None
    text_options: Mapping[str, float] = field(default_factory=dict)
    sampler: Literal["random", "identity", "identity-chunks"] = "random"
    drop_last: bool = False


@dataclass(frozen=True)
class TextSources:
    """Where a method may look for what its captions need besides weights; see `Method.text_input`.

    words: the file of `--words`. kept: the tokenizer that a run folder keeps.
    data, data_root: the data set's name, and the folder that holds data sets; None for a run, which has
    everything in its own folder.
    dataset: the open data set when training begins, else None; seed: of what is drawn then.
    saved: the settings of `[method]` of the run that is resumed.
    """

    words: Path | None = None
    kept: Tokenizer | None = None
    data: str = ""
    data_root: Path | None = None
    dataset: Dataset | None = None
    seed: int = 0
    saved: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextInput:
    """How captions become ids, and what goes with it."""

    config: MethodConfig
    """The configuration with the sizes that follow from the sources, and no path of this machine."""
    tokenizer: Tokenizer
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Buffers of the method that neither training nor a foreign checkpoint sets, under our names."""
    choice: str = ""
    """What was chosen for the user and why, as "KEY: VALUE (REASON)"; empty when nothing was."""


class Method(nn.Module):
    """The base of all methods: an encoder for images, one for captions, and a training loss.

    What stands here is right for a method on CLIP's towers that puts them into `self.clip`; a method on other
    towers overrides whatever uses them.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    official: ClassVar[KeyTable] = KeyTable({})
    paper: ClassVar[str] = ""
    """Authors, title, venue, year: one line."""
    training_only: ClassVar[tuple[str, ...]] = ()
    """Prefixes of our parameter names that inference does not need (heads, queues)."""
    checkpoint_only: ClassVar[tuple[str, ...]] = ()
    """Prefixes of our names of what `--resume` alone needs (memories of training images): not in files of weights."""
    token_table: str = "clip.token_embedding.weight"
    """Our name of the tensor that the tokenizer's ids index, a row an id."""
    brought: ClassVar[tuple[str, ...]] = ()
    """Our names of buffers that published files lack, because `text_input` brings them."""
    config: MethodConfig
    task: Task
    clip: Clip

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__()
        self.config = config
        self.task = task

    # What goes in -------------------------------------------------------------------------

    @classmethod
    def views(cls, config: Any) -> Views:
        """What a training batch must contain under this configuration."""
        return Views()

    @classmethod
    def tokenizer(cls, config: Any) -> Tokenizer:
        """Sentences -> ids, the same for training, evaluation and queries: CLIP's, with IRRA's mask token."""
        return Bpe(config.sizes.context, mask=True)

    @classmethod
    def text_input(cls, config: Any, sources: TextSources) -> TextInput:
        """The tokenizer of this configuration; a method with a vocabulary of its own finds it here.

        Asked when a checkpoint is opened and when training begins, before weights are read. Raises
        UsageError for `--words` where no word table is needed, WeightsError when something is missing.
        """
        if sources.words is not None:
            raise UsageError(f"--words {sources.words}: {config.name} needs no word table.", "Leave --words out.")
        return TextInput(config, sources.kept or cls.tokenizer(config))

    @classmethod
    def eval_transform(cls, config: Any, task: Task) -> EvalTransform:
        """Image -> the array that `encode_images` takes, one row."""
        return EvalTransform(task.image_size, **CLIP_EVAL)

    @classmethod
    def batch_dependent(cls, config: Any) -> str | None:
        """None, or the reason why an embedding depends on the rest of its batch, with the key to set."""
        return None

    @classmethod
    def choose(cls, config: Any, data: str, noise_rate: float) -> dict[str, tuple[object, str]]:
        """Values for keys of `[method]` that are "auto": key -> (value, reason).

        data: the data set's own name, or the path of one's own pairs; noise_rate: `data.noise_rate`.
        """
        return {}

    @classmethod
    def places_taken(cls, config: Any) -> int:
        """Places of the text context that the method fills itself (prompts), which captions lose."""
        return 0

    # What comes out -----------------------------------------------------------------------

    def encode_images(self, image_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] normalised images -> [B, E] float32 rows of unit length."""
        return unit(self.image_feature(image_BCHW))

    def encode_texts(self, token_BT: Tensor) -> Tensor:
        """[B, T] ids -> [B, E] float32 rows of unit length."""
        return unit(self.text_feature(token_BT))

    def image_feature(self, image_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] -> [B, E] float32, not normalised: CLIP's class token."""
        return image_feature(self.clip, image_BCHW)

    def text_feature(self, token_BT: Tensor) -> Tensor:
        """[B, T] ids -> [B, E] float32, not normalised: CLIP's end token."""
        return text_feature(self.clip, token_BT)

    # Training -----------------------------------------------------------------------------

    def features(self, batch: Batch) -> Features:
        """What the losses need; every tensor has the batch as its first axis. Here: both embeddings."""
        return {
            "image": self.image_feature(batch.images["image"]),
            "text": self.text_feature(batch.tokens["text"]),
        }

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Named, weighted scalars; training minimises their sum."""
        raise NotImplementedError

    def forward(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """`features`, then `losses`: the seam for DDP, gathering and gradient caching."""
        return self.losses(self.features(batch), batch, step)

    def group_of(self, name: str) -> Group:
        """Which rate a parameter takes and whether it decays."""
        return Group()

    def load_weights(self, state: Mapping[str, Tensor]) -> list[str]:
        """Start the towers from a CLIP state (OpenAI's names). Returns our names that were set."""
        return [f"clip.{name}" for name in self.clip.start_from(state)]

    def renumbered(self, state: Mapping[str, Tensor], theirs: Tokenizer, ours: Tokenizer) -> Mapping[str, Tensor]:
        """Our tensors of another checkpoint, those that belong to words in the rows of `ours` and not of `theirs`.

        As they are where all tokenizers number alike.
        """
        return state

    def initialise(self, generator: torch.Generator) -> None:
        """Draw every parameter anew from the generator: each part draws itself, in the order of `__init__`."""
        for name, part in self.named_children():
            if not isinstance(part, DrawsItself):
                raise TypeError(f"{type(self).__name__}.{name} has no initialise(generator): say how it is drawn")
            part.initialise(generator)

    def fold(self) -> None:
        """Become the same encoder for inference alone, in place: nothing that only training keeps apart stays apart.

        `config` says the new form. Called when a model is opened; here nothing is kept apart.
        """

    @classmethod
    def state_for(cls, config: Any, state: Mapping[str, Tensor], other: MethodConfig) -> Mapping[str, Tensor]:
        """A state of this configuration as a method of another one can start from it (`--init`); here as it is.

        What the other method does not keep apart from its weights has to be in them.
        """
        return state

    def before_step(self) -> None:
        """Called before the images of each optimiser step are embedded (momentum encoders)."""

    def after_step(self) -> None:
        """Called after each optimiser step."""

    def start_epoch(self, pass_over: Iterator[tuple[Features, Batch]], draws: torch.Generator) -> None:
        """Called before each epoch.

        pass_over: every training pair once, in batches, embedded as in evaluation and without gradient;
        computed only as far as it is iterated. draws: a generator that seed and epoch determine.
        """

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """Further figures for the log (accuracies of heads); not part of the loss."""
        return {}

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def received(cls, config: Any, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """What is loaded of a foreign checkpoint's tensors, which are under our names already; here all of them."""
        return state

    @classmethod
    def recognise(cls, files: OfficialFiles) -> MethodConfig | None:
        """The configuration of a foreign checkpoint when it is ours, from shapes and options."""
        return None

    @classmethod
    def fits(cls, files: OfficialFiles, config: Any) -> bool:
        """Whether every tensor of the file belongs to the model of `config`; else another method made it.

        Heads that only training uses may be absent, or of another width. What the model has no place for is noted in
        `files.refusals`. Raises Mismatch when all names are ours but some that inference needs are missing or
        have another shape.
        """
        mapped = files.under(cls.official)
        task = cls.recognise_task(files, config)
        with shapes_alone():
            expected = cls(config, task).state_dict()
        needed = [name for name in expected if not name.startswith(cls.training_only) and name not in cls.brought]
        wrong = [name for name in needed if name in mapped.ours and mapped.ours[name].shape != expected[name].shape]
        placed = len(mapped.ours.keys() & expected.keys()) - len(wrong)
        surplus = [name for name in mapped.ours if name not in expected and not name.startswith(cls.training_only)]
        if surplus:
            names = named_shapes([mapped.names[name][0] for name in surplus], files.tensors)
            message = (
                f"{files.name} belongs to no method that tbps knows: {config.name} is nearest, but has no {names}."
            )
            hint = "What stands inside a tower changes every embedding, so it cannot be left out."
            files.refusals.append(Mismatch(message, hint, placed=placed))
            return False
        missing = [name for name in needed if name not in mapped.ours]
        if missing:
            message = (
                f"{files.name}: {len(missing)} of {len(needed)} tensors of {config.name} are missing "
                f"(first: {cls.official.foreign(missing[0])})."
            )
            raise Mismatch(message, "The file is incomplete: copy it again, or save the whole model.", placed=placed)
        if wrong:
            name, (height, width) = wrong[0], task.image_size
            message = (
                f"{files.name}: {cls.official.foreign(name)} is {tuple(mapped.ours[name].shape)}, but the other shapes "
                f"and the options (image {height}x{width}) need {tuple(expected[name].shape)}."
            )
            hint = "Put the configs.yaml of the same run beside the file: it says img_size and stride_size."
            raise Mismatch(message, hint, placed=placed)
        return True

    @classmethod
    def stated_size(cls, files: OfficialFiles) -> tuple[int, int] | None:
        """(height, width) of the images, where the options of a foreign checkpoint say it."""
        return files.image_size()

    @classmethod
    def recognise_task(cls, files: OfficialFiles, config: Any) -> Task:
        """Image size and number of persons of a checkpoint that `recognise` accepted.

        The options know the size best; else the position table and the usual shapes decide. Raises
        WeightsError when the table fits no usual shape.
        """
        tensors = files.under(cls.official).ours
        persons = tensors.get("classifier.weight")
        identities = persons.shape[0] if persons is not None and persons.ndim else 0
        stated = cls.stated_size(files)
        pool = tensors.get("clip.visual.attnpool.positional_embedding")
        if not stated and pool is not None:
            return Task(image_size_of(len(pool), 32, 32), identities)
        if stated or "clip.visual.positional_embedding" not in tensors:
            return Task(stated or PEDESTRIAN, identities)
        patch = int(tensors["clip.visual.conv1.weight"].shape[-1])
        stride = getattr(config, "stride", None) or patch
        return Task(image_size_of(len(tensors["clip.visual.positional_embedding"]), patch, stride), identities)


def irra_group(official: str) -> Group:
    """The rules of IRRA's released code on its own names, later ones overriding earlier ones.

    So biases of the cross-modal part take the biases' rate, those of both heads the heads'. PHP and CoMoE
    kept them.
    """
    bias = "bias" in official
    if "classifier" in official or "mlm_head" in official:
        return Group("new", decay=not bias)
    if bias:
        return Group("bias", decay=False)
    return Group("new" if "cross" in official else "tower")
