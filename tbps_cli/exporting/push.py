"""An export as a repository of the Hugging Face hub, for `--ckpt hf-hub:OWNER/REPO` elsewhere.

Publishing weights cannot be taken back, so it is asked for by name, is private unless it is said otherwise, and never
makes a repository that others can see into a place for weights by accident. Whether the hub can be reached, knows the
user and has such a repository is asked before the export, which takes minutes; nothing is sent before the export has
passed its checks. The hub's own client has the token (`hf auth login`, or HF_TOKEN) and sends the files.
"""

from __future__ import annotations

import logging
import re
import shlex
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbps_cli.errors import TbpsError, UsageError
from tbps_cli.weights.hub_files import endpoint, is_of_the_network, is_offline, reason_of

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_OURS = ("*.onnx", "*.onnx.data", "*.safetensors", "*.json", "recipe.toml", "search.py", "README.md")
"""Files of an earlier export, which would not fit to this one; others in the repository are left alone."""
LOG_IN = "Log in first: hf auth login (or set HF_TOKEN), with a token that may write."


@dataclass(frozen=True)
class Pushed:
    """Where an export lies on the hub."""

    repository: str
    page: str
    private: bool


class Destination:
    """A repository of the hub that an export is meant for; making one asks the hub whether that can be."""

    def __init__(self, repository: str, *, public: bool) -> None:
        """repository: OWNER/REPO. public: everybody may see it.

        Raises UsageError for what is no name, and TbpsError when the hub is forbidden or cannot be reached, does not
        know the user, or has a public repository of this name and public is not asked for.
        """
        if not _REPOSITORY.fullmatch(repository) or ".." in repository or "--" in repository:
            raise UsageError(f"--push {repository!r} is not the name of a repository.", "Write --push OWNER/REPO.")
        self.repository, self.public = repository, public
        if is_offline():
            raise TbpsError(f"--push {repository}: HF_HUB_OFFLINE forbids to send anything.", "Leave out --push.")
        try:
            import huggingface_hub
        except ImportError:
            raise TbpsError("--push needs huggingface_hub.", "Type: pip install huggingface_hub") from None
        self._hub = huggingface_hub.HfApi(endpoint=endpoint(), library_name="tbps")
        with self._explained(LOG_IN):
            self._hub.whoami()
            self._check_visible(self._private())

    def _private(self) -> bool | None:
        """Whether the repository is private; None where there is none."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return bool(self._hub.repo_info(self.repository).private)
        except RepositoryNotFoundError:
            return None

    def _check_visible(self, private: bool | None) -> None:
        if private is False and not self.public:
            raise TbpsError(
                f"--push {self.repository}: everybody can see this repository.",
                "Add --public if that is meant and the terms of the training data allow it, or name another one.",
            )

    def push(self, folder: Path) -> Pushed:
        """Send the files of an export; a repository that is not there is made. Raises TbpsError; the folder stays."""
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

        client = logging.getLogger("huggingface_hub")
        quiet, level = are_progress_bars_disabled(), client.level
        disable_progress_bars()  # the bars of several files at once would run into our own lines
        client.setLevel(logging.ERROR)  # and lines about each try would show addresses with signatures in them
        again = shlex.join(["hf", "upload", self.repository, str(folder)])
        try:
            with self._explained(f"The export is complete. To send it again: {again}"):
                page = self._hub.create_repo(self.repository, private=not self.public, exist_ok=True)
                private = self._private()
                self._check_visible(private)
                with warnings.catch_warnings(action="ignore"):  # what the hub thinks of a card
                    self._hub.upload_folder(
                        repo_id=self.repository,
                        folder_path=folder,
                        commit_message="Exported by tbps",
                        delete_patterns=list(_OURS),
                    )
        finally:
            client.setLevel(level)
            if not quiet:
                enable_progress_bars()
        return Pushed(self.repository, str(page), bool(private))

    @contextmanager
    def _explained(self, hint: str) -> Iterator[None]:
        """Errors of the client as one line. Its own texts may quote requests: only the status is taken of them."""
        from huggingface_hub import errors

        host = (endpoint() or "https://huggingface.co").rstrip("/")
        lead = f"--push {self.repository}:"
        away = "Is this machine online? HF_ENDPOINT names another hub." if hint == LOG_IN else hint
        try:
            yield
        except errors.LocalTokenNotFoundError:
            raise TbpsError(f"{lead} nobody is logged in to {host} here.", LOG_IN) from None
        except errors.HfHubHTTPError as error:
            raise TbpsError(f"{lead} {host} {_refusal(error)}.", hint) from None
        except (OSError, ValueError) as error:
            raise TbpsError(f"{lead} it could not be sent to {host}: {reason_of(error)}.", hint) from None
        except Exception as error:
            if is_of_the_network(error):
                raise TbpsError(f"{lead} {host} cannot be reached ({reason_of(error)}).", away) from None
            cause = error.__cause__  # of a large file, the client names the file alone, and keeps the reason behind it
            if isinstance(cause, errors.HfHubHTTPError):
                raise TbpsError(f"{lead} {host} {_refusal(cause)}.", hint) from None
            if isinstance(cause, Exception) and is_of_the_network(cause):
                raise TbpsError(f"{lead} sending to {host} broke off ({reason_of(cause)}).", hint) from None
            raise


def _refusal(error: Any) -> str:
    status = error.response.status_code if error.response is not None else 0
    return {
        401: "does not accept the token",
        403: "does not let you write there",
        404: "has no such owner or repository, or does not show it to you",
        409: "says that somebody else has just changed it",
    }.get(status, f"answered with the status {status}")
