"""Weights on the Hugging Face hub, by address: `hf-hub:OWNER/REPO:FILE`, or `hf-hub:OWNER/REPO:FILE@REVISION`.

The hub's own client fetches and keeps them (HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and a login count as everywhere).
What comes back states the commit and the hash of the file, for the run to remember: a branch moves, and whoever trains
again should get the same weights. Authors also put weights into repositories of data sets
(`hf-hub:datasets/OWNER/REPO:FILE`); without that word the models are asked first, then the data sets.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from tbps_cli.errors import WeightsError

logger = logging.getLogger("tbps")

PREFIX = "hf-hub:"
_ADDRESS = re.compile(
    r"hf-hub:((?P<kind>model|dataset)s/)?(?P<repository>[\w.-]+/[\w.-]+):(?P<file>[^:@\\]+)(@(?P<revision>[^\s@:\\]+))?"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BY_HAND = "Fetch it on another machine, and give the path of the file instead."


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the hub."""

    repository: str
    file: str
    revision: str | None = None
    """A branch, tag or commit; None is the repository's main branch."""
    kind: str | None = None
    """model or dataset; None is whichever there is."""

    def __str__(self) -> str:
        folder, revision = f"{self.kind}s/" if self.kind == "dataset" else "", f"@{self.revision}"
        return f"{PREFIX}{folder}{self.repository}:{self.file}{revision if self.revision else ''}"


@dataclass(frozen=True)
class Fetched:
    """A file of the hub on this machine."""

    path: Path
    address: str
    """Where it came from, with the commit as its revision."""
    sha256: str

    def __str__(self) -> str:
        return f"{self.address} (SHA-256 {self.sha256})"


def is_hub_address(weights: str) -> bool:
    """Whether something that names weights means a file on the hub."""
    return weights.startswith(PREFIX)


def parse(address: str) -> HubFile:
    """The parts of an address. Raises WeightsError when it is not one."""
    found = _ADDRESS.fullmatch(address)
    if found is None or ".." in PurePosixPath(found["file"]).parts or found["file"].startswith("/"):
        raise WeightsError(
            f"{address} is not the address of a file on the hub.",
            f"Write {PREFIX}OWNER/REPOSITORY:FILE, with @REVISION behind it for one that stays the same.",
        )
    return HubFile(found["repository"], found["file"], found["revision"], found["kind"])


def fetched_path(path: Path) -> Path:
    """A path as it is, or the fetched file where it is an address on the hub; a line names its commit and hash."""
    if not is_hub_address(str(path)):
        return path
    fetched = fetch(str(path))
    logger.info("ckpt: %s", fetched)
    return fetched.path


def fetch(address: str) -> Fetched:
    """The file of an address, from the client's cache or the hub.

    Raises WeightsError for a wrong address, a repository, revision or file that is not there or not for everybody,
    a hub that cannot be reached, and a file in the cache that is not what the hub has.
    """
    wanted = parse(address)
    if wanted.kind is None:
        for kind in ("model", "dataset"):
            path = _download(replace(wanted, kind=kind), address, may_be_missing=kind == "model")
            if path is not None:
                return _fetched(replace(wanted, kind=kind), path)
    path = _download(wanted, address)
    assert path is not None  # or refused
    return _fetched(wanted, path)


def _fetched(given: HubFile, path: Path) -> Fetched:
    commit = path.parents[len(PurePosixPath(given.file).parts) - 1].name
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if _SHA256.fullmatch(blob.name) and blob.name != digest:  # the client keeps large files under their hash
        raise WeightsError(
            f"{given}: the copy in the cache is damaged: its SHA-256 begins with {digest[:16]}, not {blob.name[:16]}.",
            f"Delete {blob.resolve()} and run it again.",
        )
    return Fetched(path, str(replace(given, revision=commit)), digest)


def _download(given: HubFile, address: str, *, may_be_missing: bool = False) -> Path | None:
    """The file in the client's cache.

    address: as the user wrote it, for messages. may_be_missing: None when there is no such repository.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError:
        raise WeightsError(f"{address} lies on the Hugging Face hub.", "Type: pip install huggingface_hub") from None
    endpoint = os.environ.get("HF_ENDPOINT") or None
    host = (endpoint or "https://huggingface.co").rstrip("/")
    page = f"{host}/{'datasets/' if given.kind == 'dataset' else ''}{given.repository}"
    try:
        return Path(
            huggingface_hub.hf_hub_download(
                given.repository,
                given.file,
                repo_type=given.kind,
                revision=given.revision,
                endpoint=endpoint,
                library_name="tbps",
                local_files_only=is_offline(),
            )
        )
    except errors.GatedRepoError:
        raise WeightsError(
            f"{address}: the authors give {given.repository} to those who ask for it.",
            f"Ask on {page}, then log in: hf auth login (or set HF_TOKEN).",
        ) from None
    except errors.RepositoryNotFoundError:
        if may_be_missing:
            return None
        raise WeightsError(
            f"{address}: there is no repository {given.repository} on {host}, or it is private.",
            "Check the spelling; for a private one log in first: hf auth login (or set HF_TOKEN).",
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(
            f"{address}: {given.repository} has no revision {given.revision or 'main'}.", f"Look at {page}/commits/main"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        if is_offline():
            if may_be_missing:
                return None
            reason = "HF_HUB_OFFLINE forbids to fetch it"
        else:
            reason = f"{host} cannot be reached ({reason_of(error.__cause__ or error)})"
        raise WeightsError(f"{address} is not on this machine, and {reason}.", _BY_HAND) from None
    except errors.EntryNotFoundError:
        raise WeightsError(
            f"{address}: {given.repository} has no file {given.file}.",
            f"Look at {page}/tree/{given.revision or 'main'}",
        ) from None
    except errors.HFValidationError as error:
        raise WeightsError(f"{address} is not the address of a file on the hub: {reason_of(error)}.") from None
    except (OSError, errors.HfHubHTTPError) as error:
        raise WeightsError(f"{address} cannot be fetched from {host}: {reason_of(error)}.", _BY_HAND) from None


def is_offline() -> bool:
    """Whether the user forbids the hub, and downloads altogether."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def reason_of(error: BaseException | None) -> str:
    """The first line of what an error of another library says, for the middle of a sentence."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0]).rstrip(".") if lines else type(error).__name__
