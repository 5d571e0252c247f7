"""Fixtures for the tests of data."""

import pytest
from support.sets import cuhk_records, write_set

from tbps_cli.data.open import open_dataset


@pytest.fixture
def cuhk(tmp_path):
    """A data root that holds a CUHK-PEDES of 7 persons, 14 images and 28 captions."""
    write_set(tmp_path / "CUHK-PEDES", cuhk_records())
    return tmp_path


@pytest.fixture
def split(cuhk):
    """Its training split."""
    return open_dataset("cuhk-pedes", cuhk).split("train")
