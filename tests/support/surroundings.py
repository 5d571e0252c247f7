"""Commands run under the conditions that containers, clusters and pipes put them in, many of them quickly.

One process imports torch and everything else, then forks for each command: the child puts itself into the condition
and is `tbps` from there on. A fork knows nothing of what a condition does to imports, so a few commands are also
started afresh (see the tests).

python surroundings.py CONDITION FOLDER WORDS... is one such command in a fresh process. Without arguments, it reads a
JSON list a line, [condition, words, folder], and answers each with [status, stdout, stderr].
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

NOBODY = 54321
"""A user whom no table of users knows."""
_VERSION = 0x20080522  # of the structures of capset(2)


def _capabilities(mask: int) -> None:
    """Set the effective capabilities, so that root meets permissions like anybody else (0) or stays able (-1)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION, 0)
    now = (ctypes.c_uint32 * 6)()
    libc.capget(header, now)
    now[0] = now[1] & mask & 0xFFFFFFFF
    now[3] = now[4] & mask & 0xFFFFFFFF
    libc.capset(header, now)


def ascii_stdout() -> None:
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "ascii", errors="strict")


def closed_stdout() -> None:
    os.close(1)
    sys.stdout = None


def full_stdout() -> None:
    os.dup2(os.open("/dev/full", os.O_WRONLY), 1)


def read_only_folder() -> None:
    Path.cwd().chmod(0o555)
    _capabilities(0)


def no_home() -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TBPS_CACHE_DIR", "USER", "LOGNAME"):
        os.environ.pop(name, None)
    if os.getuid() == 0:
        ctypes.CDLL(None).prctl(8, 1, 0, 0, 0)  # PR_SET_KEEPCAPS: the folders of the test are root's
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        _capabilities(-1)


def unreadable_cache() -> None:
    cache = Path(os.environ["TBPS_CACHE_DIR"])
    cache.mkdir()
    cache.chmod(0o000)
    _capabilities(0)


def warnings_are_errors() -> None:
    sys.warnoptions.append("error")
    warnings.simplefilter("error")


def deleted_folder() -> None:
    Path.cwd().rmdir()


CONDITIONS: dict[str, Callable[[], None]] = {
    "ascii stdout": ascii_stdout,
    "closed stdout": closed_stdout,
    "full stdout": full_stdout,
    "read-only folder": read_only_folder,
    "no home": no_home,
    "unreadable cache": unreadable_cache,
    "warnings are errors": warnings_are_errors,
    "deleted folder": deleted_folder,
}


def become(condition: str, words: list[str], folder: str) -> None:
    """A working folder and a cache of its own, the condition, and from there on `tbps`."""
    os.environ["TBPS_CACHE_DIR"] = f"{folder}/cache"
    work = Path(folder) / "work"
    work.mkdir()
    os.chdir(work)
    CONDITIONS[condition]()
    from tbps_cli.cli import app

    app.main(words)


def use_streams(out: int, err: int) -> None:
    """Let these files be stdout and stderr, for Python too."""
    os.dup2(out, 1)
    os.dup2(err, 2)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(number, "w", closefd=False), "utf-8", write_through=number == 2) for number in (1, 2)
    )


def answer(condition: str, words: list[str], folder: str) -> tuple[int, str, str]:
    """Run one command in a child and collect what it said."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            status = 99
            try:
                use_streams(out.fileno(), err.fileno())
                become(condition, words, folder)
            except SystemExit as end:
                status = end.code if isinstance(end.code, int) else 0
            except BaseException:
                import traceback

                traceback.print_exc()
            if sys.stdout is not None:
                try:
                    sys.stdout.flush()
                except OSError:
                    status = 120  # as Python ends when the last flush fails
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    shutil.rmtree(folder, ignore_errors=True)
    return status, texts[0], texts[1]


def serve() -> None:
    """Import what commands import, then answer requests until there are no more."""
    import importlib
    import pkgutil

    import tbps_cli

    for module in pkgutil.walk_packages(tbps_cli.__path__, "tbps_cli."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("torch._dynamo", "torch._refs", "h5py", "prettytable", "rich.progress", "rich.live"):
        importlib.import_module(name)
    sys.modules["tbps_cli.searching.watching"].watch.__kwdefaults__["settled"] = 0.02  # no image grows here
    for line in sys.stdin:
        print(json.dumps(answer(*json.loads(line))), flush=True)


if __name__ == "__main__":
    if sys.argv[1:]:
        become(sys.argv[1], sys.argv[3:], sys.argv[2])
    else:
        serve()
