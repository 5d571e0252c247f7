"""TextReID: an image tower, a GRU over word vectors, and momentum contrast between the two.

Xiao Han, Sen He, Li Zhang, Tao Xiang, "Text-Based Person Search with Limited Data", BMVC 2021, arXiv
2110.10807. As published, the image tower is CLIP's and the word vectors are CLIP's text tower applied to single
words; they are a constant, so they live in a buffer and travel with the weights, the words themselves with the
tokenizer. The baseline without CLIP has an ImageNet ResNet and trains its word vectors. Differences from the released
code: every caption is floored at zero, whatever else is in its batch (`zero_floor`), the value of
`label_smoothing` counts, and any CLIP image tower may stand under the heads.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tbps_cli.augment.exact import CLIP_TRAIN, IMAGENET_TRAIN
from tbps_cli.augment.transform import CLIP_EVAL, IMAGENET_EVAL, EvalTransform, Triple
from tbps_cli.errors import WeightsError
from tbps_cli.losses.contrastive import unit
from tbps_cli.losses.family import family_figures
from tbps_cli.losses.identity import person_scores, smoothed_identity
from tbps_cli.losses.matching import alignment
from tbps_cli.losses.queue import queue_contrast, usable_negatives
from tbps_cli.methods._textreid_config import TextReidConfig
from tbps_cli.methods._textreid_words import no_table, sized, with_table, words_alone
from tbps_cli.methods.base import Method, TextInput, TextSources, Views
from tbps_cli.nn.clip_towers import copy_in, draw_image_tower, image_tower, resized_tables
from tbps_cli.nn.draw import draw_linear_normal, linear_layers
from tbps_cli.nn.imagenet import ImageNetResNet, is_imagenet
from tbps_cli.nn.momentum import KEYS, TRAINING, MomentumHead, PlainHead, read_head
from tbps_cli.nn.position import PEDESTRIAN
from tbps_cli.nn.resnet import ResNet, image_of
from tbps_cli.nn.sizes import named_resnet
from tbps_cli.nn.vit import VisionTransformer
from tbps_cli.nn.word_gru import WordGRU, read_gru
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.text.words import Words
from tbps_cli.types import Batch, Features, Group, Step, Task
from tbps_cli.weights.foreign import OfficialFiles, pair_of_sides
from tbps_cli.weights.key_table import KeyTable
from tbps_cli.weights.pretrained import IMAGENET
from tbps_cli.weights.word_table import TOWER, make_table, published_table, read_table, vocabulary_of

logger = logging.getLogger("tbps")

POOL = "attnpool."
TABLE = "visual.attnpool.positional_embedding"
TRAINED = "embed.weight"
"""The vectors of words in a text tower that learns them."""


class TextReID(Method):
    """An image tower and a GRU with one linear layer each; a classifier, key towers and queues while training."""

    Config = TextReidConfig

    paper = "Han et al.: Text-Based Person Search with Limited Data (BMVC 2021)"
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
        },
        # of ImageNet's own classes, where a file has it
        drop=[r"(visual_model|embed_model\.v_encoder_[qk])\.fc\.(weight|bias)"],
    )
    brought = ("word_table",)
    training_only = tuple(f"head.{name}" for name in TRAINING)
    config: TextReidConfig
    word_table: Tensor | None

    def __init__(self, config: TextReidConfig, task: Task) -> None:
        super().__init__(config, task)
        self.visual = _image_tower(config, task.image_size)
        trained, rows = config.word_vectors == "trained", config.vocabulary + 1
        self.token_table = f"textual.{TRAINED}" if trained else "word_table"
        self.textual = WordGRU(
            width=config.word_width,
            inside=config.gru_input,
            hidden=config.hidden,
            floor=config.zero_floor,
            rows=rows if trained else None,
        )
        self.register_buffer("word_table", None if trained else torch.zeros(rows, config.word_width))
        widths = {"image_width": config.image_width, "text_width": self.textual.out}
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
    def views(cls, config: TextReidConfig) -> Views:
        augment = IMAGENET_TRAIN if config.image_network == "imagenet" else CLIP_TRAIN
        return Views({"image": augment}, sampler="identity-chunks", drop_last=config.head == "moco")

    @classmethod
    def eval_transform(cls, config: TextReidConfig, task: Task) -> EvalTransform:
        """Images of an ImageNet network are normalised by ImageNet's mean, and resized as CLIP's are, as released."""
        if config.image_network == "clip":
            return super().eval_transform(config, task)
        return EvalTransform(task.image_size, IMAGENET_EVAL["mean"], IMAGENET_EVAL["std"], CLIP_EVAL["resample"])

    @classmethod
    def tokenizer(cls, config: TextReidConfig) -> Words:
        """Its words are not a setting: they stand in the run folder, or come with the word table."""
        raise no_table(config)

    @classmethod
    def text_input(cls, config: TextReidConfig, sources: TextSources) -> TextInput:
        """The words and their vectors: the run's own, as stated, from the data set's folder, or made for it.

        Only training may make a table: with another one than its own, a checkpoint gives plausible nonsense.
        Trained vectors stand in the checkpoint, and the words alone are wanted.
        """
        if config.word_vectors == "trained":
            return words_alone(config, sources)
        kept, dataset = sources.kept, sources.dataset
        if dataset and isinstance(kept, Words):  # resumed: the checkpoint brings the vectors
            width = sources.saved.get("word_width", config.word_width)
            return TextInput(sized(config, len(kept.vocabulary), width), kept)
        path = sources.words or (Path(config.words) if config.words else None)
        if path is None and kept is not None:
            return TextInput(config, kept)
        if path is None and sources.data_root is not None:
            path = published_table(sources.data, sources.data_root)
            if path and not dataset:
                logger.info("words: %s (found in the data set's folder)", path)
        if path is None:
            if dataset is None:
                raise no_table(config)
            table = make_table(vocabulary_of(dataset), config.word_weights, width=config.word_width, seed=sources.seed)
            reason = f"the words of {dataset.name}, vectors from {config.word_weights} {TOWER}"
            return with_table(config, table, reason)
        if dataset:
            return with_table(config, read_table(path), f"read from {path}")
        data = (sources.data, sources.data_root) if sources.data_root else None
        return with_table(config, read_table(path, width=config.word_width, data=data), str(path))

    @classmethod
    def batch_dependent(cls, config: TextReidConfig) -> str | None:
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
        words = token_BT if self.word_table is None else self.word_table[token_BT]
        out: Tensor = textual(words, (token_BT > 0).sum(1))
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
        if not isinstance(self.visual, ImageNetResNet):  # which has no table of places
            given = resized_tables(given, self.visual.grid, prefix="")
        wanted = [name for name in self.visual.state_dict() if name not in drawn]
        copied = copy_in(self.visual, given, wanted)
        if isinstance(self.head, MomentumHead) and self.head.loss_evaluator is not None:
            copy_in(self.head.v_encoder_k, given, wanted)
        return [f"visual.{name}" for name in copied]

    def renumbered(self, state: Mapping[str, Tensor], theirs: Tokenizer, ours: Tokenizer) -> Mapping[str, Tensor]:
        """Trained vectors in the rows that our vocabulary gives their words; new words keep what was drawn for them."""
        if self.word_table is not None or not (isinstance(theirs, Words) and isinstance(ours, Words)):
            return state  # a constant table comes with our words
        rows = {word: row for row, word in enumerate(theirs.vocabulary, start=1)}
        pairs = [(row, rows[word]) for row, word in enumerate(ours.vocabulary, start=1) if word in rows]
        to, out_of = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        own, moved = self.state_dict(), dict(state)
        for name in (self.token_table, f"head.t_encoder_k.{TRAINED}"):
            if name in own and name in state and own[name].shape[1] == state[name].shape[1]:
                moved[name] = own[name].index_copy(0, to, state[name][out_of].to(own[name].dtype))
        return moved

    @property
    def _draws_pool(self) -> bool:
        return self.config.head == "moco" and self.config.reinit_attention_pool and isinstance(self.visual, ResNet)

    def initialise(self, generator: torch.Generator) -> None:
        if isinstance(self.visual, ImageNetResNet):
            self.visual.initialise(generator)
        else:
            draw_image_tower(self.visual, generator)
        self.textual.initialise(generator)
        if self.word_table is not None:
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
    def recognise(cls, files: OfficialFiles) -> TextReidConfig | None:
        """TextReID's when every name is one of its model's. A constant word table is not in its files."""
        mapped = files.under(cls.official)
        if mapped.unknown or "textual.gru.weight_ih_l0" not in mapped.ours or "visual.conv1.weight" not in mapped.ours:
            return None
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
        if TABLE in ours:
            size, _ = image_of(len(ours[TABLE]), cls.stated_size(files))
        else:  # an ImageNet ResNet takes images of any size
            size = cls.stated_size(files) or PEDESTRIAN
        return Task(size, 0 if projection is None else projection.shape[1])


def _image_tower(config: TextReidConfig, image_size: tuple[int, int]) -> VisionTransformer | ResNet | ImageNetResNet:
    layers = config.sizes.layers
    if config.image_network == "clip" or isinstance(layers, int):
        return image_tower(config.image_sizes, image_size, last_stride=config.last_stride)
    return ImageNetResNet(layers, config.sizes.width, config.last_stride)


def _pooled(visual: nn.Module, image_BCHW: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, D]: a ResNet's pooled feature, a ViT's class token."""
    out: Tensor = visual(image_BCHW)
    return out if out.ndim == 2 else out[:, 0]


def _is_pool_layer(name: str) -> bool:
    """Whether a tensor belongs to a linear layer of the attention pool (its position table does not)."""
    return name.startswith(POOL) and not name.endswith("positional_embedding")


def _config(ours: Mapping[str, Tensor], files: OfficialFiles) -> TextReidConfig:
    """What shapes and the YAML's options say."""
    visual = {name.removeprefix("visual."): value for name, value in ours.items() if name.startswith("visual.")}
    values = read_gru(ours, "textual.") | read_head(ours, "head.")
    epsilon, momentum = files.at("MODEL", "EMBEDDING", "EPSILON"), files.at("MODEL", "MOCO", "M")
    if isinstance(epsilon, int | float):
        values["label_smoothing"] = 0.1 if epsilon > 0 else 0.0  # the released code knows no other value
    if isinstance(momentum, int | float) and 0 <= momentum <= 1:
        values["momentum"] = float(momentum)
    if is_imagenet(visual):
        values |= {"image_network": "imagenet", "weights": IMAGENET, "last_stride": _stated_stride(files)}
        _check_normalising(files, IMAGENET_EVAL["mean"])
    elif TABLE in ours:
        _, values["last_stride"] = image_of(len(ours[TABLE]), TextReID.stated_size(files))
        _check_normalising(files, CLIP_EVAL["mean"])
    else:
        raise WeightsError(
            f"{files.name}: the position table of TextReID's attention pool is missing.",
            "The file is incomplete: copy it again.",
        )
    return TextReidConfig(name="textreid", tower=named_resnet(visual), **values)


def _stated_stride(files: OfficialFiles) -> int:
    """The stride of an ImageNet ResNet's last stage, which no tensor tells: the YAML's, else the published one.

    Raises WeightsError for options that no published file has, and that would change features unseen.
    """
    stride, dilation = files.at("MODEL", "RESNET", "RES5_STRIDE"), files.at("MODEL", "RESNET", "RES5_DILATION")
    if dilation not in (None, 1) or stride not in (None, 1, 2):
        raise WeightsError(
            f"{files.name}: its options say RES5_STRIDE {stride} and RES5_DILATION {dilation}.",
            "Known are a stride of 1 or 2 without dilation, as published.",
        )
    if stride is None:
        return 2 if files.at("MODEL") else 1  # the released code's default where its YAML is silent
    return int(stride)


def _check_normalising(files: OfficialFiles, mean: Triple) -> None:
    """Raises WeightsError when the YAML states another mean of pixels than that of the image tower."""
    stated = files.at("INPUT", "PIXEL_MEAN")
    if isinstance(stated, list | tuple) and stated and not _near(stated, mean):
        raise WeightsError(
            f"{files.name}: its images were normalised with the mean {list(stated)}, here they would be with "
            f"{list(mean)}.",
            "Known are CLIP's numbers for CLIP's towers and ImageNet's for ImageNet's, as published.",
        )


def _near(stated: Sequence[object], mean: Triple) -> bool:
    return len(stated) == len(mean) and all(
        isinstance(one, int | float) and abs(one - other) < 1e-3 for one, other in zip(stated, mean, strict=True)
    )
