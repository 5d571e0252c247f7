"""What the shell completes: recipes, runs and data sets by name. Nothing heavy is imported: a key press waits for it.

Paths are left to the shell, which completes them when nothing here fits.
"""

from __future__ import annotations

from pathlib import Path

DATA_SETS = (
    *("cuhk-pedes", "icfg-pedes", "rstpreid", "synthetic"),
    *("synth-pedes", "mals", "luperson-mllm", "ham-pedes", "luperson-t", "webperson"),
    *("ufine6926", "iiitd-20k", "pab"),
)
"""The names in `data.open.LAYOUTS`, which imports NumPy."""


def recipe(incomplete: str) -> list[str]:
    """Shipped recipes."""
    from tbps_cli.recipe.names import list_recipes

    return [name for name in list_recipes() if name.startswith(incomplete)]


def run(incomplete: str) -> list[str]:
    """Runs in ./runs, the newest first."""
    from tbps_cli.models.run import list_runs

    return [str(folder) for folder in reversed(list_runs(Path("runs"))) if str(folder).startswith(incomplete)]


def data_set(incomplete: str) -> list[str]:
    """Data sets; in a list with commas the last one."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in DATA_SETS if name.startswith(last)]


def mend_zsh() -> None:
    """Let zsh complete at the first Tab: what Typer installs only defines the completion there, for the second one.

    Typer has no way to give it another script, so its own is added to; tests/cli/test_completion.py presses the keys.
    """
    from typer import _completion_shared

    scripts = _completion_shared._completion_scripts
    added = '\n[[ $zsh_eval_context[-1] == loadautofunc ]] && %(complete_func)s "$@"'
    if added not in scripts["zsh"]:
        scripts["zsh"] += added
