"""`tbps train --nproc N`: the same command in N processes of this machine, and one message when one fails.

torchrun does the same from outside; this is its library, with our words for what goes wrong.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from tbps_cli.distributed import LostCompany, environment
from tbps_cli.errors import TbpsError
from tbps_cli.machine import available_cpus

_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_LAUNCHED = "TBPS_LAUNCHED"
_LATE = 2**32
"""A time that no other failure has, in seconds."""


def launch(count: int, arguments: Sequence[str]) -> None:
    """Run `tbps ARGUMENTS` in `count` processes of this machine, as torchrun would, and wait.

    When one fails the others are ended. Raises the first failure as a TbpsError, once.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.elastic")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # they would repeat what we say
    os.environ[_LAUNCHED] = "1"
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // count)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        with _handlers_kept():
            elastic_launch(config, sys.executable)("-m", "tbps_cli", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _told(failure.message, rank, failure.exitcode) from None
    except SignalException:
        raise KeyboardInterrupt from None


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """torch's launcher answers signals itself, and leaves it so when it is done."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launched() -> bool:
    """Whether this process is one that `launch` started, so that the launcher talks at the end."""
    return os.environ.get(_LAUNCHED) == "1" and environment().world > 1


@contextmanager
def report_to_launcher() -> Iterator[None]:
    """In a process that `launch` started: leave a mistake for the launcher to print, instead of printing it."""
    try:
        yield
    except TbpsError as error:
        path = os.environ.get(_ERROR_FILE)
        if not launched() or not path:
            raise
        # a process that lost its company is a consequence: dated last, so that the cause is what is told
        when = _LATE if isinstance(error, LostCompany) else int(time.time())
        note = json.dumps({"text": error.message, "hint": error.hint, "status": error.status})
        with open(path, "w", encoding="utf-8") as file:  # noqa: PTH123 (a path of torch's)
            json.dump({"message": note, "timestamp": when}, file)
        raise SystemExit(error.status) from None


def _told(message: object, rank: int, status: int) -> TbpsError:
    """The first failure as the launcher says it."""
    try:
        note = json.loads(str(message))
        told = TbpsError(note["text"], note["hint"])
        told.status = int(note["status"])
    except (ValueError, KeyError, TypeError):
        how = f"signal {-status}" if status < 0 else f"status {status}"
        told = TbpsError(f"process {rank} ended with {how}; the others were stopped.", "Go on with --resume.")
    return told
