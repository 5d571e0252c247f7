"""What the surroundings do to a process, put right before a command runs.

Containers, cron, editors and clusters start programs with closed streams, without a home folder, in a terminal of
zero columns, in a folder that was deleted, or with half of torchrun's variables. Each would end in a traceback far
from its cause.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path

from tbps_cli.cli import output
from tbps_cli.errors import TbpsError
from tbps_cli.places import NO_HOME

TORCHRUN = "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"
"""What torchrun tells each process. Clusters often set one or two of them for everything that they start."""


def prepare() -> None:
    """Put right what no command should have to think of."""
    output.occupy_closed_streams()
    for name in ("COLUMNS", "LINES"):
        if os.environ.get(name, "").strip("0") == "":
            os.environ.pop(name, None)
    if not all(name in os.environ for name in TORCHRUN):
        for name in TORCHRUN[:3]:
            os.environ.pop(name, None)
    if os.path.expanduser("~") == "~":  # noqa: PTH111 (Path.home() raises where there is none)
        os.environ["HOME"] = NO_HOME
    _show_warnings_that_would_be_fatal()


def check_folder() -> None:
    """Raises TbpsError when the working folder is gone: every relative path would fail by itself otherwise."""
    try:
        Path.cwd()
    except OSError as error:
        raise TbpsError(
            f"the current folder cannot be used ({error.strerror}).", "Change to a folder that exists: cd"
        ) from None


def be_ended_by_signals() -> None:
    """From now on, when a command has said what it had to, Ctrl-C ends the process at once: no library answers it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def is_extra() -> bool:
    """Whether torchrun started this process beside a first one. Raises TbpsError for numbers that it never gives."""
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not (rank.isdecimal() and world.isdecimal() and int(rank) < int(world)):
        raise TbpsError(f"RANK = {rank} and WORLD_SIZE = {world} are not those of torchrun.", "Unset RANK.")
    return int(rank) > 0


def leave_group() -> bool:
    """Be one process alone, whatever torchrun said; returns whether it had started several."""
    return os.environ.pop("WORLD_SIZE", "1") != "1"


def _show_warnings_that_would_be_fatal() -> None:
    """PYTHONWARNINGS=error is meant for one's own code: here a library's remark would end a training."""
    if not any(option.split(":")[0] == "error" for option in sys.warnoptions):
        return
    warnings.resetwarnings()
    warnings.simplefilter("default")
    sys.warnoptions[:] = ["default"]  # worker processes start with these options
    os.environ["PYTHONWARNINGS"] = "default"
