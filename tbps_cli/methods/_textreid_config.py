"""The settings of TextReID, with their defaults, units and what goes with what."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from tbps_cli.errors import RecipeError
from tbps_cli.methods.config import MethodConfig
from tbps_cli.nn.imagenet import imagenet_embed
from tbps_cli.nn.resnet import EXPANSION
from tbps_cli.nn.sizes import TOWERS, Tower
from tbps_cli.nn.word_gru import Floor
from tbps_cli.section import Count, Positive, Share, Weight
from tbps_cli.weights.pretrained import IMAGENET, is_path


class TextReidConfig(MethodConfig):
    """`[method]` of TextReID; a loss of weight 0 is not computed."""

    tower: str | Tower = "RN50"
    """The image tower; CLIP's text tower is not used."""
    image_network: Literal["clip", "imagenet"] = "clip"
    """clip: CLIP's image tower; imagenet: the plain ResNet of ImageNet's classifiers with the tower's stages."""
    last_stride: Literal[1, 2] = 1
    """Of a ResNet's last stage; 1 keeps its map at 1/16 of the image."""
    pool_heads: Count | None = None
    """Heads of a ResNet's attention pool, which no checkpoint tells; its channels // 64 when left out."""
    takes_context: ClassVar[bool] = False
    word_vectors: Literal["table", "trained"] = "table"
    """table: constants, from a word table; trained: learned with the rest, in the weights of the checkpoint."""
    words: str | None = None
    """The word table, a .npy file; left out, that of the run or of the data set's folder, else one is made.
    For trained vectors a JSON list of the words; left out, those of the run or of the data set."""
    word_weights: str = "openai"
    """What a word table is made with: ViT-B-32 weights of open_clip's catalogue, a path, or "random"."""
    vocabulary: Count = 9408
    """Words of the table; follows from the table. Of trained vectors: places for words, at least as many."""
    word_width: Count = 512
    """Numbers in a word vector; follows from the table. Trained ones have gru_input numbers."""
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
    def _heads_fit(self) -> TextReidConfig:
        sizes = self.sizes
        towers = ", ".join(name for name, tower in TOWERS.items() if tower.is_resnet)
        if self.image_network == "imagenet" and self.pool_heads:
            raise ValueError("pool_heads is for CLIP's ResNets; one of ImageNet has no attention pool")
        if self.image_network == "imagenet" and not sizes.is_resnet:
            raise ValueError(f'image_network = "imagenet" needs the stages of a ResNet as tower ({towers})')
        if self.pool_heads and not sizes.is_resnet:
            raise ValueError(f"pool_heads is for ResNets ({towers}); this tower has no attention pool")
        channels = 8 * EXPANSION * sizes.width
        if self.pool_heads and channels % self.pool_heads:
            raise ValueError(f"pool_heads = {self.pool_heads} does not divide the pool's {channels} channels")
        return self

    @model_validator(mode="after")
    def _weights_fit(self) -> TextReidConfig:
        imagenet = self.image_network == "imagenet"
        if not imagenet and self.weights == IMAGENET:
            raise ValueError(f'weights = "{IMAGENET}" is for image_network = "imagenet"')
        if imagenet and self.weights not in (IMAGENET, "random") and not is_path(self.weights):
            raise ValueError(
                f'weights = "{self.weights}" is a CLIP model; with image_network = "imagenet" it must be '
                f'"{IMAGENET}", "random" or the path of a file'
            )
        return self

    @property
    def image_width(self) -> int:
        """Length of the image tower's feature."""
        return imagenet_embed(self.sizes.width) if self.image_network == "imagenet" else self.sizes.embed

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
