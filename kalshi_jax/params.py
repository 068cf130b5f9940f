"""Parameters of an environment, made from a tape: every setting is checked here, with its name, before anything runs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from kalshi_jax.fees import MAX_RATE
from kalshi_jax.ledger import MAX_WEALTH
from kalshi_jax.queues import QUEUE_MODELS, queue_table
from kalshi_jax.state import EnvParams, Fees, ShapingWeights
from kalshi_jax.tape import DOLLAR, NO_ROW, Tape

MARKS = ("mid", "exit")
CERTAIN_FILLS = ("whole", "displayed")


def make_params(
    tape: Tape,
    *,
    episode_length: int = 1000,
    decision_interval_ms: int = 0,
    queue_model: str = "risk_averse",
    queue_exponent: float = 2.0,
    certain_fill: str = "whole",
    latency_ms: int = 0,
    mark: str = "mid",
    initial_cash: float = 10_000.0,
    taker_rate: int | np.ndarray | None = None,
    maker_rate: int | np.ndarray | None = None,
    taker_flat_cents: float | np.ndarray | None = None,
    maker_flat_cents: float | np.ndarray | None = None,
    hold_cancels: bool = True,
    risk_weight: float = 0.0,
    timing_weight: float = 0.0,
    discovery_weight: float = 0.0,
    start_offset: int = 0,
    market_weights: np.ndarray | None = None,
) -> EnvParams:
    """Make parameters from a tape.

    What recompiles: another `mark`, `queue_model`, `certain_fill` or kind of clock, and latency, reward weights or all fees for
    resting orders that become 0 or cease to be. Nothing else does.

    Args:
        tape: the recordings.
        episode_length: steps after which an episode is truncated.
        decision_interval_ms: 0 steps from change to change, otherwise the ms between decisions.
        queue_model: how the queue ahead of a resting order shrinks: "risk_averse", "power", "log" or "optimistic".
        queue_exponent: n of the power model.
        certain_fill: what a resting order gets when the other side comes to its price: its "whole" remainder, or no more than
            the contracts "displayed" there, for orders that are not small beside those.
        latency_ms: from a decision to the arrival of its orders; at most the decision interval on the fixed clock.
        mark: value holdings at the "mid", or at what the book would pay ("exit").
        initial_cash: dollars.
        taker_rate: quadratic fee rate in 1/10,000, for all markets or one each; None: the markets' own, from the tape (700
            unless their metadata said otherwise).
        maker_rate: the same for resting orders (0 on most series, 175 on those with maker fees).
        taker_flat_cents: a further fee per contract.
        maker_flat_cents: the same for resting orders.
        hold_cancels: HOLD takes a resting order out of the book.
        risk_weight: of the reward's differential Sharpe ratio; this and the next two: see `reward.shape`.
        timing_weight: of what marks did to the step's trades.
        discovery_weight: of what is tried for the first time.
        start_offset: changes at the head of each market in which no episode begins.
        market_weights: f[n_markets], how often each market opens an episode; default: in proportion to its changes
            (event clock) or to its duration (fixed clock).

    Raises:
        ValueError: a value outside its range; it is named.
    """
    _require(episode_length >= 1, "episode_length", episode_length, "at least 1 step")
    _require(0 <= decision_interval_ms < 2**30, "decision_interval_ms", decision_interval_ms, "0 to 2**30 - 1 ms")
    most = decision_interval_ms or 2**30 - 1
    _require(
        0 <= latency_ms <= most,
        "latency_ms",
        latency_ms,
        f"0 to {most} ms: orders arrive before the next decision",
    )
    _require(queue_model in QUEUE_MODELS, "queue_model", queue_model, f"one of {', '.join(QUEUE_MODELS)}")
    _require(0 < queue_exponent <= 16, "queue_exponent", queue_exponent, "above 0, up to 16")
    _require(certain_fill in CERTAIN_FILLS, "certain_fill", certain_fill, f"one of {CERTAIN_FILLS}")
    _require(mark in MARKS, "mark", mark, f"one of {MARKS}")
    _require(0 < initial_cash * DOLLAR <= MAX_WEALTH, "initial_cash", initial_cash, f"up to ${MAX_WEALTH // DOLLAR:,}")
    _require(start_offset >= 0, "start_offset", start_offset, "0 or more changes")
    if market_weights is None:
        market_weights = default_weights(tape, event_clock=decision_interval_ms == 0)
    cumulative = cumulative_weights(tape, market_weights)
    rates = [
        (taker_rate, MAX_RATE, 1),
        (taker_flat_cents, 100, 100),
        (maker_rate, MAX_RATE, 1),
        (maker_flat_cents, 100, 100),
    ]
    fees = [
        tape.market_fee[:, i] if value is None else _per_market(value, limit, scale, tape.num_markets)
        for i, (value, limit, scale) in enumerate(rates)
    ]
    taker, maker = fees[:2], fees[2:]
    resting_pays = any(bool(np.any(fee)) for fee in maker)
    shaping = [risk_weight, timing_weight, discovery_weight]
    _require(bool(np.isfinite(shaping).all()), "reward weights", shaping, "finite numbers")
    return EnvParams(
        tape=tape,
        fees=Fees(*taker, *(maker if resting_pays else (None, None))),
        market_weights=cumulative,
        initial_cash=jnp.asarray(round(initial_cash * DOLLAR), jnp.int32),
        episode_length=jnp.asarray(episode_length, jnp.int32),
        decision_interval_ms=jnp.asarray(decision_interval_ms, jnp.int32),
        latency_ms=jnp.asarray(latency_ms, jnp.int32),
        start_offset=jnp.asarray(start_offset, jnp.int32),
        hold_cancels=jnp.asarray(hold_cancels),
        queue_table=jnp.asarray(queue_table(queue_model, queue_exponent)),
        shaping_weights=ShapingWeights(*(jnp.asarray(weight, jnp.float32) for weight in shaping)),
        event_clock=decision_interval_ms == 0,
        mark=mark,
        queue_model=queue_model,
        certain_fill=certain_fill,
        delayed=latency_ms > 0,
        shaped=any(weight != 0 for weight in shaping),
    )


def default_weights(tape: Tape, event_clock: bool) -> np.ndarray:
    """Weigh markets by their changes (event clock) or by their duration (fixed clock), f64[n_markets]; host code."""
    markets = tape.num_markets
    start, rows = np.asarray(tape.track_start[:markets]), np.asarray(tape.track_length[:markets])
    if event_clock:
        return np.maximum(rows - 1, 0).astype(np.float64)
    last = np.maximum(start + rows - 1, NO_ROW)
    time_ms = np.asarray(tape.time_ms)
    return np.where(rows > 1, time_ms[last] - time_ms[start], 0).astype(np.float64)


def cumulative_weights(tape: Tape, weights: np.ndarray) -> jax.Array:
    """Make `EnvParams.market_weights` of weights of the markets: other weights, no other program.

    Raises:
        ValueError: not one number of 0 or more for each market, or all are 0.
    """
    weights = np.asarray(weights, np.float64)
    fits = weights.shape == (tape.num_markets,) and (weights >= 0).all() and 0 < weights.sum() < np.inf
    _require(fits, "market_weights", weights, f"{tape.num_markets} numbers >= 0, not all 0")
    cumulative = np.cumsum(weights / weights.sum())
    return jnp.asarray(cumulative / cumulative[-1], jnp.float32)


def _per_market(value: float | np.ndarray, limit: int, scale: int, markets: int) -> jax.Array:
    scaled = np.broadcast_to(np.asarray(value, np.float64) * scale, (markets,))
    whole = np.rint(scaled)
    fits = (np.abs(scaled - whole) < 1e-9).all() and (whole >= 0).all() and (whole <= limit * scale).all()
    _require(fits, "fee", value, f"0 to {limit} in steps of 1/{scale}, for all markets or one for each of {markets}")
    return jnp.asarray(whole, jnp.int32)


def _require(fits: bool | np.bool_, name: str, value: object, expected: str) -> None:
    if not fits:
        raise ValueError(f"{name}={value}: expected {expected}")
