"""Where a method's weights start: CLIP's, another checkpoint (`--init`), random draws, or a resumed run's own.

Weights on the Hugging Face hub are named by the commit that was fetched, and their hash is said, so that a run can be
repeated with the same ones.

What they are is known before the recipe is resolved, because weights decide things: CLIP's activation, and with
`--init` the tower. Of a checkpoint only the head is read for that; its tensors when the method is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from tbps_cli.errors import WeightsError
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.models.checkpoint import Checkpoint
from tbps_cli.models.official import Official
from tbps_cli.models.run import Run
from tbps_cli.nn.sizes import Tower
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.weights.hub_files import Fetched, fetch, is_hub_address
from tbps_cli.weights.pretrained import clip_state


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

    def tensors(self, data_root: Path | None) -> tuple[Mapping[str, Tensor], Tokenizer | None]:
        """All of them under our names, heads included, and the tokenizer whose words their rows belong to, if any.

        data_root: where an official one's word table may lie.
        """
        if isinstance(self.source, Run):
            return self.source.weights(), self.source.tokenizer()
        loaded = self.source.load(data_root=data_root)
        return loaded.method.state_dict(), loaded.tokenizer


@dataclass(frozen=True)
class Start:
    """The weights that training starts from, and the method's settings that suit them."""

    config: MethodConfig
    choice: str = ""
    """What of `config` follows the weights and not the recipe, with the reason; empty when nothing does."""
    clip: Mapping[str, Tensor] | None = None
    """A CLIP state for `Method.load_weights`."""
    init: Init | None = None
    hub: str = ""
    """Where a CLIP state was fetched from, when it was the hub: address with the commit, and hash."""

    @property
    def origin(self) -> str:
        """What a run remembers of its start: weights on the hub, which anybody can fetch again; else nothing."""
        return self.hub or (self.init.origin if self.init else "")

    def give(self, method: Method, tokenizer: Tokenizer, data_root: Path | None = None) -> str:
        """Copy the weights into a freshly drawn method. Returns a sentence about them; empty for none.

        tokenizer: the method's own.
        """
        if self.clip is not None:
            count = len(method.load_weights(self.clip))
            return f"weights: {count} tensors from {self.hub or self.config.weights}"
        return copy_fitting(method, self.init, tokenizer, data_root) if self.init else ""


def find_init(path: Path | None) -> Init | None:
    """What `--init` names, from heads and names alone. Raises WeightsError for what cannot be trained."""
    if path is None:
        return None
    if is_hub_address(str(path)):
        fetched = fetch(str(path))
        return replace(_init(fetched.path), path=Path(fetched.address), origin=_origin(fetched))
    return _init(path)


def _init(path: Path) -> Init:
    if not path.exists():
        raise WeightsError(f"--init {path}: there is no such file or folder.")
    found = Checkpoint.find(path)
    source = found.run or found.official
    if source is None:
        raise WeightsError(f"--init {path}: an exported model cannot be trained.", "Give the run it was exported from.")
    return Init(path, source)


def find_start(config: MethodConfig, init: Init | None, *, tower_is_set: bool) -> Start:
    """The weights that a new run starts from; CLIP's are read here, and fetched where they are missing.

    tower_is_set: the user stated `method.tower`, so that it does not follow `init`.
    Raises WeightsError when they are missing, damaged or do not suit the method.
    """
    if init is not None:
        return Start(config, init=init) if tower_is_set else _following(config, init)
    if config.weights == "random":
        return Start(config)
    weights, hub = config.weights, ""
    if is_hub_address(weights):
        fetched = fetch(weights)
        config = config.model_copy(update={"weights": fetched.address})
        weights, hub = str(fetched.path), _origin(fetched)
    state, activation = clip_state(weights, config.tower if isinstance(config.tower, str) else "")
    if activation == config.sizes.activation:
        return Start(config, clip=state, hub=hub)
    tower = config.sizes.model_copy(update={"activation": activation})
    choice = f"method.tower.activation: {activation} ({config.weights} was trained with it)"
    return Start(config.model_copy(update={"tower": tower}), choice, clip=state, hub=hub)


def _origin(fetched: Fetched) -> str:
    return f"{fetched.address} (SHA-256 {fetched.sha256})"


def _following(config: MethodConfig, init: Init) -> Start:
    """A start whose tower is that of the checkpoint."""
    theirs = init.config
    if theirs.sizes == config.sizes:
        return Start(config, init=init)
    try:  # validated, since not every method can have every tower
        followed = type(config).model_validate({**dict(config), "tower": theirs.tower})
    except ValidationError as error:
        reason = str(error.errors()[0].get("ctx", {}).get("error", "it is not valid"))
        raise WeightsError(
            f"--init {init.path}: its tower cannot be that of {config.name}: {reason}.",
            "Start from another checkpoint, or from CLIP's weights (without --init).",
        ) from None
    choice = f"method.tower: {_spelled(theirs.tower)} (as in --init {init.path})"
    return Start(followed, choice, init=init)


def copy_fitting(method: Method, init: Init, tokenizer: Tokenizer, data_root: Path | None = None) -> str:
    """Copy what fits by name and shape. Returns a sentence about it.

    Raises WeightsError when fewer than half of the tensors that inference needs fit: the rest would be random.
    """
    given, theirs = init.tensors(data_root)
    if theirs is not None:
        given = method.renumbered(given, theirs, tokenizer)
    own = method.state_dict()
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
    return f"init: {len(fitting)} of {len(own)} tensors from {init.origin or init.path}{rest}"


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
