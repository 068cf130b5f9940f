"""Patterns planted in simulated markets: what books show of a fair value that itself has none.

The fair value f is a bounded martingale and settles as it says, whatever is planted. A pattern changes what makers believe it
to be, and so quote, or what sizes tell of it. Its name is the key of `SimConfig` that sets its strength k; 0 plants none. Time s
passes with the activity of the session: a second of it in a second of mean activity.

- `reversion`: at random moments, `SHOCK_S` apart on average, a shock displaces makers' belief, b = f +- k * exp(-s / RECOVERY_S)
  cents, s since the last, and until it comes back they want a spread of 1 + WIDER * exp(-s / RECOVERY_S) times the usual
  one. The usual one differs from market to market, 1 to `WIDEST` times `SimConfig.spread`, and f moves as far without coming
  back. Shown by the distance from moving averages with the z-score of the spread (tier 3, `average_distance_128`,
  `spread_score_128`): what has fallen is cheap where the spread is no narrower than it was.
- `imbalance`: somebody knows m, the move of f over the next `AHEAD_S`, and keeps bids at three levels beyond the best five of
  both sides: SHOWN * size * exp(l) contracts each for YES and SHOWN * size * exp(-l) for NO, with l = k * tanh(m / TOLD_CENTS).
  Nothing else tells m. Shown by the imbalance at depth 10 against that of the best five levels (tier 3, `depth_imbalance_10`).
- `bursts`: news comes every `STRETCH_S`; until then makers believe what f was when the last came. Before news that moves f by m
  orders come exp(k * tanh(m / TOLD_CENTS)) times as fast: in bursts before good news for YES, hesitantly before bad. Order by
  order the market is what it would have been. Shown by the rate of changes (tier 2, `market_rate_10s`), and by nothing that
  does not look at the clock.
- `stale`: makers' belief follows late, db/dt = (f - b) / k, in seconds of the clock; its slope tells how far it has to go. Shown
  by momentum (tier 2, `momentum_10s`) and by the distance from moving averages (tier 3).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from loaders.sim_config import SimConfig

AHEAD_S, SHOWN, TOLD_CENTS = 40.0, 200, 8.0
SHOCK_S, RECOVERY_S, WIDER, WIDEST = 40.0, 10.0, 1.5, 2.5
STRETCH_S = 40.0


@dataclass
class Moments:
    """What is true at the n moments of a market's messages."""

    at_s: np.ndarray  # f64[n], time since the session's start, ascending
    passed_s: np.ndarray  # f64[n], seconds of mean activity since the session's start, ascending
    fair: np.ndarray  # f64[n], the fair value in cents, as makers may know it
    ahead: np.ndarray  # f64[n], the fair value once `AHEAD_S` more of activity has passed


@dataclass
class Beliefs:
    """What the traders of one market go by, at the n moments of its messages."""

    value: np.ndarray  # f64[n], cents: what makers believe a YES to be worth
    width: np.ndarray  # f64[n], the spread that they want, as a multiple of `SimConfig.spread`
    deep: np.ndarray | None  # f64[n], l above of the bids beyond the best five levels; None: there are none


def believe(config: SimConfig, rng: np.random.Generator, moments: Moments) -> Beliefs:
    """Work out what makers believe and want, and what sizes tell; `rng` is the patterns' own, consumed."""
    value = _follow(moments.fair, moments.at_s, config.stale) if config.stale else moments.fair
    width = np.ones(len(value))
    if config.reversion:
        shock = _shocks(rng, moments.passed_s)
        value = value + config.reversion * shock
        width = rng.uniform(1.0, WIDEST) * (1.0 + WIDER * np.abs(shock))
    deep = config.imbalance * np.tanh((moments.ahead - moments.fair) / TOLD_CENTS) if config.imbalance else None
    return Beliefs(np.clip(value, 0.0, 100.0), width, deep)


def bring_news(
    config: SimConfig, rng: np.random.Generator, passed_s: np.ndarray, fair: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Let makers know the fair value at times, and the pace of orders tell what they will hear; with `SimConfig.bursts`.

    Args:
        config: what is simulated.
        rng: the patterns' own, consumed.
        passed_s: f64[T + 1], seconds of mean activity that have passed at the beginnings of T steps, and in all.
        fair: f64[T + 1], the fair value in cents at the same moments.

    Returns:
        f64[T + 1], the fair value at the last news; and f64[T + 1], when the steps begin, and the last ends, s of the clock.
    """
    stretch = np.floor(passed_s / STRETCH_S + rng.random())
    news = np.flatnonzero(np.diff(stretch, prepend=-1.0))
    lengths = np.diff(news, append=len(stretch))
    moves = np.diff(fair[news], append=fair[-1])
    slowness = np.repeat(np.exp(-config.bursts * np.tanh(moves / TOLD_CENTS)), lengths)[:-1]
    clock = np.append(0.0, np.cumsum(slowness * np.diff(passed_s)))
    return np.repeat(fair[news], lengths), clock * (config.seconds / clock[-1])


def _follow(fair: np.ndarray, at_s: np.ndarray, lag_s: float) -> np.ndarray:
    """Follow a value late, f64[n]: db/dt = (f - b) / lag_s for f (f64[n]) that stands from each of the times at_s (f64[n]) on."""
    followed = fair.copy()
    for i, share in enumerate(-np.expm1(-np.diff(at_s) / lag_s), start=1):
        followed[i] = followed[i - 1] + share * (fair[i - 1] - followed[i - 1])
    return followed


def _shocks(rng: np.random.Generator, passed_s: np.ndarray) -> np.ndarray:
    """Draw what is left of the last shock at each moment, f64[n]: +-1 right after it, 0 before the first."""
    number = rng.poisson((passed_s[-1] - passed_s[0]) / SHOCK_S)
    moment = np.append(-np.inf, np.sort(rng.uniform(passed_s[0], passed_s[-1], number)))
    sign = rng.choice([-1.0, 1.0], number + 1)
    last = np.searchsorted(moment, passed_s, side="right") - 1
    return sign[last] * np.exp(-(passed_s - moment[last]) / RECOVERY_S)
