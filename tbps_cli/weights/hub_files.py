"""Weights on the Hugging Face hub, by address: `hf-hub:OWNER/REPO[@REVISION][:FILE]`.

The hub's own client fetches and keeps them (HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME and a login count as everywhere).
What comes back states the commit and the hash of the file, for the run to remember: a branch moves, and whoever trains
again should get the same weights. Authors also put weights into repositories of data sets
(`hf-hub:datasets/OWNER/REPO:FILE`); without that word the models are asked first, then the data sets. Without a file
the repository is listed, and its one checkpoint taken, with the small files beside it that say how to read it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from tbps_cli.errors import WeightsError
from tbps_cli.remembered import recall, remember, state_of_file
from tbps_cli.weights.which_file import which

logger = logging.getLogger("tbps")

PREFIX = "hf-hub:"
_REVISION = r"[^\s@:\\]+"
_ADDRESS = re.compile(
    r"hf-hub:((?P<kind>model|dataset)s/)?(?P<repository>[\w.-]+/[\w.-]+)"
    rf"(@(?P<early>{_REVISION}))?(:(?P<file>[^:@\\]+)(@(?P<revision>{_REVISION}))?)?"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BY_HAND = "Fetch it on another machine, and give the path of the file instead."
_BESIDE = (
    "configs.yaml",
    "config.yaml",
    "configs.yml",
    "config.yml",
    "open_clip_config.json",
    "recipe.toml",
    "tokenizer.json",
)
"""Small files that say how to read the weights beside them."""
_EXPORTED = "tbps.json", "image.onnx", "text.onnx"
"""What a folder of `tbps export` holds, and beside each graph its weights."""
_BESIDE_GRAPHS = "clip_tokenizer.json", "calibration.json"
"""What it may hold besides: the vocabulary, which tbps-lite has nowhere else, and what scores are worth."""
_WAIT = 1.0
"""Seconds before a hub that did not answer is asked once more. The client itself would ask for 23 seconds."""


@dataclass(frozen=True)
class HubFile:
    """One file of a repository on the hub, or its one checkpoint."""

    repository: str
    file: str | None
    """None: the one checkpoint that the repository holds."""
    revision: str | None = None
    """A branch, tag or commit; None is the repository's main branch."""
    kind: str | None = None
    """model or dataset; None is whichever there is."""

    def __str__(self) -> str:
        folder, revision = f"{self.kind}s/" if self.kind == "dataset" else "", f"@{self.revision}"
        file = f":{self.file}" if self.file else ""
        return f"{PREFIX}{folder}{self.repository}{file}{revision if self.revision else ''}"


@dataclass(frozen=True)
class Fetched:
    """A file of the hub on this machine, or the folder of an export."""

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
    file = found["file"] if found else None
    wrong = found is None or (found["early"] and found["revision"])
    if wrong or (file and (".." in PurePosixPath(file).parts or file.startswith("/"))):
        raise WeightsError(
            f"{address} is not the address of a file on the hub.",
            f"Write {PREFIX}OWNER/REPOSITORY:FILE, with @REVISION behind it for one that stays the same.",
        )
    assert found is not None
    return HubFile(found["repository"], file, found["early"] or found["revision"], found["kind"])


def fetch(address: str, *, data: str | None = None) -> Fetched:
    """The file of an address, from the client's cache or the hub.

    data: the name of the data set that it is wanted for, which chooses where a repository holds a file for each of
    several. Raises WeightsError for a wrong address, a repository, revision or file that is not there or not for
    everybody, a hub that cannot be reached, and a file in the cache that is not what the hub has.
    """
    wanted = parse(address)
    kinds = (wanted.kind,) if wanted.kind else ("model", "dataset")
    for kind in kinds:
        asked = _Asked(replace(wanted, kind=kind), address)
        found = asked.fetch(data, may_be_missing=kind != kinds[-1])
        if found is not None:
            return found
    raise AssertionError("the last kind that is asked for is there, or refused")


@dataclass(frozen=True)
class _Asked:
    """One repository of one kind, asked through the hub's client, whose errors become ours."""

    given: HubFile
    address: str
    """As the user wrote it, for messages."""

    def fetch(self, data: str | None, *, may_be_missing: bool) -> Fetched | None:
        """What is asked for; None where there is no such repository and that may be."""
        names = [self.given.file] if self.given.file else self._listed(data, may_be_missing=may_be_missing)
        if names is None:
            return None
        first = self._download(names[0], may_be_missing=may_be_missing)
        if first is None:
            return None
        commit = _commit(first, names[0])
        beside = _Asked(replace(self.given, revision=commit), self.address)
        for name in names[1:]:
            beside._download(name)
        exported = names[0] in _EXPORTED
        return _fetched(replace(self.given, file=None if exported else names[0], revision=commit), first, exported)

    def _listed(self, data: str | None, *, may_be_missing: bool) -> list[str] | None:
        """The files that are wanted of a repository whose file is not named; the checkpoint is the first."""
        names = self._names(may_be_missing=may_be_missing)
        if names is None:
            return None
        if set(_EXPORTED) <= set(names):
            more = (*(f"{name}.data" for name in _EXPORTED), *_BESIDE_GRAPHS)
            return [*_EXPORTED, *(name for name in more if name in names)]
        chosen = which(f"{self.address}: the repository", names, data)
        if chosen.why:
            logger.info("%s: %s", self.address, chosen.why)
        folder = chosen.name.rpartition("/")[0]
        beside = [f"{folder}/{name}" if folder else name for name in _BESIDE]
        return [chosen.name, *(name for name in beside if name in names)]

    def _names(self, *, may_be_missing: bool) -> list[str] | None:
        """The names of all files of the repository, from the hub, or of those in the cache when it is not asked."""
        with self._explained("", may_be_missing) as missing:
            import huggingface_hub

            plain: dict[str, Any] = {"repo_type": self.given.kind, "revision": self.given.revision}
            hub = huggingface_hub.HfApi(endpoint=endpoint(), library_name="tbps")
            try:
                if not is_offline():
                    ask = lambda: hub.repo_info(self.given.repository, timeout=_timeout(), **plain)  # noqa: E731
                    return sorted(file.rfilename for file in _once_more(ask).siblings or [])
            except Exception as error:
                if not is_of_the_network(error):
                    raise
                with suppress(OSError):
                    return self._cached()
                raise
            return self._cached()
        assert missing
        return None

    def _cached(self) -> list[str]:
        """The names of the files in the client's cache. Raises what the client raises when it has none."""
        import huggingface_hub

        folder = Path(
            huggingface_hub.snapshot_download(
                self.given.repository,
                repo_type=self.given.kind,
                revision=self.given.revision,
                local_files_only=True,
            )
        )
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def _download(self, file: str, *, may_be_missing: bool = False) -> Path | None:
        """A file in the client's cache. may_be_missing: None when there is no such repository."""
        with self._explained(file, may_be_missing) as missing:
            import huggingface_hub

            given = self.given
            plain: dict[str, Any] = {"repo_type": given.kind, "revision": given.revision}
            if not is_offline() and huggingface_hub.try_to_load_from_cache(given.repository, file, **plain) is None:
                url = huggingface_hub.hf_hub_url(given.repository, file, endpoint=endpoint(), **plain)
                _once_more(lambda: huggingface_hub.get_hf_file_metadata(url, timeout=_timeout(), library_name="tbps"))
            return Path(
                huggingface_hub.hf_hub_download(
                    given.repository,
                    file,
                    endpoint=endpoint(),
                    library_name="tbps",
                    local_files_only=is_offline(),
                    **plain,
                )
            )
        assert missing
        return None

    @contextmanager
    def _explained(self, file: str, may_be_missing: bool) -> Iterator[bool]:
        """Errors of the client as one line of ours; a repository that may be missing just ends the block."""
        try:
            import huggingface_hub  # noqa: F401 - whether it is there
            from huggingface_hub import errors
        except ImportError:
            raise WeightsError(
                f"{self.address} lies on the Hugging Face hub.", "Type: pip install huggingface_hub"
            ) from None
        given, address, host = self.given, self.address, (endpoint() or "https://huggingface.co").rstrip("/")
        page = f"{host}/{'datasets/' if given.kind == 'dataset' else ''}{given.repository}"
        try:
            yield may_be_missing
        except errors.GatedRepoError:
            raise WeightsError(
                f"{address}: the authors give {given.repository} to those who ask for it.",
                f"Ask on {page}, then log in: hf auth login (or set HF_TOKEN).",
            ) from None
        except errors.RepositoryNotFoundError:
            if not may_be_missing:
                raise WeightsError(
                    f"{address}: there is no repository {given.repository} on {host}, or it is private.",
                    "Check the spelling; for a private one log in first: hf auth login (or set HF_TOKEN).",
                ) from None
        except errors.RevisionNotFoundError:
            raise WeightsError(
                f"{address}: {given.repository} has no revision {given.revision or 'main'}.",
                f"Look at {page}/commits/main",
            ) from None
        except errors.LocalEntryNotFoundError as error:
            if not (is_offline() and may_be_missing):
                reason = _unreachable(host, error.__cause__ or error)
                raise WeightsError(f"{address} is not on this machine, and {reason}.", _BY_HAND) from None
        except errors.EntryNotFoundError:
            raise WeightsError(
                f"{address}: {given.repository} has no file {file}.", f"Look at {page}/tree/{given.revision or 'main'}"
            ) from None
        except errors.HFValidationError as error:
            raise WeightsError(f"{address} is not the address of a file on the hub: {reason_of(error)}.") from None
        except (OSError, errors.HfHubHTTPError) as error:
            raise WeightsError(f"{address} cannot be fetched from {host}: {reason_of(error)}.", _BY_HAND) from None
        except Exception as error:
            if not is_of_the_network(error):
                raise
            raise WeightsError(
                f"{address} is not on this machine, and {_unreachable(host, error)}.", _BY_HAND
            ) from None


def _once_more(ask: Callable[[], Any]) -> Any:
    """An answer of the hub, asked for a second time when the first did not reach it."""
    try:
        return ask()
    except Exception as error:
        if not is_of_the_network(error):
            raise
    time.sleep(_WAIT)
    return ask()


def is_of_the_network(error: Exception) -> bool:
    """Whether the client's HTTP library could not reach the hub: an error of its transport, none of an answer."""
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


def _unreachable(host: str, error: BaseException) -> str:
    return "HF_HUB_OFFLINE forbids to fetch it" if is_offline() else f"{host} cannot be reached ({reason_of(error)})"


def endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _timeout() -> float:
    """Seconds that the hub may take to answer, as its client reads them."""
    try:
        return float(os.environ.get("HF_HUB_ETAG_TIMEOUT") or 10)
    except ValueError:
        return 10.0


def _commit(path: Path, file: str) -> str:
    """The commit that a file of the client's cache belongs to: the name of its snapshot."""
    return path.parents[len(PurePosixPath(file).parts) - 1].name


def _fetched(given: HubFile, path: Path, exported: bool) -> Fetched:
    digest = digest_of(path)
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if _SHA256.fullmatch(blob.name) and blob.name != digest:  # the client keeps large files under their hash
        raise WeightsError(
            f"{given}: the copy in the cache is damaged: its SHA-256 begins with {digest[:16]}, not {blob.name[:16]}.",
            f"Delete {blob.resolve()} and run it again.",
        )
    return Fetched(path.parent if exported else path, str(given), digest)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, remembered as long as the file stays the same."""
    state = state_of_file(path)
    known = recall("hashes", state) if state else None
    if known and _SHA256.fullmatch(str(known.get("sha256"))):
        return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if state:
        remember("hashes", state, {"sha256": digest})
    return digest


def is_offline() -> bool:
    """Whether the user forbids the hub, and downloads altogether."""
    return os.environ.get("HF_HUB_OFFLINE", "").strip().upper() in {"1", "ON", "YES", "TRUE"}


def reason_of(error: BaseException | None) -> str:
    """The first line of what an error of another library says, for the middle of a sentence."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\s+", " ", lines[0]).rstrip(".") if lines else type(error).__name__
