"""The curriculum: which sessions training draws from as it goes on, by their measured statistics.

Thresholds are round figures between what was measured: recorded index and sports markets move 0.03 to 0.4 cents per
root second, fifteen-minute crypto markets 0.4 to 3, with a median of 1.1; all of these have spreads of 0.5 to 3 cents,
hourly crypto brackets one of 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from loaders.statistics import SessionStatistics

STABLE_VOLATILITY, MODERATE_VOLATILITY = 1.0, 2.0  # at most, cents per root second
MOST_MARKETS = 20  # of a moderate session
MOST_SPREAD = 5.0  # cents, mean
LEAST_ACTIVITY = 0.05  # changes a second and market
LEAST_QUOTED = 0.5  # share of the time with bids on both sides
STABLE_UNTIL, MODERATE_UNTIL = 0.2, 0.5  # progress of the training


class Stage(IntEnum):
    """A stage of the curriculum, and the class of the sessions that it brings in."""

    STABLE = 0  # calm sessions of one market
    MODERATE = 1  # sessions of several markets that are not too wild
    ALL = 2  # every session


def stage_of(statistics: SessionStatistics, markets: int) -> Stage:
    """Classify a session by its statistics and the number of its markets that show a book."""
    spread, volatility = statistics.spread_cents, statistics.volatility
    liquid = (
        spread is not None
        and spread <= MOST_SPREAD
        and statistics.activity >= LEAST_ACTIVITY
        and statistics.quoted_share >= LEAST_QUOTED
    )
    if not liquid or volatility is None:
        return Stage.ALL
    if markets == 1 and volatility <= STABLE_VOLATILITY:
        return Stage.STABLE
    return Stage.MODERATE if 2 <= markets <= MOST_MARKETS and volatility <= MODERATE_VOLATILITY else Stage.ALL


def stage_at(progress: float) -> Stage:
    """Tell the stage at a progress of 0 to 1."""
    if progress < STABLE_UNTIL:
        return Stage.STABLE
    return Stage.MODERATE if progress < MODERATE_UNTIL else Stage.ALL


def session_weights(stages: Sequence[Stage], stage: Stage) -> np.ndarray:
    """Weigh sessions for a stage: 1 for those that it draws from, 0 for the others.

    Args:
        stages: of the sessions: `[session.stage for session in index.sessions]`.
        stage: of the training. Where no session belongs to it, it draws from the next easier ones that there are, and
            where there are none, from all, so that the weights are never all 0.

    Returns:
        f32[n_sessions]. `default_weights(tape, event_clock) * weights[index.session_of_market]` (of `kalshi_jax.params`)
        are the `market_weights` that `make_params` takes: other weights, no other program.
    """
    classes = np.array(stages, np.int32)
    chosen = np.ones(len(classes), bool)
    for easier in range(stage, -1, -1) if stage != Stage.ALL else ():
        if (classes == easier).any():
            chosen = classes == easier
            break
    return chosen.astype(np.float32)
