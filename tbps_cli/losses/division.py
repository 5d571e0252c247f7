"""RDE's confident consensus division: which training pairs both of its embeddings take for correct ones.

Qin et al., CVPR 2024, arXiv 2308.09911. A mixture of two normal distributions over the pairs' costs calls
those with low cost clean. A pair that is clean by both embeddings is trusted; where they disagree a coin
decides. It runs once an epoch, on one number a pair, so scikit-learn does it.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger("tbps")
Costs = NDArray[np.float32]
Chances = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class FitLimits:
    """How long the mixture is fitted: rounds at most, the gain that ends them, and the least variance."""

    rounds: int
    gain: float
    variance: float


QUICK = FitLimits(10, 1e-2, 5e-4)
"""Source: the released code, up to 40 % of noise."""
THOROUGH = FitLimits(100, 1e-4, 1e-6)
"""Source: the released code, above 40 % of noise and on RSTPReid."""


@dataclass(frozen=True)
class CostMixture:
    """Two normal distributions over the costs scaled to 0..1; the one with the smaller mean first."""

    mean: Chances
    variance: Chances
    weight: Chances
    clean_N: Chances
    """Posterior probability that a pair belongs to the first."""
    rounds: int


def fit(cost_N: Costs, limits: FitLimits, random: np.random.RandomState) -> CostMixture | None:
    """The mixture of the costs; None where all costs are equal.

    random: draws the start of the fit; two fits in a row continue one stream, as in the released code.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

    low, high = cost_N.min(), cost_N.max()
    if low == high:
        return None
    scaled_N1 = ((cost_N - low) / (high - low)).reshape(-1, 1)
    model = GaussianMixture(
        2,
        max_iter=limits.rounds,
        tol=limits.gain,
        reg_covar=limits.variance,
        random_state=random,
        covariance_type="full",
    )
    # one thread: with several, sums and so the clusters of the start depend on which is first
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # ten rounds rarely converge, and are not meant to
        model.fit(scaled_N1)
    order = np.argsort(model.means_[:, 0])

    def pair(values: object) -> Chances:
        return np.asarray(values, np.float64).reshape(2)[order]

    clean_N = model.predict_proba(scaled_N1)[:, order[0]].astype(np.float64)
    return CostMixture(pair(model.means_), pair(model.covariances_), pair(model.weights_), clean_N, model.n_iter_)


def split_clean(clean_N: Chances) -> Flags:
    """Which pairs are clean: those above one half. When all are, the least certain hundredth is not."""
    threshold = 0.5
    if clean_N.min() > threshold:
        threshold = float(np.sort(clean_N)[len(clean_N) // 100])
    return clean_N > threshold


def consensus(one_N: Flags, other_N: Flags, coin_D: Flags) -> Flags:
    """Trusted pairs: clean to both, or clean to one and the coin says so. coin_D: one for each disputed, in order."""
    trusted_N = one_N & other_N
    trusted_N[one_N != other_N] = coin_D
    return trusted_N


def divide(one_N: Costs, other_N: Costs, limits: FitLimits, random: np.random.RandomState) -> Flags:
    """Which pairs to trust, from their costs under both embeddings, [N] each. `random` draws fits and coins."""
    flags = []
    for cost_N in (one_N, other_N):
        mixture = fit(cost_N, limits, random)
        flags.append(np.ones(len(cost_N), bool) if mixture is None else split_clean(mixture.clean_N))
    disputed = int((flags[0] != flags[1]).sum())
    trusted_N = consensus(flags[0], flags[1], random.randint(0, 2, disputed).astype(bool))
    logger.info(
        "division: %d of %d training pairs are trusted (%d were disputed)", trusted_N.sum(), len(one_N), disputed
    )
    return trusted_N
