"""Scores of queries against a gallery: one product for metrics, ranking and re-ranking.

Everything here is numpy, so that a search over exported graphs needs no torch; tensors are taken as
they are (CPU tensors share their memory) and answers are arrays. Two rules make equal rows score
equally: rows are padded to a multiple of `ROWS`, because BLAS otherwise picks kernels for small and
single-row products whose rounding depends on the column, and half precision is computed in float32.
A few queries are not padded but scored by one dot product a row (`dots`): one query against 100,000 rows of
512 took 6 ms that way, 54 padded to eight, 8 to 11 in faiss and 14 in usearch (one thread each). `rank` scores
everything in quicker ways first, and only what may be among the best by dot products.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tbps_cli.errors import DataError
from tbps_cli.machine import available_cpus
from tbps_cli.retrieval import halves

Array = NDArray[Any]

ROWS = 8
"""Fewest query rows in one product. Below it, equal gallery rows differ in the last bit (measured)."""

CACHED = 256
"""Rows that are widened together: half a megabyte at 512 columns."""
FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


def array(values: Any) -> Array:
    """Features or ids as a numpy array: arrays and memory maps unchanged, tensors brought to the CPU."""
    if isinstance(values, np.ndarray):
        return values
    if hasattr(values, "detach"):
        values = values.detach().cpu()
        return np.asarray(values.float().numpy() if str(values.dtype) == "torch.bfloat16" else values.numpy())
    return np.asarray(values)


def features(values: Any, what: str) -> Array:
    """Rows of features, [N, E], in float32 or float64, one behind the other. Raises DataError on NaN or infinity.

    `what` names them in the message ("query", "gallery").
    """
    rows = array(values)
    if rows.ndim != 2:
        raise ValueError(f"{what} features must have two axes, not shape {rows.shape}")
    if rows.dtype not in FLOATS:
        rows = rows.astype(wide(rows.dtype))
    if not rows.flags.c_contiguous:  # BLAS adds numbers that lie apart in another order
        rows = np.ascontiguousarray(rows)
    for start in range(0, len(rows), 16384):
        block = rows[start : start + 16384]
        finite = np.isfinite(block)
        if not finite.all():
            row = start + int(np.argmin(finite.all(axis=1)))
            raise DataError(
                f"{what} features hold NaN or infinity (first in row {row}), so they cannot be ranked.",
                "The model that made them is broken: look for a loss that became NaN in its log.",
            )
    return rows


def product(query_QE: Array, gallery_GE: Array, out_QG: Array | None = None) -> Array:
    """Dot products [Q, G], written to out_QG when given; equal rows give bit-equal scores wherever they stand."""
    missing = -len(query_QE) % ROWS
    if not missing:
        return np.matmul(query_QE, gallery_GE.T, out=out_QG)
    padded = np.concatenate([query_QE, np.zeros((missing, query_QE.shape[1]), query_QE.dtype)])
    product_QG: Array = np.matmul(padded, gallery_GE.T)[: len(query_QE)]
    if out_QG is None:
        return product_QG
    out_QG[:] = product_QG
    return out_QG


def dots(query_BE: Array, gallery_GE: Array) -> Array:
    """Dot products [B, G], one at a time: equal rows give bit-equal scores, and no query changes another's.

    The gallery may be in half precision. For one query or two this is quicker than `product`. NaN and infinity, in
    the gallery or by sums that are too large, are the caller's to look for.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _dots(query_BE, gallery_GE)


def _dots(query_BE: Array, gallery_GE: Array) -> Array:
    if len(query_BE) == 1 and gallery_GE.dtype == query_BE.dtype:
        score_G: Array = np.vecdot(gallery_GE, query_BE[0])
        return score_G[None]
    out_GB = np.empty((len(gallery_GE), len(query_BE)), query_BE.dtype)
    # Rows that are widened once serve all queries while they are in the processor's cache; so does each row by itself.
    size = max(1, len(gallery_GE)) if gallery_GE.dtype in FLOATS else CACHED
    buffer = None if gallery_GE.dtype in FLOATS else np.empty((CACHED, gallery_GE.shape[1]), np.float32)
    for start in range(0, len(gallery_GE), size):
        row_RE = widened(gallery_GE[start : start + size], buffer)
        out_GB[start : start + size] = np.vecdot(row_RE[:, None], query_BE)
    return out_GB.T


def pairs(query_BE: Array, owner_M: Array, row_ME: Array) -> Array:
    """Dot products [M] of each row with the query that owns it, to the bits that `dots` gives."""
    with np.errstate(over="ignore", invalid="ignore"):
        score_M: Array = np.vecdot(widened(row_ME), query_BE[owner_M]).astype(query_BE.dtype, copy=False)
    return score_M


def wide(kind: np.dtype[Any]) -> np.dtype[Any]:
    """What numbers of a type are computed in."""
    return FLOATS[kind.kind == "f" and kind.itemsize > 4]


def widened(rows: Array, buffer: NDArray[np.float32] | None = None) -> Array:
    """Half precision and integers as float32; float32 and float64 as they are, in this machine's order of bytes.

    buffer: memory for as many rows or more, which the answer may lie in.
    """
    if rows.dtype in FLOATS:
        return rows
    if rows.dtype != np.float16 or not rows.dtype.isnative:
        return rows.astype(wide(rows.dtype))
    return halves.widen(rows, np.empty(rows.shape, np.float32) if buffer is None else buffer[: len(rows)])


def codes(person_Q: Any, person_G: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Identities of any type -> integers, equal exactly where the identities are."""
    query, gallery = array_of_ids(person_Q), array_of_ids(person_G)
    if query.dtype.kind in "iu" and gallery.dtype.kind in "iu":
        return query.astype(np.int64), gallery.astype(np.int64)
    number: dict[object, int] = {}
    coded = [number.setdefault(person, len(number)) for ids in (query, gallery) for person in ids.tolist()]
    return np.array(coded[: len(query)], np.int64), np.array(coded[len(query) :], np.int64)


def array_of_ids(person: Any) -> Array:
    """Ids as one axis. A list that mixes numbers and words keeps them apart: 1 is not "1"."""
    if isinstance(person, Sequence) and len({type(one) for one in person}) > 1:
        mixed = np.empty(len(person), dtype=object)
        mixed[:] = list(person)
        return mixed
    ids = array(person)
    if ids.ndim != 1:
        raise ValueError(f"identities must have one axis, not shape {ids.shape}")
    return ids


def threads_of_blas() -> int:
    """As many threads as BLAS would use."""
    cores = available_cpus()
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(wanted)) if wanted.isdecimal() and int(wanted) else cores
