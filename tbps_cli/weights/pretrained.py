"""Pre-trained weights that towers start from, from a file, the hub or the catalogue, under OpenAI's parameter names.

They are a CLIP model's; those of one that was trained further on persons (a checkpoint of IRRA's family, of which the
towers alone are read); or torchvision's ResNets of ImageNet, for the one method that stands on them. A plain URL whose
hash is known is preferred to the hub: the file is downloaded once into the cache, goes on where a broken download
stopped, and is used only when its hash is right. Offline, or with HF_HUB_OFFLINE=1, the message names the file and
says where to put it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from tbps_cli.errors import WeightsError
from tbps_cli.nn.imagenet import is_imagenet
from tbps_cli.nn.sizes import spelled
from tbps_cli.places import cache_dir
from tbps_cli.weights import catalogue
from tbps_cli.weights.architecture import architecture_beside
from tbps_cli.weights.catalogue import QUICK, CatalogueEntry
from tbps_cli.weights.hub_files import PREFIX, Fetched, is_hub_address, is_offline
from tbps_cli.weights.hub_files import fetch as fetch_from_hub
from tbps_cli.weights.surplus import TOWERS
from tbps_cli.weights.weights_file import SKIPPED, read_tensors, state_of

Progress = Callable[[int, int], None]
Activation = Literal["quickgelu", "gelu"]
logger = logging.getLogger("tbps")

_EXTRAS = {"logit_scale", "logit_bias", "input_resolution", "context_length", "vocab_size", "attn_mask"}
_OPENAI_ONLY = {"input_resolution", "context_length", "vocab_size"}
_NEEDED = "visual.conv1.weight", "token_embedding.weight", "positional_embedding"
_SUFFIXES = ".pt", ".pth", ".bin", ".safetensors"
IMAGENET = "imagenet"
_IMAGENET = {
    "RN50": CatalogueEntry("https://download.pytorch.org/models/resnet50-0676ba61.pth"),
    "RN101": CatalogueEntry("https://download.pytorch.org/models/resnet101-63fe2227.pth"),
}
"""torchvision's first weights (IMAGENET1K_V1), those that the papers of that time used."""
_BY_HAND = {
    "HAM_checkpoint": "HAM's authors give this folder at https://pan.baidu.com/s/19xKmnYNV-XwK9FNcjkQmLw (bo63)"
}
"""Folders of weights that no program can fetch, by the name they have there: where a person gets them, and the code."""
_PIECE = 1 << 20
_TIMEOUT = 30.0


@dataclass(frozen=True)
class ClipFile:
    """A file of CLIP weights on this machine, of which only the head was read."""

    path: Path
    activation: Activation
    """What its towers were trained with."""
    context: int | None
    """Rows of its table of text positions; None of a ResNet of ImageNet, which reads no text."""
    fetched: Fetched | None = None
    """Where it was found on the hub, with commit and hash."""

    def state(self) -> dict[str, Tensor]:
        """The towers' tensors in float32, with OpenAI's names, without what belongs to no tower (`logit_scale`)."""
        return {name: _float32(tensor) for name, tensor in _towers(self.path, values=True)[0].items()}


def clip_file(weights: str, tower: str = "", *, progress: Progress | None = None) -> ClipFile:
    """Find CLIP weights, fetching them where they are missing, and read their head.

    weights: the path of a file (OpenAI's archive, a state dict, safetensors, a checkpoint of IRRA's family, of which
    the towers count), the address of one on the hub, "imagenet", or a tag of open_clip's catalogue; the last two for
    this tower. progress: called with (bytes done, bytes in all) of a download.
    """
    fetched = fetch_from_hub(weights) if is_hub_address(weights) else None
    if is_path(weights):
        path = fetched.path if fetched else Path(weights).expanduser()
        quick = tower.endswith(QUICK) or "quickgelu" in path.name.lower()
        page = next((page for folder, page in _BY_HAND.items() if folder in path.parts), None)
        if page and not path.is_file():
            raise WeightsError(f"{path}: there is no such file.", f"{page}; then --set method.weights=PATH")
    else:
        entry = _imagenet(tower) if weights == IMAGENET else catalogue.find(weights, tower)
        path, quick = fetch(entry, progress=progress)[0], entry.quick_gelu
    tensors, openai = _towers(path, values=False)
    table = tensors.get("positional_embedding")
    activation: Activation = "quickgelu" if quick or openai else "gelu"
    stated = architecture_beside(path) if is_path(weights) else None
    if stated is not None:
        activation = stated.tower.activation
    return ClipFile(path, activation, None if table is None else len(table), fetched)


def clip_state(
    weights: str, tower: str = "", *, progress: Progress | None = None
) -> tuple[dict[str, Tensor], Activation]:
    """The state of `clip_file`, read whole, and its activation."""
    file = clip_file(weights, tower, progress=progress)
    return file.state(), file.activation


def is_path(weights: str) -> bool:
    """Whether `method.weights` names a file, here or on the hub, rather than a tag of the catalogue."""
    return "/" in weights or os.sep in weights or weights.endswith(_SUFFIXES) or Path(weights).is_file()


# Reading ----------------------------------------------------------------------------------------


def _towers(path: Path, *, values: bool) -> tuple[dict[str, Tensor], bool]:
    """The towers' tensors of a file, and whether they are OpenAI's by origin. values: as in `read_tensors`.

    A ResNet of ImageNet has no activation that could be another, so it counts as OpenAI's.
    """
    foreign = read_tensors(path, skip=SKIPPED, values=values)
    tensors = state_of(foreign)
    if is_imagenet(tensors):
        return {f"visual.{name}": tensor for name, tensor in tensors.items()}, True
    family = f"{TOWERS}visual.conv1.weight" in tensors
    if family:  # the towers of a fine-tuned or person-pre-trained model, which IRRA's family takes from OpenAI
        tensors = {name.removeprefix(TOWERS): tensor for name, tensor in tensors.items() if name.startswith(TOWERS)}
    if any(name not in tensors or tensors[name].ndim < 2 for name in _NEEDED):
        held = ", ".join(list(tensors)[:3]) or "no tensors"
        raise WeightsError(
            f"{path} holds no CLIP model (found {held}).",
            "Give a name of open_clip's catalogue (ViT-B-16/openai) or a file of CLIP weights.",
        )
    # Only OpenAI's loader leaves a mixture of half weights and float32 layer norms.
    towers = {name: tensor for name, tensor in tensors.items() if name not in _EXTRAS}
    mixture = {tensor.dtype.itemsize for tensor in towers.values() if tensor.is_floating_point()} == {2, 4}
    openai = family or foreign.kind == "torchscript" or mixture or bool(tensors.keys() & _OPENAI_ONLY)
    return towers, openai


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float().contiguous() if tensor.is_floating_point() else tensor


def _imagenet(tower: str) -> CatalogueEntry:
    entry = _IMAGENET.get(spelled(tower))
    if entry is None:
        raise WeightsError(
            f'method.weights: there are no weights "{IMAGENET}" for the tower {tower or "that the recipe states"}.',
            f"Known for {', '.join(_IMAGENET)}; or give the path of a file.",
        )
    return entry


# Downloading ------------------------------------------------------------------------------------


def fetch(entry: CatalogueEntry, *, progress: Progress | None = None) -> tuple[Path, str]:
    """The entry's file on this machine, downloaded when it is not here yet, and where it comes from."""
    if entry.url and (entry.sha256 or not entry.hub):
        path = download(entry.url, cache_dir() / "weights" / entry.file, sha256=entry.sha256, progress=progress)
        return path, entry.url
    repository, _, file = entry.hub.rpartition("/")
    try:
        fetched = fetch_from_hub(f"{PREFIX}models/{repository}{f':{file}' if file else ''}")
    except WeightsError as error:
        raise WeightsError(error.message, "Fetch it elsewhere and set method.weights to its path.") from None
    return fetched.path, str(fetched)


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None,
    progress: Progress | None = None,
    otherwise: str = "set method.weights to its path",
) -> Path:
    """`target`, fetched from `url` unless it is here.

    sha256: the hash or its first digits. otherwise: what else can be done where it cannot be fetched.
    Several processes may ask at once: one downloads, the others wait for it. A download that broke
    off is continued. Raises WeightsError with the URL and the place to put the file by hand.
    """
    if target.is_file():
        return target
    known = _from_openai_cache(target.name, sha256)
    if known is not None:
        return known
    by_hand = f"Fetch {url} elsewhere and put it at {target}, or {otherwise}."
    if is_offline():
        raise WeightsError(f"{target.name} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it.", by_hand)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(target.name + ".part")
        with _one_at_a_time(part):
            if target.is_file():
                return target
            logger.info("weights: fetching %s from %s", target.name, url)
            _receive(url, part, progress)
            _check(part, target.name, sha256)
            part.replace(target)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        raise WeightsError(f"{target.name} cannot be fetched from {url}: {reason}.", by_hand) from None
    return target


def _from_openai_cache(name: str, sha256: str | None) -> Path | None:
    """The same file where OpenAI's package (and the papers' code) keeps it, when its hash is right."""
    try:
        path = Path.home() / ".cache" / "clip" / name
    except RuntimeError:  # a user without a home folder
        return None
    if sha256 is None or not path.is_file() or not _digest(path).startswith(sha256):
        return None
    logger.info("weights: %s (found, with the right hash)", path)
    return path


def _receive(url: str, part: Path, progress: Progress | None) -> None:
    """Append what `part` lacks; a server that cannot continue sends everything anew."""
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(
        url, headers={"User-Agent": "tbps", **({"Range": f"bytes={have}-"} if have else {})}
    )
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != 416:  # the part is whole already, or longer than the file: the hash decides
            raise
        return
    with answer:
        continues = answer.status == 206
        done = have if continues else 0
        total = done + int(answer.headers.get("Content-Length") or 0)
        with part.open("ab" if continues else "wb") as file:
            while piece := answer.read(_PIECE):
                file.write(piece)
                done += len(piece)
                if progress:
                    progress(done, max(total, done))
            os.fsync(file.fileno())
    if done < total:
        raise OSError(f"the connection ended after {done:,} of {total:,} bytes; run it again to go on")


def _check(part: Path, name: str, sha256: str | None) -> None:
    if sha256 is None:
        return
    found = _digest(part)
    if not found.startswith(sha256):
        part.unlink()
        raise WeightsError(
            f"{name} was fetched, but its SHA-256 begins with {found[: len(sha256)][:16]} and not {sha256[:16]}.",
            "It was deleted. Run it again; if that repeats, something between here and the server changes the file.",
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _one_at_a_time(part: Path) -> Iterator[None]:
    """A lock between processes, where the system has one; it vanishes with its holder."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with part.with_name(part.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
