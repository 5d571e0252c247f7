"""The best of a million rows for a query, read a quarter at a time from 8-bit codes, with an error bar.

**Codes.** The principal axes of a sample of the rows are cut into groups of 128, the strongest first, and each group is
turned at random within itself, which evens out its variance: one scale a group is then enough. A row x becomes
z = A (x - mean), rounded to z' = s round(z / s), eight bits a number. A query q becomes y = A q, rounded in the same
way to y'. As A is orthogonal,

    q . x  =  q . mean  +  sum over groups g of  y_g . z_g

and q . mean is the same for all rows. Each group is an array of its own, so that the first can be read alone.

**The error bar.** When some groups are scanned, a row is known by p = sum over these of y'_g . z'_g. What is missing is

    (q . x - q . mean) - p  =  r . z  +  sum over scanned groups of y'_g . (z_g - z'_g)

where r is y - y' in scanned groups and y in the others. Over the rows of the gallery z has mean 0 and covariance C,
which the sample gives (it has a block a group, since principal axes are uncorrelated), and rounding errors are spread
evenly over [-s/2, s/2]. So the missing part has mean 0 and variance

    sigma^2  =  r' C r  +  sum over scanned groups of |y'_g|^2 s_g^2 / 12

for this query, before any row was looked at.

**The search.** Scan the first group for all rows. Complete the scores of the best few from the other groups; the k-th
of them is t. A row with p < t - 6 sigma would have to be six standard deviations off to belong to the k best: it is
dropped. Of those that are left the next group is read, the bar is that much shorter, and so on. Where over a quarter
is left (a query or a gallery whose variance lies in many axes) the next group is scanned whole; with all groups that
would be a scan of plain 8-bit codes. The best `RESCORED` times k are scored exactly from the vectors in the end, so
scores are always exact.

Two things go beyond the plain bar. What is missing has mean 0 over all rows, but not over those that a query means:
they share with it what lies in the other groups as well, and were seen up to 6 sigma below where the bar has them
(5 lost .02 of the ten best where the spectrum is flat, 6 nothing). And where the first group says nearly all, sigma
is so small that such rows lie 8 sigma off; but then few rows score higher in that group. So the best `KEPT` of the rows
are kept whatever the bar says. `docs/benchmarks.md` has what is missed in the end: about one in 1,000 of the ten
best, mostly by the rounding of vectors in half precision, which an exact scan misses as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_cli.retrieval.halves import library
from tbps_cli.retrieval.integers import BLOCK, Codes, Product, shared, with_numkong
from tbps_cli.retrieval.rank import topk
from tbps_cli.retrieval.similarity import Array
from tbps_cli.retrieval.threads import pool

Floats = NDArray[np.float32]
Places = NDArray[np.int64]

GROUP = 128
"""Axes of a group."""
SAMPLE = 20_000
"""Rows that mean, axes and covariance are taken from."""
MARGIN = 1.05
"""The largest value of a sample is coded as 127 / MARGIN; what lies further out is clipped."""
CLIPPED, SPREAD = 5e-4, 2.0
"""Rows of another kind than those that a frame was found for: so many of their values lie beyond what a code can say,
or they vary so many times as much in a group."""
SIGMAS = 6.0
"""Rows so far below the k-th are dropped."""
KEPT = 0.005
"""Share of the rows, the best so far, that is kept whatever the bar says."""
MANY = 0.25
"""Up to such a share of all rows, the codes of single rows are gathered; beyond it all are scanned."""
FIRST, RESCORED = 6, 3
"""Times k: rows that are completed to find the k-th score, and rows that are scored exactly in the end."""
LEAST = 10
"""A smaller k is treated as this one."""
FITTED = 4096
"""A sample of rows that is compared with a frame."""
SCORES = 16_384
"""A sample of scores."""
TOGETHER = 8
"""Queries whose first group is scanned together."""
ENCODED = 8192
"""Rows that are encoded at a time."""


@dataclass(frozen=True)
class CodeFrame:
    """How vectors are coded; fitted once, and kept for rows that come later."""

    mean_E: Floats
    axis_AE: Floats
    """A = GROUP x groups axes, orthogonal; those beyond the width of the vectors are 0."""
    scale_H: Floats
    """A step of the codes of each group."""
    covariance_HDD: Floats
    """Of the coded values, group by group."""

    @classmethod
    def fit(cls, vector_GE: Array) -> CodeFrame:
        """From a sample of rows. Raises ValueError where it holds NaN or infinity."""
        rng = np.random.default_rng(0)
        place_S = np.arange(len(vector_GE))
        if len(place_S) > SAMPLE:
            place_S = np.sort(rng.choice(len(place_S), SAMPLE, replace=False, shuffle=False))
        sample_SE = np.asarray(vector_GE[place_S], np.float32)
        if not np.isfinite(sample_SE).all():
            raise ValueError("vectors with NaN or infinity cannot be coded")
        mean_E = sample_SE.mean(axis=0, dtype=np.float64).astype(np.float32)
        sample_SE -= mean_E
        width = sample_SE.shape[1]
        groups = -(-width // GROUP)
        _, vector_EE = np.linalg.eigh(sample_SE.T.astype(np.float64) @ sample_SE.astype(np.float64))
        axis_HDE = np.zeros((groups * GROUP, width))
        axis_HDE[:width] = vector_EE.T[::-1]
        axis_HDE = axis_HDE.reshape(groups, GROUP, width)
        turn_HDD = np.linalg.qr(rng.standard_normal((groups, GROUP, GROUP)))[0]
        axis_AE = (turn_HDD @ axis_HDE).reshape(-1, width).astype(np.float32)
        value_SHD = (sample_SE @ axis_AE.T).reshape(-1, groups, GROUP)
        scale_H = np.abs(value_SHD).max(axis=(0, 2)) * MARGIN / 127
        value_HSD = value_SHD.transpose(1, 0, 2)
        covariance_HDD = (value_HSD.transpose(0, 2, 1) @ value_HSD / max(1, len(sample_SE))).astype(np.float32)
        return cls(mean_E, axis_AE, np.where(scale_H > 0, scale_H, 1).astype(np.float32), covariance_HDD)

    @property
    def groups(self) -> int:
        return len(self.scale_H)

    def encode(self, vector_NE: Array) -> Codes:
        """The codes of rows, [H, N, D]. Raises ValueError on NaN or infinity."""
        centred_NE = np.asarray(vector_NE, np.float32) - self.mean_E
        value_NHD = (centred_NE @ self.axis_AE.T).reshape(-1, self.groups, GROUP)
        if not np.isfinite(value_NHD).all():
            raise ValueError("vectors with NaN or infinity cannot be coded")
        value_NHD /= self.scale_H[:, None]
        np.clip(np.rint(value_NHD, out=value_NHD), -127, 127, out=value_NHD)
        return np.ascontiguousarray(value_NHD.transpose(1, 0, 2).astype(np.int8))

    def fits(self, vector_NE: Array) -> bool:
        """Whether rows are of the kind that the frame was found for, by a sample of them; NaN is not.

        Of 15,000 rows with other axes behind 100,000, in their frame, queries for them found .96 to .99 of the ten
        best, of rows that vary alike in all axes .68; in a frame of all .98 to 1.00, and .94.
        """
        place_S = np.unique(np.linspace(0, len(vector_NE) - 1, min(len(vector_NE), FITTED)).astype(np.int64))
        centred_SE = np.asarray(vector_NE[place_S], np.float32) - self.mean_E
        value_SHD = (centred_SE @ self.axis_AE.T).reshape(-1, self.groups, GROUP)
        clipped_H = (np.abs(value_SHD) > 127.5 * self.scale_H[:, None]).mean(axis=(0, 2))
        spread_H = (value_SHD**2).sum(axis=2).mean(axis=0)
        return bool((clipped_H <= CLIPPED).all() and (spread_H <= SPREAD * self._variance_H).all())

    @property
    def _variance_H(self) -> Floats:
        found: Floats = np.trace(self.covariance_HDD, axis1=1, axis2=2)
        return found

    def encoded(self, vector_GE: Array, start: int = 0) -> Iterator[Codes]:
        """The codes of all rows from `start` on, block by block."""
        for first in range(start, len(vector_GE), ENCODED):
            yield self.encode(vector_GE[first : first + ENCODED])


class CodedQuery:
    """A query, rounded group by group, and how far scores of scanned groups are off."""

    def __init__(self, query_E: Floats, frame: CodeFrame) -> None:
        value_HD = (frame.axis_AE @ query_E).reshape(frame.groups, GROUP)
        step_H = np.abs(value_HD).max(axis=1) / 127
        self.code_HD = np.rint(value_HD / np.where(step_H > 0, step_H, 1)[:, None]).astype(np.int8)
        self.factor_H: Floats = (step_H * frame.scale_H).astype(np.float32)
        """What a product of codes is worth."""
        rounded_HD = self.code_HD * step_H[:, None]
        error_HD = value_HD - rounded_HD
        rounding_H = (rounded_HD**2).sum(axis=1) * frame.scale_H**2 / 12
        self._scanned_H = _variance(error_HD, frame.covariance_HDD) + rounding_H
        self._open_H = _variance(value_HD, frame.covariance_HDD)

    def sigma(self, scanned: int) -> float:
        """Standard deviation of what is missing when the first groups are scanned."""
        return float(np.sqrt(self._scanned_H[:scanned].sum() + self._open_H[scanned:].sum()))


def _variance(weight_HD: Floats, covariance_HDD: Floats) -> Floats:
    found: Floats = (weight_HD * (covariance_HDD @ weight_HD[..., None])[..., 0]).sum(axis=1)
    return found


class Cascade:
    """Codes of rows, ready to be searched; see the module's text."""

    def __init__(self, frame: CodeFrame, groups: Sequence[Codes], product: Product) -> None:
        self.frame, self.groups, self.product = frame, groups, product
        self.workers, self.block = shared(product)

    def __len__(self) -> int:
        return len(self.groups[0])

    def best(self, query_QE: Floats, vector_GE: Array, k: int, place_K: Places | None = None) -> tuple[Array, Places]:
        """(score_QK, place_QK) as `rank.topk` has them, of the first rows of a gallery: those that have codes.

        place_K: the only rows that may be hits, ascending.
        """
        k = min(k, len(self) if place_K is None else len(place_K))
        if k < 1 or not len(query_QE):
            return np.empty((len(query_QE), 0), query_QE.dtype), np.empty((len(query_QE), 0), np.int64)
        found: list[tuple[Array, Places]] = []
        for start in range(0, len(query_QE), TOGETHER):
            query_BE = query_QE[start : start + TOGETHER]
            coded = [CodedQuery(query_E, self.frame) for query_E in query_BE]
            score_BK = self._first(coded, place_K)
            for query_E, one, score_K in zip(query_BE, coded, score_BK, strict=True):
                place_N = self._candidates(one, score_K, k, place_K)
                score_1K, place_1K = topk(query_E[None], vector_GE, k, place_N)
                found.append((score_1K[0], place_1K[0]))
        return np.stack([score_K for score_K, _ in found]), np.stack([place for _, place in found])

    def _first(self, coded: Sequence[CodedQuery], place_K: Places | None) -> Floats:
        """The scores of the first group, [Q, K]."""
        code_QD = np.stack([one.code_HD[0] for one in coded])
        factor_Q1 = np.array([one.factor_H[0] for one in coded])[:, None]
        score_QK = np.empty((len(coded), len(self) if place_K is None else len(place_K)), np.float32)

        def scan(start: int) -> None:
            part = slice(start, start + block)
            score_QB = score_QK[:, part]
            np.copyto(score_QB, product(code_QD, self._rows(0, part, place_K)), casting="unsafe")
            score_QB *= factor_Q1

        # torch's product is slow with several queries
        product = self.product if len(coded) == 1 or library() is None else with_numkong
        block = self.block if len(coded) == 1 else BLOCK // len(coded)  # what a thread has in hand stays in its cache
        self._each_block(scan, score_QK.shape[1], block)
        return score_QK

    def _add(self, one: CodedQuery, group: int, score_K: Floats, place_K: Places | None) -> None:
        """Scan one more group."""

        def scan(start: int) -> None:
            part = slice(start, start + self.block)
            found_1B = self.product(one.code_HD[[group]], self._rows(group, part, place_K))
            score_K[part] += found_1B[0].astype(np.float32) * one.factor_H[group]

        self._each_block(scan, len(score_K), self.block)

    def _rows(self, group: int, part: slice, place_K: Places | None) -> Codes:
        codes = self.groups[group]
        return codes[part] if place_K is None else codes.take(place_K[part], axis=0)

    def _each_block(self, scan: Callable[[int], None], size: int, block: int) -> None:
        starts = range(0, size, block)
        if self.workers > 1 and len(starts) > 1:
            list(pool(self.workers).map(scan, starts))
        else:
            for start in starts:
                scan(start)

    def _candidates(self, one: CodedQuery, score_K: Floats, k: int, place_K: Places | None) -> Places:
        """The places, ascending, among which the k best are, as far as the error bar is right."""
        wanted = max(k, LEAST)
        kept = KEPT * len(score_K)
        for scanned in range(1, self.frame.groups + 1):
            if scanned > 1:
                self._add(one, scanned - 1, score_K, place_K)
            known_N = self._completed(one, score_K, highest(score_K, FIRST * wanted), place_K, scanned)
            lowest = np.partition(known_N, -k)[-k] - np.float32(SIGMAS * one.sigma(scanned))
            alive = np.flatnonzero(score_K >= min(lowest, reached(score_K, max(kept, RESCORED * wanted))))
            if place_K is not None or len(alive) < MANY * len(score_K):
                place_K = alive if place_K is None else place_K[alive]
                score_K = score_K[alive]
        if len(score_K) > RESCORED * wanted:
            chosen = first_of_equals(score_K, RESCORED * wanted)
            return chosen if place_K is None else place_K[chosen]
        return np.arange(len(score_K)) if place_K is None else place_K

    def _completed(
        self, one: CodedQuery, score_K: Floats, index_N: Places, place_K: Places | None, scanned: int
    ) -> Floats:
        """The scores of some rows with all groups."""
        place_N = index_N if place_K is None else place_K[index_N]
        known_N = score_K[index_N]
        for group in range(scanned, self.frame.groups):
            rows = self.groups[group].take(place_N, axis=0)
            known_N += self.product(one.code_HD[[group]], rows)[0].astype(np.float32) * one.factor_H[group]
        return known_N


def highest(score_K: Floats, count: int) -> Places:
    """The places of at least the `count` highest scores, ascending; of few more.

    The `count`-th of the maxima of small sets of rows is a bound that so many scores reach, and is found in one pass;
    partitioning a million scores takes longer than scanning their codes. Only sets whose maximum reaches it are looked
    at again.
    """
    count = min(count, len(score_K))
    size = min(256, max(1, len(score_K) // (8 * count)))
    sets = len(score_K) // size  # of the rows i, i + sets, i + 2 sets, ...
    top_R = score_K[: size * sets].reshape(size, sets).max(axis=0)
    bound = np.partition(top_R, -count)[-count]
    member = np.flatnonzero(top_R >= bound) + sets * np.arange(size)[:, None]
    place_N = np.concatenate([member.ravel(), np.arange(size * sets, len(score_K))])
    return np.sort(place_N[score_K[place_N] >= bound])


def first_of_equals(score_K: Floats, count: int) -> Places:
    """The places of the `count` highest scores, ascending; of rows that score alike the first."""
    bound = np.partition(score_K, -count)[-count]
    above = np.flatnonzero(score_K > bound)
    return np.sort(np.concatenate([above, np.flatnonzero(score_K == bound)[: count - len(above)]]))


def reached(score_K: Floats, count: float) -> np.float32:
    """A score that about `count` rows reach, and no fewer of a few thousand, from a sample of them."""
    sample_S = score_K[:: max(1, len(score_K) // SCORES)]
    rank = min(len(sample_S), int(np.ceil(count * len(sample_S) / len(score_K))))
    return np.float32(np.partition(sample_S, -rank)[-rank])
