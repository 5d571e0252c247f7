"""Fits a calibration on one labelled split and measures it on another.

The statistic of a hit is its share of the sum of exp(score / temperature) over all candidates: the probability that it
is the one who is meant, if scores of the right image and of others were normal with equal spread. Of the statistics
that were tried (score, z-score, margin to the next hit, expected number of strangers as high) it is the one that still
means the same in a gallery of another size; isotonic regression makes a probability of it. The first hit has a curve
of its own: of many candidates the best looks better than it is.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tbps_cli.data.types import Person
from tbps_cli.errors import DataError
from tbps_cli.retrieval.similarity import codes, product
from tbps_cli.trust.calibration import Calibration, Curve, Likeness, ks_distance
from tbps_cli.trust.conformal import ConformalRule, check_level

HITS = 10
"""Hits of each caption that probabilities are fitted on and measured on."""
BLOCK = 256
"""Captions whose scores are held at a time."""
MOST = 4096
"""Captions that are enough; of a larger split a random part is taken."""
KNOTS = 200
PROBES = 32
"""Captions that another gallery is compared by."""
QUANTILES = 257
DRAWS = 4
"""Orders of the persons in which galleries grow while the best stranger is looked for."""
GALLERIES = 200
"""Galleries that are drawn to find how far one may be from another of the same kind."""
SPARE = 1.25
"""Times the largest distance among them: people of one place resemble each other more than those drawn at random."""
FEWEST_PERSONS = 20
SEED = 7

Floats = NDArray[np.float32]
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Labelled:
    """Captions and images as embeddings, and who is who: equal numbers are one person."""

    text_QE: Floats
    image_GE: Floats
    person_Q: Ids
    person_G: Ids

    @classmethod
    def of(cls, text_QE: Floats, image_GE: Floats, person_Q: Sequence[Person], person_G: Sequence[Person]) -> Labelled:
        """The captions whose person has an image; at most `MOST`, drawn at random."""
        code_Q, code_G = codes(person_Q, person_G)
        chosen = np.flatnonzero(np.isin(code_Q, code_G))
        if len(chosen) > MOST:
            chosen = np.sort(np.random.default_rng(SEED).choice(chosen, MOST, replace=False))
        return cls(text_QE[chosen], image_GE, code_Q[chosen], code_G)

    def scored(self) -> list[tuple[Floats, NDArray[np.bool_], slice]]:
        """Blocks of (score_BG, own_BG, rows): `own` where the image shows the person of the caption."""
        slices = [slice(start, start + BLOCK) for start in range(0, len(self.text_QE), BLOCK)]
        return [
            (
                product(self.text_QE[rows], self.image_GE),
                self.person_Q[rows, None] == self.person_G[None],
                rows,
            )
            for rows in slices
        ]


def fit(split: Labelled, *, fingerprint: str, data: str, name: str) -> Calibration:
    """A calibration from a split with images of at least `FEWEST_PERSONS` persons. Raises DataError for fewer."""
    persons = len(np.unique(split.person_Q))
    if persons < FEWEST_PERSONS:
        raise DataError(
            f"{data} {name}: captions of {persons} persons are too few to calibrate on.",
            f"At least {FEWEST_PERSONS} are needed, and a few hundred are better.",
        )
    temperature = _temperature(split)
    share_QK, right_QK = shares(split, temperature)
    weight = persons / len(split.person_Q)
    return Calibration(
        fingerprint=fingerprint,
        data=data,
        split=name,
        captions=len(split.person_Q),
        images=len(split.person_G),
        persons=persons,
        temperature=temperature,
        first=_curve(share_QK[:, 0], right_QK[:, 0], weight),
        later=_curve(share_QK[:, 1:].ravel(), right_QK[:, 1:].ravel(), weight),
        rule=fit_rule(split),
        likeness=_likeness(split),
    )


def shares(split: Labelled, temperature: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(log of the share, whether it is right) of the first hits of each caption, [Q, K]."""
    share, right = [], []
    for score_BG, own_BG, _ in split.scored():
        first_BK = np.argsort(-score_BG, axis=1, kind="stable")[:, :HITS]
        log_BG = _log_shares(score_BG, temperature)
        share.append(np.take_along_axis(log_BG, first_BK, 1))
        right.append(np.take_along_axis(own_BG, first_BK, 1))
    return np.concatenate(share), np.concatenate(right)


def _log_shares(score_BG: Floats, temperature: float) -> NDArray[np.float64]:
    scaled_BG = score_BG.astype(np.float64) / temperature
    scaled_BG -= scaled_BG.max(axis=1, keepdims=True)
    made: NDArray[np.float64] = scaled_BG - np.log(np.exp(scaled_BG).sum(axis=1, keepdims=True))
    return made


def _temperature(split: Labelled) -> float:
    """The temperature under which the images of those who are meant get the largest shares (maximum likelihood)."""
    blocks = split.scored()

    def cost(log_temperature: float) -> float:
        total = 0.0
        for score_BG, own_BG, _ in blocks:
            share_B = np.where(own_BG, np.exp(_log_shares(score_BG, float(np.exp(log_temperature)))), 0).sum(axis=1)
            total -= float(np.log(np.maximum(share_B, 1e-300)).sum())
        return total

    return float(np.exp(_lowest(cost, np.log(0.003), np.log(1.0))))


def _lowest(cost: Callable[[float], float], low: float, high: float, steps: int = 18) -> float:
    """Where a cost with one minimum is lowest, by golden section."""
    ratio = (5**0.5 - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = cost(left), cost(right)
    for _ in range(steps):
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - ratio * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + ratio * (high - low)
            at_right = cost(right)
    return (low + high) / 2


def _curve(share_N: NDArray[np.float64], right_N: NDArray[np.bool_], weight: float) -> Curve:
    """Isotonic regression as knots.

    Half a wrong hit at the upper end and half a right one at the lower keep a few hits that all happen to be right from
    making a certainty. weight: of a hit, below 1 where several belong to one person.
    """
    from sklearn.isotonic import IsotonicRegression

    if not len(share_N):
        return Curve(x=(0.0,), y=(0.5,))
    x_N = np.concatenate([share_N, [share_N.max(), share_N.min()]])
    weight_N = np.concatenate([np.full(len(share_N), weight), [0.5, 0.5]])
    fitted = IsotonicRegression().fit(x_N, np.concatenate([right_N, [0.0, 1.0]]), sample_weight=weight_N)
    x, y = fitted.X_thresholds_, fitted.y_thresholds_
    if len(x) > KNOTS:
        kept = np.unique(np.linspace(0, len(x) - 1, KNOTS).round().astype(int))
        x, y = x[kept], y[kept]
    return Curve(x=tuple(x.tolist()), y=tuple(y.tolist()))


def fit_rule(split: Labelled) -> ConformalRule:
    """How high the described person's best image scores, and the best of ever more images of strangers."""
    images = len(split.person_G)
    sizes = sorted({*(1 << power for power in range(images.bit_length() - 1)), images})
    strangers_NQ = _best_strangers(split, sizes).astype(np.float64)
    own_Q = np.repeat(own_best(split)[:, None], DRAWS, axis=1).ravel().astype(np.float64)
    return ConformalRule.fit(own_Q, sizes, list(strangers_NQ))


def own_best(split: Labelled) -> Floats:
    """The best score that an image of the described person gets, for each caption."""
    return np.concatenate(
        [np.where(own_BG, score_BG, -np.inf).max(axis=1) for score_BG, own_BG, _ in split.scored()]
    ).astype(np.float32)


def _best_strangers(split: Labelled, sizes: Sequence[int]) -> Floats:
    """The best score among strangers in galleries of these sizes, [N, Q * DRAWS], persons drawn at random.

    A gallery grows person by person; images of whoever is described do not count, as if they were not in it.
    """
    rng = np.random.default_rng(SEED)
    orders = []
    for _ in range(DRAWS):
        place = rng.permutation(int(split.person_G.max()) + 1)
        orders.append(np.argsort(place[split.person_G], kind="stable"))
    last = np.array(sizes) - 1
    found = []
    for score_BG, own_BG, _ in split.scored():
        others_BG = np.where(own_BG, np.float32(-1), score_BG)
        grown = [np.maximum.accumulate(others_BG[:, order], axis=1)[:, last] for order in orders]
        found.append(np.stack(grown, axis=1).reshape(-1, len(last)))
    made: Floats = np.concatenate(found).T
    return made


def _likeness(split: Labelled) -> Likeness:
    """How the gallery looks to a few captions, and how far another one of the same kind may be from it."""
    rng = np.random.default_rng(SEED)
    chosen = rng.permutation(len(split.text_QE))[:PROBES]
    probe_CE = split.text_QE[chosen].astype(np.float16)
    score_CG = product(probe_CE.astype(np.float32), split.image_GE)
    persons = np.unique(split.person_G)
    steps = np.linspace(0, 1, QUANTILES)
    found = []
    for number in range(GALLERIES):
        # halves, quarters and eighths of the persons against all others
        part = rng.permutation(persons)[: max(1, len(persons) >> (1 + number % 3))]
        inside_G = np.isin(split.person_G, part)
        ours, theirs = score_CG[:, inside_G], score_CG[:, ~inside_G]
        distance = ks_distance(np.sort(ours, axis=None), np.quantile(theirs, steps))
        found.append(distance / np.sqrt(1 / ours.shape[1] + 1 / theirs.shape[1]))
    return Likeness(
        captions=len(probe_CE),
        vectors=base64.b64encode(probe_CE.astype("<f2").tobytes()).decode(),
        scores=tuple(np.quantile(score_CG, steps).tolist()),
        images=len(split.person_G),
        scale=SPARE * float(np.max(found)),
    )


# Measuring -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Covered:
    """What sets at one level did on a split, in shares of its captions."""

    level: float
    answered: float
    """Of those whose person is in the gallery: how many get a set, or at least pass the test for strangers."""
    coverage: float
    """Of these: how many have the person in their set."""
    size: float
    """The mean number of images in a set that is not empty."""
    present_refused: float
    """Of those whose person is in the gallery: how many get no confident match."""
    absent_refused: float
    """The same of captions whose person's images were taken out."""


def covered(rule: ConformalRule, split: Labelled, level: float) -> Covered:
    """Search for everybody, with and without the person's own images in the gallery."""
    check_level(level)
    there, gone = _outcomes(rule, split, level, present=True), _outcomes(rule, split, level, present=False)
    tested_Q, inside_Q, size_Q = there
    return Covered(
        level,
        answered=float(tested_Q.mean()),
        coverage=float(inside_Q[tested_Q].mean()) if tested_Q.any() else float("nan"),
        size=float(size_Q[size_Q > 0].mean()) if (size_Q > 0).any() else 0.0,
        present_refused=float((size_Q == 0).mean()),
        absent_refused=float((gone[2] == 0).mean()),
    )


def _outcomes(
    rule: ConformalRule, split: Labelled, level: float, *, present: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Ids]:
    """(passes the test for strangers, the person is in the set, images in the set) of each caption."""
    tested, inside, size = [], [], []
    for score_BG, own_BG, _ in split.scored():
        seen_BG = score_BG if present else np.where(own_BG, np.float32(-2), score_BG)
        images_B = np.full(len(score_BG), score_BG.shape[1]) if present else (~own_BG).sum(axis=1)
        best_B = seen_BG.max(axis=1)
        limits = {images: rule.judge(level, 1.0, images) for images in set(images_B.tolist())}
        stranger_B = np.array([limits[images].stranger for images in images_B.tolist()])
        threshold_B = np.array([limits[images].threshold for images in images_B.tolist()])
        passed_B = best_B >= stranger_B
        chosen_BG = (seen_BG >= threshold_B[:, None]) & passed_B[:, None]
        tested.append(passed_B)
        inside.append((chosen_BG & own_BG).any(axis=1))
        size.append(chosen_BG.sum(axis=1))
    return np.concatenate(tested), np.concatenate(inside), np.concatenate(size)


@dataclass(frozen=True)
class Reliability:
    """How often hits that were said to be right with some probability are right."""

    bins: list[tuple[int, float, float]]
    """(hits, mean probability, share that is right) of each tenth from 0 to 1 that has hits."""
    ECE: float
    """Expected calibration error: the mean difference of the two, weighted by hits."""
    Brier: float
    """The mean squared difference of probability and truth."""

    @classmethod
    def of(cls, said_N: NDArray[np.float64], right_N: NDArray[np.bool_]) -> Reliability:
        """From single hits."""
        tenth_N = np.minimum((said_N * 10).astype(int), 9)
        bins = []
        for tenth in range(10):
            here_N = tenth_N == tenth
            if here_N.any():
                bins.append((int(here_N.sum()), float(said_N[here_N].mean()), float(right_N[here_N].mean())))
        total = max(len(said_N), 1)
        error = sum(count * abs(said - right) for count, said, right in bins) / total
        return cls(bins, error, float(np.square(said_N - right_N).mean()) if len(said_N) else 0.0)

    def document(self) -> dict[str, object]:
        """As `tbps eval --calibration --json` prints it."""
        rows = [{"hits": hits, "said": said, "right": right} for hits, said, right in self.bins]
        return {"bins": rows, "ECE": self.ECE, "Brier": self.Brier}


def reliability(calibration: Calibration, split: Labelled) -> tuple[Reliability, Reliability]:
    """(of the first ten hits, of the first one) of every caption of a split."""
    share_QK, right_QK = shares(split, calibration.temperature)
    said_QK = calibration.probabilities(share_QK)
    return Reliability.of(said_QK.ravel(), right_QK.ravel()), Reliability.of(said_QK[:, 0], right_QK[:, 0])
