"""The head of a safetensors file, read without torch: what a file says of itself, and whether it is whole."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from tbps_cli.errors import WeightsError

FETCH = "Fetch or copy it again."


def read_metadata(path: Path) -> dict[str, str]:
    """The text entries in the head of a safetensors file; empty when it has none.

    Raises WeightsError when the file is missing, cut short or damaged (the numbers themselves are not read).
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except FileNotFoundError:
        raise WeightsError(
            f"{path}: there is no such file.", "Give the path of a checkpoint or a run folder."
        ) from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is cut short or damaged ({error}).", FETCH) from None
