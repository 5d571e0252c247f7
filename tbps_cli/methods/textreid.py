"""TextReID: CLIP's image tower, a GRU over frozen word vectors, and momentum contrast between the two.

Xiao Han, Sen He, Li Zhang, Tao Xiang, "Text-Based Person Search with Limited Data", BMVC 2021, arXiv
2110.10807. The word vectors are CLIP's text tower applied to single words; they are a constant, so they
live in a buffer and travel with the weights, the words themselves with the tokenizer. Differences from the
released code: every caption is floored at zero, whatever else is in its batch (`zero_floor`), the value of
`label_smoothing` counts, and any CLIP image tower may stand under the heads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor, nn

from tbps_cli.errors import RecipeError, WeightsError
from tbps_cli.losses.contrastive import unit
from tbps_cli.losses.family import family_figures
from tbps_cli.losses.identity import person_scores, smoothed_identity
from tbps_cli.losses.matching import alignment
from tbps_cli.losses.queue import queue_contrast, usable_negatives
from tbps_cli.methods.base import Method, TextInput, TextSources, Views
from tbps_cli.methods.config import MethodConfig
from tbps_cli.nn.clip_towers import copy_in, draw_image_tower, image_tower, resized_tables
from tbps_cli.nn.draw import draw_linear_normal, linear_layers
from tbps_cli.nn.momentum import KEYS, TRAINING, MomentumHead, PlainHead, read_head
from tbps_cli.nn.resnet import EXPANSION, ResNet, image_of
from tbps_cli.nn.sizes import TOWERS, Tower, named_resnet
from tbps_cli.nn.word_gru import Floor, WordGRU, read_gru
from tbps_cli.section import Count, Positive, Share, Weight
from tbps_cli.text.words import Words, WordTable
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles, pair_of_sides
from tbps_cli.weights.key_table import KeyTable
from tbps_cli.weights.word_table import PUBLISHED, TOWER, make_table, published_table, read_table, vocabulary_of

logger = logging.getLogger("tbps")

POOL = "attnpool."
TABLE = "visual.attnpool.positional_embedding"


class TextReID(Method):
    """An image tower and a GRU with one linear layer each; a classifier, key towers and queues while training."""

    class Config(MethodConfig):
        """`[method]`; a loss of weight 0 is not computed."""

        tower: str | Tower = "RN50"
        """The image tower; CLIP's text tower is not used."""
        last_stride: Literal[1, 2] = 1
        """Of a ResNet's last stage; 1 keeps its map at 1/16 of the image."""
        pool_heads: Count | None = None
        """Heads of a ResNet's attention pool, which no checkpoint tells; its channels // 64 when left out."""
        takes_context: ClassVar[bool] = False
        words: str | None = None
        """The word table, a .npy file; left out, that of the run or of the data set's folder, else one is made."""
        word_weights: str = "openai"
        """What a word table is made with: ViT-B-32 weights of open_clip's catalogue, a path, or "random"."""
        vocabulary: Count = 9408
        """Words of the table; follows from the table."""
        word_width: Count = 512
        """Numbers in a word vector; follows from the table."""
        gru_input: Count = 512
        """Numbers that the GRU takes; a trained linear layer stands between when the vectors have others."""
        hidden: Count = 512
        """Units of the GRU, in each direction."""
        zero_floor: Floor = "always"
        """always: every caption's maxima are at least 0; batch: all but the batch's longest, as released."""
        embed: Count = 256
        """Length of the common embedding."""
        head: Literal["moco", "simple"] = "moco"
        """moco: momentum contrast; simple: the two other losses alone."""
        queue: Count = 2048
        """Keys of each modality that are kept; a multiple of the batch."""
        momentum: Share = 0.999
        """Share of itself that a key tower keeps in each step."""
        temperature: Positive = 0.07
        """Divides the cosines of the contrast; a constant."""
        contrast_mlp: bool = False
        """Two more layers before the contrast (the code's default, no published run)."""
        reinit_attention_pool: bool = True
        """The released head draws the attention pool anew, losing CLIP's; false keeps it. Only with moco."""
        identity: Weight = 1.0
        align: Weight = 1.0
        contrast: Weight = 1.0
        label_smoothing: Share = 0.1
        """Share of the identity loss's target that all persons divide."""
        alpha: float = 0.6
        """Cosine that pairs of one person should exceed."""
        beta: float = 0.4
        """Cosine that pairs of two persons should stay below."""
        scale_pos: Positive = 10.0
        scale_neg: Positive = 40.0

        @model_validator(mode="after")
        def _heads_fit(self) -> TextReID.Config:
            sizes = self.sizes
            if self.pool_heads and not sizes.is_resnet:
                towers = ", ".join(name for name, tower in TOWERS.items() if tower.is_resnet)
                raise ValueError(f"pool_heads is for ResNets ({towers}); this tower has no attention pool")
            channels = 8 * EXPANSION * sizes.width
            if self.pool_heads and channels % self.pool_heads:
                raise ValueError(f"pool_heads = {self.pool_heads} does not divide the pool's {channels} channels")
            return self

        @property
        def image_sizes(self) -> Tower:
            """The image tower's sizes, its heads included."""
            return self.sizes.model_copy(update={"heads": self.pool_heads}) if self.pool_heads else self.sizes

        def check_batch(self, pairs: int) -> None:
            if self.head == "moco" and self.queue % pairs:
                fitting = max(pairs, round(self.queue / pairs) * pairs)
                raise RecipeError(
                    f"method.queue = {self.queue} is not a multiple of the batch of {pairs} pairs that fills it.",
                    f"Set method.queue={fitting}, or train.batch to a divisor of {self.queue}.",
                )

    paper = "Han, He, Zhang and Xiang: Text-Based Person Search with Limited Data (BMVC 2021)"
    official = KeyTable(
        {
            r"visual_model\.(.*)": r"visual.\1",
            r"textual_model\.(.*)": r"textual.\1",
            # the query towers are saved twice
            r"embed_model\.v_encoder_q\.(.*)": r"visual.\1",
            r"embed_model\.t_encoder_q\.(.*)": r"textual.\1",
            r"embed_model\.(.*)": r"head.\1",
            # in no published file: it comes from the table's own
            r"(word_table)": r"\1",
        }
    )
    brought = ("word_table",)
    token_table = "word_table"
    training_only = tuple(f"head.{name}" for name in TRAINING)
    config: Config
    word_table: Tensor

    def __init__(self, config: Config, task: Task) -> None:
        super().__init__(config, task)
        self.visual = image_tower(config.image_sizes, task.image_size, last_stride=config.last_stride)
        self.textual = WordGRU(
            width=config.word_width, inside=config.gru_input, hidden=config.hidden, floor=config.zero_floor
        )
        self.register_buffer("word_table", torch.zeros(config.vocabulary + 1, config.word_width))
        widths = {"image_width": config.sizes.embed, "text_width": self.textual.out}
        self.head: PlainHead | MomentumHead
        if config.head == "simple":
            self.head = PlainHead(**widths, embed=config.embed, identities=task.identities)
        else:
            self.head = MomentumHead(
                self.visual,
                self.textual,
                **widths,
                embed=config.embed,
                identities=task.identities,
                queue=config.queue,
                mlp=config.contrast_mlp,
            )

    @classmethod
    def views(cls, config: Config) -> Views:
        return Views(sampler="identity-chunks", drop_last=config.head == "moco")

    @classmethod
    def tokenizer(cls, config: Config) -> Words:
        """Its words are not a setting: they stand in the run folder, or come with the word table."""
        raise _no_table(config)

    @classmethod
    def text_input(cls, config: Config, sources: TextSources) -> TextInput:
        """The words and their vectors: the run's own, as stated, from the data set's folder, or made for it.

        Only training may make a table: with another one than its own, a checkpoint gives plausible nonsense.
        """
        kept, dataset = sources.kept, sources.dataset
        if dataset and isinstance(kept, Words):  # resumed: the checkpoint brings the vectors
            width = sources.saved.get("word_width", config.word_width)
            return TextInput(_sized(config, len(kept.vocabulary), width), kept)
        path = sources.words or (Path(config.words) if config.words else None)
        if path is None and kept is not None:
            return TextInput(config, kept)
        if path is None and sources.data_root is not None:
            path = published_table(sources.data, sources.data_root)
            if path and not dataset:
                logger.info("words: %s (found in the data set's folder)", path)
        if path is None:
            if dataset is None:
                raise _no_table(config)
            table = make_table(vocabulary_of(dataset), config.word_weights, width=config.word_width, seed=sources.seed)
            reason = f"the words of {dataset.name}, vectors from {config.word_weights} {TOWER}"
            return _with_table(config, table, reason)
        if dataset:
            return _with_table(config, read_table(path), f"read from {path}")
        data = (sources.data, sources.data_root) if sources.data_root else None
        return _with_table(config, read_table(path, width=config.word_width, data=data), str(path))

    @classmethod
    def batch_dependent(cls, config: Config) -> str | None:
        if config.zero_floor == "always":
            return None
        return (
            'zero_floor = "batch" floors every caption at zero but the longest of its batch, so that an embedding '
            "depends on the rest of its batch. To change that: --set method.zero_floor=always"
        )

    def encode_images(self, image_BCHW: Tensor) -> Tensor:
        return unit(self.head.image(_pooled(self.visual, image_BCHW)))

    def encode_texts(self, token_BT: Tensor) -> Tensor:
        return unit(self.head.text(self._read(self.textual, token_BT)))

    def _read(self, textual: nn.Module, token_BT: Tensor) -> Tensor:
        """Captions through a text tower, [B, 2 * hidden]; ids from 1 stand at the front of each row."""
        out: Tensor = textual(self.word_table[token_BT], (token_BT > 0).sum(1))
        return out

    # Training -----------------------------------------------------------------------------

    def before_step(self) -> None:
        """The key towers move towards the queries before they embed the batch, as released."""
        if head := self._contrasting:
            head.follow(self.visual, self.textual, self.config.momentum)

    @property
    def _contrasting(self) -> MomentumHead | None:
        """The head with keys and queues, where a loss looks at them."""
        head = self.head
        if isinstance(head, PlainHead) or head.loss_evaluator is None or not self.config.contrast:
            return None
        return head

    def features(self, batch: Batch) -> Features:
        """Embeddings before normalisation; under momentum contrast also queries and keys."""
        image, token_BT = batch.images["image"], batch.tokens["text"]
        image_BD, text_BD = _pooled(self.visual, image), self._read(self.textual, token_BT)
        features = {"image": self.head.image(image_BD).float(), "text": self.head.text(text_BD).float()}
        if head := self._contrasting:
            if self.config.contrast_mlp:
                features["image_query"], features["text_query"] = head.queries(image_BD, text_BD)
            with torch.no_grad():
                key_BD, word_BD = _pooled(head.v_encoder_k, image), self._read(head.t_encoder_k, token_BT)
            features["image_key"], features["text_key"] = head.keys(key_BD, word_BD)
        return features

    def losses(self, features: Features, batch: Batch, step: Step) -> dict[str, Tensor]:
        """The weighted losses of the recipe; the contrast also puts its keys into the queues."""
        image_BE, text_BE, person_B, c = features["image"], features["text"], batch.person_B, self.config
        losses = {}
        if c.identity:
            logits = person_scores(self.head.loss_evaluator, image_BE, text_BE)
            losses["identity"] = c.identity * smoothed_identity(*logits, person_B, smoothing=c.label_smoothing)
        if c.align:
            constants = {"alpha": c.alpha, "beta": c.beta, "scale_pos": c.scale_pos, "scale_neg": c.scale_neg}
            losses["align"] = c.align * alignment(image_BE, text_BE, person_B, **constants)
        if head := self._contrasting:
            losses["contrast"] = c.contrast * self._contrast(head, features, person_B)
        return losses

    def _contrast(self, head: MomentumHead, features: Features, person_B: Tensor) -> Tensor:
        """Both directions, over one set of negatives; afterwards the queues hold this batch's keys."""
        image_BE, text_BE = (features.get(f"{name}_query", features[name]) for name in ("image", "text"))
        negative_K, temperature = usable_negatives(head.id_queue[0], person_B), self.config.temperature
        image = queue_contrast(image_BE, features["text_key"], head.t_queue, negative_K, temperature=temperature)
        text = queue_contrast(text_BE, features["image_key"], head.v_queue, negative_K, temperature=temperature)
        head.enqueue(features["image_key"], features["text_key"], person_B)
        return image + text

    def metrics(self, features: Features, batch: Batch) -> dict[str, float]:
        """img_acc, txt_acc: share of the batch whose person is classified correctly."""
        return family_figures(features, batch, self.head.loss_evaluator)

    def group_of(self, name: str) -> Group:
        """Biases at their own rate without decay; copies move by momentum alone."""
        if name.startswith(tuple(f"head.{key}" for key in KEYS)):
            return Group("frozen")
        return Group("bias", decay=False) if "bias" in name else Group()

    def load_weights(self, state: Mapping[str, Tensor]) -> list[str]:
        """Both image towers start from CLIP's; the attention pool stays as drawn where the recipe says so."""
        visual = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
        drawn = [name for name in self.visual.state_dict() if self._draws_pool and _is_pool_layer(name)]
        given = {name: value for name, value in visual.items() if name not in drawn}
        given = resized_tables(given, self.visual.grid, prefix="")
        wanted = [name for name in self.visual.state_dict() if name not in drawn]
        copied = copy_in(self.visual, given, wanted)
        if isinstance(self.head, MomentumHead) and self.head.loss_evaluator is not None:
            copy_in(self.head.v_encoder_k, given, wanted)
        return [f"visual.{name}" for name in copied]

    @property
    def _draws_pool(self) -> bool:
        return self.config.head == "moco" and self.config.reinit_attention_pool and isinstance(self.visual, ResNet)

    def initialise(self, generator: torch.Generator) -> None:
        draw_image_tower(self.visual, generator)
        self.textual.initialise(generator)
        nn.init.normal_(self.word_table[1:], generator=generator)  # until a table comes
        if isinstance(self.head, PlainHead):
            self.head.initialise(generator)
            return
        self.head.initialise(self.visual, self.textual, generator)
        if self._draws_pool:
            # each on its own: the released code's queries and keys start apart
            draw_linear_normal(linear_layers(self.visual.get_submodule("attnpool"), self.textual), generator)
            if self.head.loss_evaluator is not None:
                keys = linear_layers(self.head.v_encoder_k.get_submodule("attnpool"), self.head.t_encoder_k)
                draw_linear_normal(keys, generator)

    # Foreign checkpoints --------------------------------------------------------------------

    @classmethod
    def recognise(cls, files: OfficialFiles) -> Config | None:
        """TextReID's when every name is one of its model's. The word table is not in its files."""
        mapped = files.under(cls.official)
        if mapped.unknown or "textual.gru.weight_ih_l0" not in mapped.ours or "visual.conv1.weight" not in mapped.ours:
            return None
        if TABLE not in mapped.ours:
            raise WeightsError(
                f"{files.name}: this is TextReID's baseline on an ImageNet ResNet, which is not supported.",
                "TextReID on CLIP's RN50 and RN101 is.",
            )
        config = _config(mapped.ours, files)
        return config if cls.fits(files, config) else None

    @classmethod
    def stated_size(cls, files: OfficialFiles) -> tuple[int, int] | None:
        """Its YAML says the size among the input's settings."""
        return files.image_size() or pair_of_sides((files.at("INPUT", "HEIGHT"), files.at("INPUT", "WIDTH")))

    @classmethod
    def recognise_task(cls, files: OfficialFiles, config: Any) -> Task:
        ours = files.under(cls.official).ours
        projection = ours.get("head.loss_evaluator.projection")
        size, _ = image_of(len(ours[TABLE]), cls.stated_size(files))
        return Task(size, 0 if projection is None else projection.shape[1])


def _no_table(config: TextReID.Config) -> WeightsError:
    return WeightsError(
        f"{config.name} reads words through a table of vectors (the word table), which its authors' checkpoints "
        "do not hold.",
        f"Give it: --words {PUBLISHED}; or put that file beside the data set's annotation below --data-root.",
    )


def _with_table(config: TextReID.Config, table: WordTable, reason: str) -> TextInput:
    words = len(table.vocabulary)
    tensors = {"word_table": torch.from_numpy(table.vectors)}
    choice = f"method.words: {words:,} ({reason})"
    return TextInput(_sized(config, words, table.width), Words(table.vocabulary), tensors, choice)


def _sized(config: TextReID.Config, vocabulary: int, width: int) -> TextReID.Config:
    """Without the path: a run carries its table, and holds no path of the machine that made it."""
    return config.model_copy(update={"words": None, "vocabulary": vocabulary, "word_width": width})


def _pooled(visual: nn.Module, image_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, D]: a ResNet's pooled feature, a ViT's class token."""
    out: Tensor = visual(image_BCHW)
    return out if out.ndim == 2 else out[:, 0]


def _is_pool_layer(name: str) -> bool:
    """Whether a tensor belongs to a linear layer of the attention pool (its position table does not)."""
    return name.startswith(POOL) and not name.endswith("positional_embedding")


def _config(ours: Mapping[str, Tensor], files: OfficialFiles) -> TextReID.Config:
    """What shapes and the YAML's options say."""
    visual = {name.removeprefix("visual."): value for name, value in ours.items() if name.startswith("visual.")}
    values = read_gru(ours, "textual.") | read_head(ours, "head.")
    epsilon, momentum = files.at("MODEL", "EMBEDDING", "EPSILON"), files.at("MODEL", "MOCO", "M")
    if isinstance(epsilon, int | float):
        values["label_smoothing"] = 0.1 if epsilon > 0 else 0.0  # the released code knows no other value
    if isinstance(momentum, int | float) and 0 <= momentum <= 1:
        values["momentum"] = float(momentum)
    _, last_stride = image_of(len(ours[TABLE]), TextReID.stated_size(files))
    return TextReID.Config(name="textreid", tower=named_resnet(visual), last_stride=last_stride, **values)
