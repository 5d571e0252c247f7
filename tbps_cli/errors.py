"""What goes wrong for a user, as one line and a hint.

The library raises these; the command line prints `Error: message` and `Hint: hint` and exits with
`status`. Anything else that escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class TbpsError(Exception):
    """A mistake that the user can mend: names the file, key or flag, and says what to do next."""

    status = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(TbpsError):
    """A wrong command line (exit status 2)."""

    status = 2


class FilterError(UsageError):
    """A filter or pattern that makes no sense; `excerpt` shows where: its text, and a caret on a line below."""

    def __init__(self, message: str, excerpt: tuple[str, str], hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.excerpt = excerpt


class RecipeError(TbpsError):
    """A recipe that cannot be used; the message lists every problem, one a line."""


class DataError(TbpsError):
    """A data set, image or annotation file that is missing or broken."""


class WeightsError(TbpsError):
    """A checkpoint or weights file that cannot be read, trusted or matched to a model."""


class CacheError(TbpsError):
    """A feature file that was made by something else, or cannot be written."""


class DatabaseError(TbpsError):
    """A gallery in a database that cannot be reached, read or written; never holds a password."""


class UnreachableError(DatabaseError):
    """A database that does not answer now, and may do so later."""


class MissingExtra(TbpsError):
    """An optional package is needed: the hint is the `pip install` to type."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {package}, which is not installed.", f"Type: pip install 'tbps[{extra}]'")


class MissingPackage(TbpsError):
    """A package that the whole of tbps has is not installed, as in tbps-lite."""

    def __init__(self, module: str) -> None:
        package, video = PACKAGES.get(module, module), module in VIDEO_MODULES
        hint = "Type: pip install 'tbps-lite[video]'" if video else "It is a part of tbps, not of tbps-lite."
        super().__init__(f"this needs {package}, which is not installed.", hint)


PACKAGES = {"torch": "PyTorch", "cv2": "OpenCV", "av": "PyAV", "sklearn": "scikit-learn", "yaml": "PyYAML"}
"""Modules whose packages are called otherwise."""
VIDEO_MODULES = frozenset({"cv2", "av", "norfair"})
