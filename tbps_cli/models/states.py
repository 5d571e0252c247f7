"""Tensors into a method, every one accounted for.

What inference needs must be there and of the right shape. Heads that only training uses
(`Method.training_only`) may be absent or of another width: they are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tbps_cli.errors import WeightsError
from tbps_cli.methods.base import Method
from tbps_cli.methods.config import MethodConfig
from tbps_cli.nn.draw import shapes_alone
from tbps_cli.text.tokenizer import Tokenizer
from tbps_cli.weights.surplus import Extra

MAPPED = 1 << 20
"""Bytes of a tensor that is worth being left where a file is mapped."""
ALIGNED = 64
"""Bytes: torch's own tensors begin at multiples of it."""
TEXT_POSITIONS = "clip.positional_embedding"
"""Our name of the table whose rows are the places of a caption."""


@dataclass(frozen=True)
class Coverage:
    """Which tensors of a file found their place."""

    method: str
    loaded: tuple[str, ...]
    """Our names that were set."""
    needed: int
    """How many inference needs."""
    left_out: tuple[Extra, ...] = ()
    """The tensors of the file that nothing took."""

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors matched {self.method}, all {self.needed} that it needs among them"
        if not self.left_out:
            return text
        parts = list(dict.fromkeys(extra.module for extra in self.left_out))
        some = ", ".join(parts[:6]) + (", ..." if len(parts) > 6 else "")
        return f"{text}; {len(self.left_out)} left out, which {self.method} does not read: {some}"


def method_of(
    make: Callable[[], Method], tensors: Mapping[str, Tensor], *, name: str, left_out: tuple[Extra, ...] = ()
) -> tuple[Method, Coverage]:
    """A method for inference whose tensors are those of a file, not copies of them, wherever their types agree.

    make: builds the method; everything else as in `load_into`. What a file has need not be drawn first, which takes
    longer than reading it, and a file that is mapped is read only as far as it is used: an index reads no text tower.
    """
    with shapes_alone():
        method = make()
    own = method.state_dict()
    unsaved = {key for key, _ in method.named_buffers()} - own.keys()
    if unsaved or any(key not in tensors or tensors[key].shape != own[key].shape for key in own):
        method = make()  # what the file lacks is as it was drawn
        return method, load_into(method, tensors, name=name, left_out=left_out)
    given = {key: _own(tensors[key].to(tensor.dtype).contiguous()) for key, tensor in own.items()}
    method.load_state_dict(given, assign=True)
    return method, _coverage(method, tensors, left_out)


def _own(tensor: Tensor) -> Tensor:
    """A tensor for the method to keep: itself, or a copy where that costs little.

    In a mapped file tensors begin anywhere, which changes the last bits of products; copies begin where all others do.
    """
    small = tensor.numel() * tensor.element_size() < MAPPED and tensor.data_ptr() % ALIGNED
    return tensor.clone() if small else tensor


def load_into(
    method: Method, tensors: Mapping[str, Tensor], *, name: str, left_out: tuple[Extra, ...] = ()
) -> Coverage:
    """Copy tensors (under our names, any float type) into the method.

    name: the file, for messages; left_out: tensors of the file that are not among `tensors`, for the report.
    Raises WeightsError naming the first missing or misshapen tensor.
    """
    own = method.state_dict()
    needed = [key for key in own if not key.startswith(method.training_only)]
    _check(method, own, needed, tensors, name)
    fits = {key for key, tensor in own.items() if key in tensors and tensors[key].shape == tensor.shape}
    with torch.no_grad():
        for key in fits:
            own[key].copy_(tensors[key])
    return _coverage(method, tensors, left_out)


def _coverage(method: Method, tensors: Mapping[str, Tensor], left_out: tuple[Extra, ...]) -> Coverage:
    """Which tensors of a file have found a place in the method, and which not."""
    own = method.state_dict()
    needed = [key for key in own if not key.startswith(method.training_only)]
    fits = {key for key, tensor in own.items() if key in tensors and tensors[key].shape == tensor.shape}
    heads = tuple(_head(method, key, tensors[key], key in own) for key in tensors if key not in fits)
    return Coverage(method.config.name, tuple(key for key in own if key in fits), len(needed), heads + left_out)


def _head(method: Method, key: str, tensor: Tensor, built: bool) -> Extra:
    """A part of training that the file has and the method does not take."""
    why = "it has another shape here" if built else f"{method.config.name} as it is set has none"
    name = method.official.foreign(key) or key
    return Extra(name, tuple(tensor.shape), "training", f"only training reads it, and {why}")


def other_context(name: str, rows: int, config: MethodConfig) -> WeightsError:
    """A file whose table of text positions has other rows than the settings ask for. name: the file."""
    return WeightsError(
        f"{name}: its table of text positions has {rows} rows, but method.context is {config.sizes.context}.",
        "Leave method.context out. A longer table needs training: tbps train RECIPE --init CKPT --set method.context=N",
    )


def check_tokens(rows: int, tokenizer: Tokenizer, name: str) -> None:
    """Raises WeightsError when a table of tokens has fewer rows than there are ids; `name`: whose table it is.

    It would work until a caption holds one of the last words.
    """
    if rows < tokenizer.ids:
        raise WeightsError(
            f"{name}: its table of tokens has {rows:,} rows, but the tokenizer has {tokenizer.ids:,} ids.",
            "It was made for another vocabulary, which tbps does not have.",
        )


def _check(
    method: Method, own: Mapping[str, Tensor], needed: list[str], tensors: Mapping[str, Tensor], name: str
) -> None:
    kind = method.config.name
    missing = [key for key in needed if key not in tensors]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightsError(
            f"{name}: {len(needed) - len(missing)} of the {len(needed)} tensors that {kind} needs are there; "
            f"missing: {method.official.foreign(missing[0]) or missing[0]}{more}.",
            "The file is incomplete, or of another method or tower.",
        )
    wrong = [key for key in needed if tensors[key].shape != own[key].shape]
    if TEXT_POSITIONS in wrong and len(tensors[TEXT_POSITIONS]) != method.config.sizes.context:
        raise other_context(name, len(tensors[TEXT_POSITIONS]), method.config)
    if wrong:
        first, (height, width) = wrong[0], method.task.image_size
        raise WeightsError(
            f"{name}: {method.official.foreign(first) or first} is {list(tensors[first].shape)}, but {kind} "
            f"with images of {height}x{width} needs {list(own[first].shape)}.",
            "Set what differs, for example --set data.image_size=[384,128] or --set method.stride=16.",
        )
