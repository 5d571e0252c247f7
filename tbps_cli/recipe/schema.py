"""The sections of a recipe: every key, its type, its default and what it means.

A recipe is one TOML file (see docs/recipes.md). Sections are strict and frozen, so nothing after
loading works with a dictionary, and a value is what its type says or the recipe is refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from tbps_cli.methods.config import MethodConfig
from tbps_cli.section import Count, ImageSize, Positive, Section, Share, Weight, Whole

Beta = Annotated[float, Field(ge=0, lt=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Text = Annotated[str, Field(min_length=1)]


class DataSection(Section):
    """`[data]`: which data set, and how its images and pairs reach the method."""

    name: Text
    """cuhk-pedes, icfg-pedes, rstpreid, synthetic, a pre-training set (docs/data.md), or a path to own pairs (JSONL,
    CSV, Parquet, folder)."""
    image_size: ImageSize = (384, 128)
    """Height and width in pixels."""
    exclude: Text | None = None
    """A list of images and captions to leave out, as `tbps prepare-data --audit` writes it."""
    augment: bool = True
    """The training augmentation of the method's paper; false leaves the horizontal flip alone."""
    sampler: Literal["auto", "random", "identity", "identity-chunks"] = "auto"
    """random: every caption once an epoch; identity: groups of captions of one person (identity-chunks:
    TextReID's way); auto: what the method is published with."""
    per_identity: Count = 4
    """Captions of one person in a batch, for the identity samplers."""
    store: Literal["auto", "on", "off"] = "auto"
    """Whether training reads the decoded images that `tbps prepare-data --decode` makes; auto: where they are there,
    and they are made first where augment_on = "device" needs them."""
    augment_on: Literal["auto", "cpu", "device"] = "auto"
    """cpu: each image exactly as the published code draws and changes it; device: whole batches where the
    decoded images are, with other draws of the same distribution."""
    noise_rate: Share = 0.0
    """Share of training captions that are given to wrong images (a robustness protocol)."""
    noise_file: Text | None = None
    """A published index file that says which captions those are."""
    max_pixels: Count = 100_000_000
    """Images of more pixels than this are refused."""

    @model_validator(mode="after")
    def _noise_has_a_rate(self) -> DataSection:
        if self.noise_file is not None and self.noise_rate == 0:
            raise ValueError("noise_file is given but noise_rate is 0: set noise_rate to the rate of that file")
        return self


class OptimSection(Section):
    """`[optim]`: the optimiser, the rates of the parameter groups and how they change."""

    kind: Literal["adam", "adamw", "sgd"] = "adamw"
    """adam couples the decay to the gradient, adamw does not."""
    lr: Positive = 1e-5
    """The base rate."""
    eps: Positive = 1e-8
    """Added to Adam's denominator; 1e-3 in IRRA's family, where it shapes the method."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Of Adam: memory of the gradient and of its square."""
    momentum: Beta = 0.9
    """Of sgd."""
    weight_decay: Weight = 0.0
    """For every parameter that the method does not exempt."""
    weight_decay_bias: Weight = 0.0
    """For the parameters that the method exempts from weight decay (biases)."""
    scale: dict[str, Positive] = Field(default_factory=dict)
    """Group name -> factor on every rate of that group; groups not named have 1."""
    schedule: Literal["cosine", "step", "exp", "linear", "poly", "constant", "cosine-per-step"] = "cosine"
    """The rate after warm-up; cosine-per-step runs from lr_start over lr to lr_end, step by step."""
    unit: Literal["epoch", "step"] = "epoch"
    """How often the rate changes."""
    warmup_epochs: Whole = 0
    """Epochs before the schedule proper begins."""
    warmup_factor: Share = 0.1
    """The first rate, as a factor."""
    warmup_method: Literal["linear", "constant"] = "linear"
    """Whether the factor rises to 1 or stays."""
    target_lr: Weight = 0.0
    """Where cosine and poly end, for every group."""
    power: Positive = 0.9
    """Of exp and poly."""
    gamma: Positive = 0.1
    """Factor at each milestone of step."""
    milestones: tuple[Count, ...] = ()
    """Epochs at which step takes effect."""
    clip_norm: Positive | None = None
    """Longest allowed gradient, over all parameters."""
    lr_start: Weight | None = None
    """First rate of cosine-per-step."""
    lr_end: Weight | None = None
    """Last rate of cosine-per-step."""

    @model_validator(mode="after")
    def _schedule_is_complete(self) -> OptimSection:
        if self.schedule == "step" and not self.milestones:
            raise ValueError('schedule = "step" needs milestones, for example [20, 50]')
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError("milestones must be in increasing order")
        if self.schedule == "cosine-per-step" and (self.lr_start is None or self.lr_end is None):
            raise ValueError('schedule = "cosine-per-step" needs lr_start and lr_end')
        return self


class TrainSection(Section):
    """`[train]`: how long, in what pieces, in which precision, and which epoch is kept."""

    epochs: Count = 60
    """Passes over the training captions."""
    batch: Count = 64
    """Pairs per optimiser step, over all devices."""
    accumulate: Count = 1
    """Backward passes per step; the losses then see batch / accumulate pairs at a time."""
    chunk: Count | None = None
    """Pairs embedded at a time while the losses still see the whole batch (exact gradient caching)."""
    precision: Literal["auto", "fp32", "bf16", "fp16", "fp16-pure"] = "auto"
    """bf16 (also on a CPU that has it) and fp16: autocast over fp32 weights; fp16-pure: IRRA's half weights."""
    select_on: Literal["val", "test"] = "val"
    """The split whose R@1 chooses the best epoch; the label travels with every score."""
    eval_every: Count = 1
    """Epochs between evaluations."""
    eval_batch: Count = 256
    """Images or captions embedded at a time."""
    patience: Count | None = None
    """Stop after this many evaluations without a better R@1."""
    seed: Whole = 1
    """Of every draw: order, augmentation, masking, initial values."""
    deterministic: bool = False
    """The same bits from every run on a GPU too: slower there, and an error where PyTorch has no such form."""
    workers: Literal["auto"] | Whole = "auto"
    """Processes that read images, on each device."""
    log_every: Count = 100
    """Steps between lines of the log."""
    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Where curves go besides metrics.jsonl; each is an extra of the package."""
    save_every: Positive = 300.0
    """Seconds between checkpoints for --resume inside an epoch; each epoch ends with one too."""
    compile: bool = False
    """PyTorch compiles the towers' blocks: a minute or more at the start, then fewer passes over memory."""
    checkpointing: bool = False
    """Compute each block of the towers again in the backward pass: slower, a fraction of the memory."""

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainSection:
        if self.batch % self.accumulate:
            raise ValueError(f"batch = {self.batch} must be a multiple of accumulate = {self.accumulate}")
        if self.chunk is not None and self.accumulate > 1:
            raise ValueError("chunk and accumulate both save memory: use one of them")
        return self


class Published(Section):
    """`[published]`: what the paper reports for these settings (text to image, percent)."""

    R1: Percent
    """Share of captions whose first image shows the right person."""
    R5: Percent | None = None
    """The same among the first five."""
    R10: Percent | None = None
    """The same among the first ten."""
    mAP: Percent | None = None
    """Mean average precision."""
    mINP: Percent | None = None
    """Mean inverse negative penalty: how deep the last right image lies."""
    paper: Text
    """Authors and title."""
    year: Count
    """Of publication."""
    venue: Text
    """Conference or journal."""

    def chance(self, captions: int) -> float:
        """Half the 95 % interval that so many test captions leave around R1, in points.

        As if every caption were drawn alone; those of one person resemble each other, so the truth is wider
        (`tbps eval --interval` asks the captions themselves). What another training seed gives comes on top.
        """
        share = self.R1 / 100
        return 1.96 * 100 * math.sqrt(share * (1 - share) / captions)


class Recipe(Section):
    """A whole experiment. `method` is the Config of the file that `method.name` chose."""

    name: str = ""
    """How runs of this recipe are called; the file's name when it does not say."""
    note: str = ""
    """One line for `tbps recipes`."""
    data: DataSection
    method: SerializeAsAny[MethodConfig]
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()
    published: Published | None = None

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str) -> str:
        if name.startswith(".") or any(letter in "/\\:\0" for letter in name):
            raise ValueError(f"name = {name!r} becomes the name of run folders: no slash, colon or leading dot")
        return name

    @model_validator(mode="after")
    def _sections_agree(self) -> Recipe:
        grouped = self.data.sampler.startswith("identity")
        if grouped and self.train.batch % self.data.per_identity:
            raise ValueError(
                f"train.batch = {self.train.batch} must be a multiple of data.per_identity = "
                f"{self.data.per_identity} for the identity sampler"
            )
        return self


class Stated(Protocol):
    """What is asked of a recipe where no model is built: whose data, and what the paper reports."""

    @property
    def data(self) -> DataSection: ...

    @property
    def published(self) -> Published | None: ...


@dataclass(frozen=True)
class StatedRecipe:
    """These two sections alone, read without the method's file (`load.stated`)."""

    data: DataSection
    published: Published | None
