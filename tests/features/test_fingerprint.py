"""Equal things have equal fingerprints, different things different ones."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from tbps_cli.features.fingerprint import fingerprint


def test_a_fingerprint_is_sixteen_hex_digits_and_stays_the_same_for_ever() -> None:
    parts = {"a": [1, 2.5, True, None, "text"], "w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    assert fingerprint(parts) == "6d5a631b4e68a60b"


def test_layout_order_and_kind_of_container_do_not_matter() -> None:
    matrix = torch.randn(3, 4)
    assert fingerprint(matrix.T) == fingerprint(matrix.T.contiguous()) == fingerprint(matrix.T.numpy())
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1, (2, 3)]) == fingerprint((1, [2, 3]))
    assert fingerprint(np.float64(0.1)) == fingerprint(0.1)


def test_every_difference_that_matters_shows() -> None:
    zeros = torch.zeros(2, 2)
    things: list[tuple[object, ...]] = [
        (zeros,), (zeros.half(),), (zeros.bfloat16(),), (zeros.reshape(4),), (zeros, zeros), (-zeros,),
        (torch.tensor(0.0),), (torch.zeros(0),), (1,), (1.0,), (True,), ("1",), (b"1",), (None,), ("",), (),
        ("ab", "c"), ("a", "bc"), (["ab", "c"],), ({"a": 1},), ({"a": "1"},), ([],), ([[]],), ({},),
        ({"w": zeros},), ({"v": zeros},),
    ]  # fmt: skip
    marks = [fingerprint(*thing) for thing in things]
    same = [(a, b) for a, b in itertools.combinations(range(len(things)), 2) if marks[a] == marks[b]]
    assert same == []


def test_what_has_no_bytes_of_its_own_is_refused() -> None:
    with pytest.raises(TypeError, match="object"):
        fingerprint(object())


def test_a_fingerprint_needs_no_torch() -> None:
    code = (
        "import sys; from tbps_cli.features.fingerprint import fingerprint;"
        "import numpy; fingerprint({'a': numpy.zeros(3), 'b': [1, 'x']}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
