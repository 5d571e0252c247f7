"""Where a method's weights start: CLIP's, another checkpoint (`--init`), random draws, or a resumed run's own.

What they are is known before the recipe is resolved, because weights decide things: CLIP's activation, how long
captions may be, and with `--init` the tower. Only heads are read for that, tensors when the method is built. Weights
on the Hugging Face hub are named by the commit that was fetched, and their hash is said, so that a run can be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from tbps_cli import methods
from tbps_cli.choices import Choices
from tbps_cli.errors import WeightsError
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.models.checkpoint import Checkpoint
from tbps_cli.models.official import Official
from tbps_cli.models.run import Run
from tbps_cli.models.source_file import SourceFile
from tbps_cli.models.states import TEXT_POSITIONS
from tbps_cli.nn.draw import shapes_alone
from tbps_cli.nn.position import fit_context, resize_grid
from tbps_cli.nn.sizes import CONTEXT, Tower
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.types import Task
from tbps_cli.weights.hub_files import fetch, is_hub_address
from tbps_cli.weights.pretrained import ClipFile, clip_file

IMAGE_POSITIONS = "clip.visual.positional_embedding", "clip.visual.attnpool.positional_embedding"
"""Our names of the tables whose rows are the places of an image: of a ViT, of a ResNet."""


@dataclass(frozen=True)
class Init:
    """What `--init` names: a run, or an official checkpoint that one method knows."""

    path: Path
    """As the user gave it; of a file on the hub, its address with the commit."""
    source: Run | Official
    origin: str = ""
    """Of a file on the hub: its address with the commit, and its hash."""

    @property
    def config(self) -> MethodConfig:
        """The settings of its method."""
        return self.source.recipe.method

    @property
    def choices(self) -> Choices:
        """That its weights were chosen on a test split, which a training that begins with them inherits."""
        return self.source.choices.inherited()

    def tensors(self, config: MethodConfig, data_root: Path | None) -> tuple[Mapping[str, Tensor], Tokenizer | None]:
        """All of them under our names, heads included, as a method of `config` can go on with them; and the tokenizer
        whose words their rows belong to, if any.

        data_root: where an official one's word table may lie.
        """
        if isinstance(self.source, Run):
            state: Mapping[str, Tensor] = self.source.weights()
            tokenizer = self.source.tokenizer()
        else:
            loaded = self.source.load(data_root=data_root)
            state, tokenizer = loaded.tensors, loaded.tokenizer
        return methods.find(self.config.name).state_for(self.config, state, config), tokenizer

    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches that its image tower was made for."""
        recipe = self.source.recipe
        with shapes_alone():
            return methods.find(recipe.method.name)(recipe.method, Task(recipe.data.image_size, 0)).clip.visual.grid


@dataclass(frozen=True)
class Start:
    """The weights that training starts from, and the method's settings that suit them."""

    config: MethodConfig
    choices: tuple[str, ...] = ()
    """What of `config` follows the weights and not the recipe, each with its reason."""
    clip: ClipFile | None = None
    """CLIP weights for `Method.load_weights`."""
    init: Init | None = None

    @property
    def chosen(self) -> Choices:
        """That the weights were chosen on a test split, as far as anybody knows."""
        if self.init is not None:
            return self.init.choices
        return SourceFile(self.clip.path).choices.inherited() if self.clip else Choices()

    @property
    def origin(self) -> str:
        """What a run remembers of its start: weights on the hub, which anybody can fetch again; else nothing."""
        if self.clip is not None and self.clip.fetched is not None:
            return str(self.clip.fetched)
        return self.init.origin if self.init else ""

    def give(self, method: Method, tokenizer: Tokenizer, data_root: Path | None = None) -> str:
        """Copy the weights into a freshly drawn method. Returns a sentence about them; empty for none.

        tokenizer: the method's own.
        """
        if self.clip is not None:
            count = len(method.load_weights(self.clip.state()))
            resized = _resized(self.clip.context, self.config) if self.clip.context else ""
            return f"weights: {count} tensors from {self.origin or self.config.weights}{resized}"
        return copy_fitting(method, self.init, tokenizer, data_root) if self.init else ""


def find_init(path: Path | None, data: str | None = None) -> Init | None:
    """What `--init` names, from heads and names alone. Raises WeightsError for what cannot be trained.

    data: the data set of the training, which chooses where a folder holds one checkpoint for each of several.
    """
    if path is None:
        return None
    if is_hub_address(str(path)):
        fetched = fetch(str(path))
        return replace(_init(fetched.path, data), path=Path(fetched.address), origin=str(fetched))
    return _init(path, data)


def _init(path: Path, data: str | None) -> Init:
    if not path.exists():
        raise WeightsError(f"--init {path}: there is no such file or folder.")
    found = Checkpoint.find(path, wanted=data)
    source = found.run or found.official
    if source is None:
        raise WeightsError(f"--init {path}: an exported model cannot be trained.", "Give the run it was exported from.")
    return Init(path, source)


def find_start(config: MethodConfig, init: Init | None, *, tower_is_set: bool) -> Start:
    """The weights that a new run starts from; CLIP's are fetched here where they are missing, and only their head read.

    tower_is_set: the user stated `method.tower`, so that it does not follow `init`.
    Raises WeightsError when they are missing, damaged or do not suit the method.
    """
    if init is not None:
        return _following(config, init, tower_is_set=tower_is_set)
    if config.weights == "random":
        return Start(config)
    clip = clip_file(config.weights, config.tower if isinstance(config.tower, str) else "")
    changes: dict[str, object] = {"weights": clip.fetched.address} if clip.fetched else {}
    choices = []
    if clip.activation != config.sizes.activation:
        changes["tower"] = config.sizes.model_copy(update={"activation": clip.activation})
        choices.append(f"method.tower.activation: {clip.activation} ({config.weights} was trained with it)")
    reads_text = config.takes_context and clip.context is not None
    if reads_text and not config.states_context and clip.context != config.sizes.context:
        changes["context"] = clip.context
        choices.append(f"method.context: {clip.context} (the positions in {config.weights})")
    return Start(config.model_copy(update=changes), tuple(choices), clip=clip)


def _following(config: MethodConfig, init: Init, *, tower_is_set: bool) -> Start:
    """A start whose tower is that of the checkpoint, and whose captions are as long, unless these are set."""
    theirs = init.config
    changes: dict[str, object] = {}
    choices = []
    plain = {"context": CONTEXT}  # compared apart from the tower: a longer one is made of theirs
    if not tower_is_set and theirs.sizes.model_copy(update=plain) != config.sizes.model_copy(update=plain):
        changes["tower"] = theirs.tower
        choices.append(f"method.tower: {_spelled(theirs.tower)} (as in --init {init.path})")
    if not config.states_context and theirs.sizes.context != config.sizes.context:
        changes["context"] = theirs.sizes.context
        choices.append(f"method.context: {theirs.sizes.context} (as in --init {init.path})")
    if not changes:
        return Start(config, init=init)
    try:  # validated, since not every method can have every tower
        followed = type(config).model_validate({**dict(config), **changes})
    except ValidationError as error:
        reason = str(error.errors()[0].get("ctx", {}).get("error", "it is not valid"))
        raise WeightsError(
            f"--init {init.path}: its tower cannot be that of {config.name}: {reason}.",
            "Start from another checkpoint, or from CLIP's weights (without --init).",
        ) from None
    return Start(followed, tuple(choices), init=init)


def _resized(rows: int, config: MethodConfig) -> str:
    """What to know of a table of text positions that is not used as it was trained; empty where it is."""
    context = config.sizes.context
    if context <= rows:
        return f"; their {rows} text positions are shortened to {context}" if context < rows else ""
    return (
        f"; their {rows} text positions are lengthened to {context}, linearly: "
        "no published score on long captions (UFine6926) is comparable"
    )


def copy_fitting(method: Method, init: Init, tokenizer: Tokenizer, data_root: Path | None = None) -> str:
    """Copy what fits by name and shape. Returns a sentence about it.

    Raises WeightsError when fewer than half of the tensors that inference needs fit: the rest would be random.
    """
    own = method.state_dict()
    given, theirs = init.tensors(method.config, data_root)
    if theirs is not None:
        given = method.renumbered(given, theirs, tokenizer)
    given = _fit_positions(given, own, method, init)
    fitting = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
    # Adapters and experts of one side alone do not count: the smaller of both sides is what could fit.
    needed = {name for name in own if not name.startswith(method.training_only)}
    there = {name for name in given if not name.startswith(method.training_only)}
    possible = min(len(needed), len(there))
    found = len(needed & fitting.keys())
    if 2 * found < possible or not fitting:
        raise WeightsError(
            f"--init {init.path}: only {found} of {possible} tensors of the towers fit {method.config.name}: "
            f"{_difference(method, init.config, given)}.",
            "Leave method.tower to the checkpoint, or start from one with the same tower.",
        )
    method.load_state_dict(fitting, strict=False)
    fresh = [name for name in own if name not in fitting]
    rest = f"; new: {', '.join(fresh[:4])}{', …' if len(fresh) > 4 else ''}" if fresh else ""
    resized = _resized(init.config.sizes.context, method.config) if TEXT_POSITIONS in own else ""
    return f"init: {len(fitting)} of {len(own)} tensors from {init.origin or init.path}{rest}{resized}"


def _fit_positions(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], method: Method, init: Init
) -> Mapping[str, Tensor]:
    """The checkpoint's tensors with the tables of positions brought to this method's captions and images."""
    fitted = dict(given)
    if TEXT_POSITIONS in own and TEXT_POSITIONS in given:
        fitted[TEXT_POSITIONS] = fit_context(given[TEXT_POSITIONS], len(own[TEXT_POSITIONS]))
    for name in IMAGE_POSITIONS:
        if name in own and name in given and own[name].shape != given[name].shape:
            fitted[name] = resize_grid(given[name], method.clip.visual.grid, init.grid())
    return fitted


def _difference(method: Method, config: MethodConfig, given: Mapping[str, Tensor]) -> str:
    """What keeps a checkpoint's tensors from fitting: the sizes of the towers, else the first tensor."""
    theirs, ours = dict(config.sizes), dict(method.config.sizes)
    sizes = [f"{key} {theirs[key]} (here {ours[key]})" for key in ours if theirs[key] != ours[key]]
    if sizes:
        return "its tower has " + ", ".join(sizes)
    first = next(name for name in method.state_dict() if not name.startswith(method.training_only))
    shape = tuple(given[first].shape) if first in given else "missing there"
    return f"{first} is {tuple(method.state_dict()[first].shape)} here and {shape}"


def _spelled(tower: str | Tower) -> str:
    """A tower as a reader may know it."""
    if isinstance(tower, str):
        return tower
    return f"width {tower.width}, layers {tower.layers}, text width {tower.text_width}, {tower.text_layers} text layers"
