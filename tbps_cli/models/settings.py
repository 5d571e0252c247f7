"""What a user may still change when a model is opened: `--set`."""

from __future__ import annotations

from collections.abc import Sequence

from tbps_cli.errors import UsageError


def check_sets(sets: Sequence[str]) -> None:
    """Raises UsageError for a setting that only training can change, or that would be another model."""
    for assignment in sets:
        key = assignment.partition("=")[0].strip()
        if key == "method.name":
            raise UsageError(f"--set {assignment}: the method of a checkpoint cannot be changed.")
        if "=" in assignment and not key.startswith(("method.", "data.")):
            raise UsageError(
                f"--set {assignment}: only keys of method and data can change after training.",
                "For example: --set method.attention_axis=token",
            )
