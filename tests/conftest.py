"""Fixtures for all tests: a small data set, the command line, a logger that the next test finds as this one did."""

import gc
import logging
import os
import sys
from collections.abc import Callable, Iterator

import pytest
from support.sets import cuhk_records, write_set
from support.street import _small_street, small_street

from tbps_cli.cli import render
from tbps_cli.cli.app import app
from tbps_cli.data.open import open_dataset

os.environ.setdefault("TBPS_KEEP_TOWERS", "0")  # making a graph takes seconds: the tests of that ask for it

__all__ = ["_small_street", "small_street"]  # fixtures of support.street


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """What is imported stays: nothing of it is looked through for garbage, neither now nor between the tests."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Commands attach a handler to the logger; the next test starts without it."""
    yield
    logger = logging.getLogger("tbps")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, render.LogLines)]


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """More threads than processors that are free take many times as long: no test leaves PyTorch more for the next."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    yield
    if torch and (after := torch.get_num_threads()) != before:
        torch.set_num_threads(before)
        pytest.fail(f"the test leaves PyTorch {after} threads, and found {before}")


@pytest.fixture(autouse=True)
def short_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a training measures no bf16, and passes twice instead of half a second; some tests want it whole."""
    if estimate := sys.modules.get("tbps_cli.engine.estimate"):
        monkeypatch.setattr(estimate, "_SHORT", 0.0)
    if plan := sys.modules.get("tbps_cli.engine.plan"):
        monkeypatch.setattr(plan, "has_bf16", lambda: False)


@pytest.fixture
def cuhk(tmp_path):
    """A data root that holds a CUHK-PEDES of 7 persons, 14 images and 28 captions."""
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    return tmp_path


@pytest.fixture
def split(cuhk):
    """Its training split."""
    return open_dataset("cuhk-pedes", cuhk).split("train")


@pytest.fixture
def tbps(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: (status, stdout, stderr)."""

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            app(list(words))
        out = capsys.readouterr()
        return int(ended.value.code or 0), out.out, out.err

    return run
