"""Fixtures for all tests: a small data set, and a logger that the next test finds as this one did."""

import logging
from collections.abc import Iterator

import pytest
from support.sets import cuhk_records, write_set

from tbps_cli.cli import render
from tbps_cli.data.open import open_dataset


@pytest.fixture(autouse=True)
def quiet_log() -> Iterator[None]:
    """Commands attach a handler to the logger; the next test starts without it."""
    yield
    logger = logging.getLogger("tbps")
    logger.handlers = [handler for handler in logger.handlers if not isinstance(handler, render.LogLines)]


@pytest.fixture
def cuhk(tmp_path):
    """A data root that holds a CUHK-PEDES of 7 persons, 14 images and 28 captions."""
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    return tmp_path


@pytest.fixture
def split(cuhk):
    """Its training split."""
    return open_dataset("cuhk-pedes", cuhk).split("train")
