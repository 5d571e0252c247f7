"""Embeddings of a city's cameras, drawn: rows of persons in the order of time, and queries as sentences give them.

A row is a common mean, a shift of its camera, its person, its tracklet and noise of its own; the standard deviation of
axis j is j^-a, for all of these. Twenty rows a person, in tracklets of five, by twenty cameras. A query has another
mean (the gap between texts and images, in all axes alike), a coarse copy of its person (what a sentence says of anybody
lies in the stronger axes), noise of the same spectrum, and noise in all axes alike.

| spectrum | a | gap | axes that count | is like |
|---|---|---|---|---|
| steep | .75 | .6 | about 9 | embeddings that vary in few directions |
| base | .5 | 1.0 | about 41 | most models |
| flat | .25 | 1.6 | about 212 | the worst that was seen: no direction can be left out |
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
WIDTH = 512
CAMERAS = 20
A_PERSON, A_TRACKLET = 20, 5
BLOCK = 16_384


@dataclass(frozen=True)
class Spectrum:
    """How fast the axes grow weaker, and how far queries lie from the rows."""

    name: str
    power: float
    gap: float
    noise: float
    """How much of a sentence has nothing to do with the person."""


SPECTRA = {
    one.name: one
    for one in (Spectrum("steep", 0.75, 0.6, 0.5), Spectrum("base", 0.5, 1.0, 0.6), Spectrum("flat", 0.25, 1.6, 2.0))
}


@dataclass(frozen=True)
class Drawn:
    """A gallery and its queries; rows are drawn block by block, the same at each pass."""

    spectrum: Spectrum
    rows: int
    queries: int
    seed: int = 0

    @cached_property
    def axis_E(self) -> Floats:
        axis_E = np.arange(1, WIDTH + 1) ** -self.spectrum.power
        return (axis_E / np.linalg.norm(axis_E)).astype(np.float32)

    @cached_property
    def turn_EE(self) -> Floats:
        """Axes of a model stand in no order and along no coordinate."""
        return np.linalg.qr(np.random.default_rng(99).standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)

    def _noise(self, rng: np.random.Generator, count: int) -> Floats:
        return rng.standard_normal((count, WIDTH), np.float32) * self.axis_E

    @cached_property
    def person_G(self) -> NDArray[np.int64]:
        """Who each row shows: tracklets of five, in the order of time."""
        tracklets = -(-self.rows // A_TRACKLET)
        people = -(-self.rows // A_PERSON)
        order_T = np.random.default_rng((self.seed, 1)).permutation(tracklets) % people
        return np.repeat(order_T, A_TRACKLET)[: self.rows]

    @cached_property
    def camera_G(self) -> NDArray[np.int64]:
        tracklets = -(-self.rows // A_TRACKLET)
        return np.repeat(np.random.default_rng((self.seed, 2)).integers(0, CAMERAS, tracklets), A_TRACKLET)[: self.rows]

    @cached_property
    def filtered(self) -> NDArray[np.int64]:
        """Places that a filter leaves: four cameras and a quarter of the time, 5 %."""
        quarter = np.arange(self.rows // 4, self.rows // 2)
        return quarter[self.camera_G[quarter] < 4]

    @cached_property
    def _people(self) -> tuple[Floats, Floats, Floats]:
        """(persons, shifts of cameras, the common mean)."""
        rng = np.random.default_rng((self.seed, 3))
        persons = self._noise(rng, int(self.person_G.max()) + 1)
        return persons, 0.5 * self._noise(rng, CAMERAS), 1.0 * self._noise(rng, 1)[0]

    def blocks(self) -> Iterator[Floats]:
        """Unit rows, in float32."""
        persons, cameras, mean = self._people
        for start in range(0, self.rows, BLOCK):
            rng = np.random.default_rng((self.seed, 4, start))
            part = slice(start, min(start + BLOCK, self.rows))
            person, camera = self.person_G[part], self.camera_G[part]
            count = len(person)
            track = np.repeat(self._noise(rng, -(-count // A_TRACKLET) + 1), A_TRACKLET, axis=0)
            offset = (-start) % A_TRACKLET  # tracklets do not end where blocks do
            row = mean + cameras[camera] + persons[person] + 0.4 * track[(A_TRACKLET - offset) % A_TRACKLET :][:count]
            row += 0.4 * self._noise(rng, count)
            yield _unit(row) @ self.turn_EE

    @cached_property
    def query_QE(self) -> Floats:
        return self._asked[0]

    @cached_property
    def meant_Q(self) -> NDArray[np.int64]:
        """The person of each query."""
        return self._asked[1]

    @cached_property
    def _asked(self) -> tuple[Floats, NDArray[Any]]:
        persons, _, _ = self._people
        rng = np.random.default_rng((self.seed, 5))
        meant_Q = rng.integers(0, len(persons), self.queries)
        coarse_E = (self.axis_E / self.axis_E[0]) ** 0.25
        gap_E = _unit(rng.standard_normal((1, WIDTH), np.float32))[0]
        query = self.spectrum.gap * gap_E + persons[meant_Q] * coarse_E
        query += self.spectrum.noise * self._noise(rng, self.queries)
        query += 0.2 * rng.standard_normal((self.queries, WIDTH), np.float32) / np.float32(np.sqrt(WIDTH))
        return _unit(query) @ self.turn_EE, meant_Q


def _unit(rows: Floats) -> Floats:
    found: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found
