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
    """An optional package is needed: the hint is the `pip install` to type.

    extra: what brings it; None for a package that every installation has, unless it was taken away.
    """

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        hint = f"Type: pip install {package}" if extra is None else how_to_add(extra)
        super().__init__(f"{purpose} needs {package}, which is not installed.", hint)


class MissingPackage(TbpsError):
    """A package that the whole of tbps has is not installed, as in tbps-lite."""

    def __init__(self, module: str) -> None:
        package, video = PACKAGES.get(module, module), module in VIDEO_MODULES
        hint = "Type: pip install 'tbps-lite[video]'" if video else _OF_THE_WHOLE
        super().__init__(f"this needs {package}, which is not installed.", hint)


def how_to_add(extra: str) -> str:
    """The command that adds an extra to what is installed: tbps and tbps-lite hold the same package, so never both."""
    if installed_as() != LITE:
        return f"Type: pip install '{WHOLE}[{extra}]'"
    return f"Type: pip install '{LITE}[{extra}]'" if extra in LITE_EXTRAS else _OF_THE_WHOLE


def installed_as() -> str | None:
    """Which distribution is installed, `tbps` or `tbps-lite`; None for a bare checkout."""
    from importlib.metadata import PackageNotFoundError, distribution

    for name in (WHOLE, LITE):
        try:
            distribution(name)
        except PackageNotFoundError:
            continue
        return name
    return None


WHOLE, LITE = "tbps", "tbps-lite"
LITE_EXTRAS = frozenset({"video", "serve", "fast", "postgres", "openvino"})
"""As in lite/pyproject.toml."""
_OF_THE_WHOLE = "It is a part of tbps, not of tbps-lite."
PACKAGES = {"torch": "PyTorch", "cv2": "OpenCV", "av": "PyAV", "sklearn": "scikit-learn", "yaml": "PyYAML"}
"""Modules whose packages are called otherwise."""
VIDEO_MODULES = frozenset({"cv2", "av", "norfair"})
