"""A simulated exchange: makers, noise and informed takers around a fair value that is a martingale and settles.

For demos, tests and benchmarks only. Everything it makes is labelled synthetic; training data is authentic order books.
`loaders.sim_config` says what can be simulated, `loaders.patterns` what can be planted in it, `loaders.sim_flow` who trades.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import erf

import numpy as np

from kalshi_jax.tape import CENT, DOLLAR, NO, YES
from loaders.events import HUNDREDTHS, Events, Kind, MarketFacts, Report, Trades
from loaders.patterns import AHEAD_S, Moments, believe, bring_news
from loaders.shadows import ShadowFollower, ShadowOrder, ShadowPlan
from loaders.sim_config import SimConfig
from loaders.sim_flow import OrderFlow
from loaders.true_queue import OrderChanges

EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00Z: the first session starts here
SESSION_GAP_MS = 3_600_000  # from the end of a session to the start of the next
# Activity switches between quiet, normal and burst: intensity and mean duration of each.
REGIME_INTENSITY = np.array([0.02, 1.0, 4.0])
REGIME_SECONDS = np.array([15.0, 20.0, 4.0])
STEPS_PER_S = 10  # of activity and fair value, but no more than
MAX_STEPS = 36_000  # a session
ECHO_MS = 3.0  # mean time by which an echo follows
RENEWED_MS = 1_000  # between renewals of the bids that show a pattern
PLANTED = 1  # marks the seeds of planted patterns


@dataclass
class SimSession:
    """One simulated session, and what a recording does not tell: how its markets settle, and whose every order is."""

    events: Events
    settles_yes: np.ndarray  # bool[M], in the order of events.tickers
    orders: OrderChanges
    shadows: list[ShadowOrder]  # by market and time of placement


@dataclass
class _Market:
    """What happened in one market, times in ms since the session's start."""

    start: np.ndarray  # i64[s, 3], levels of the first book: side, ticks, contracts
    changes: np.ndarray  # i64[c, 5], of orders from the first to the close: ms, order, side, ticks, contracts (signed)
    trades: np.ndarray  # i64[t, 4]: ms, YES ticks, contracts, taker side
    settles_yes: bool


def synthetic_events(spec: str | SimConfig) -> Iterator[Events]:
    """Simulate all sessions of a configuration; see `SimConfig.parse` for the text form and its errors."""
    config = SimConfig.parse(spec) if isinstance(spec, str) else spec
    for session in range(config.sessions):
        yield simulate_session(config, session).events


def simulate_session(config: SimConfig, session: int, plan: ShadowPlan | None = None) -> SimSession:
    """Simulate one session (0 to config.sessions - 1): a snapshot and changes of every market, trades, and results.

    Each market begins with a snapshot and ends, as real ones do, with an empty one at its close. With a `plan` the session is the
    same, and it tells how shadow orders in it would have filled.
    """
    rng = np.random.default_rng([config.seed, session])
    start_ms, end_ms = EPOCH_MS + session * (config.seconds * 1000 + SESSION_GAP_MS), config.seconds * 1000
    regime = _regimes(rng, config)
    followers = _followers(config, session, plan)
    planted = [np.random.default_rng([config.seed, session, market, PLANTED]) for market in range(config.markets)]
    markets = [_simulate_market(rng, *each, config, regime) for each in zip(planted, followers, strict=True)]

    unit = round(config.tick * CENT)
    tickers = [f"SIM{market}-{config.seed}-{session}" for market in range(config.markets)]
    market, (time_ms, kind, side, ticks, size) = _merge([_book_changes(each, end_ms) for each in markets])
    trade_market, (trade_ms, trade_ticks, trade_size, taker_side) = _merge([each.trades for each in markets])
    owner_market, (owner_ms, order, owner_side, owner_ticks, owner_size) = _merge([each.changes for each in markets])
    snapshots, deltas = int((kind == Kind.CLEAR).sum()), int((kind == Kind.ADD).sum())
    events = Events(
        session_id=f"synthetic-{config.seed}-{session}",
        tickers=tickers,
        market=market,
        time_ms=start_ms + time_ms,
        kind=kind.astype(np.int8),
        side=side.astype(np.int8),
        price=(ticks * unit).astype(np.int32),
        size=size * HUNDREDTHS,
        trades=Trades(
            trade_market,
            start_ms + trade_ms,
            (trade_ticks * unit).astype(np.int32),
            trade_size * HUNDREDTHS,
            taker_side.astype(np.int8),
        ),
        report=Report(
            rows_read=snapshots + deltas + len(trade_ms),
            snapshots=snapshots,
            deltas=deltas,
            trades=len(trade_ms),
            epochs=1,
        ),
        status="closed",
        environment="test",
        synthetic=True,
        facts={
            ticker: MarketFacts(close_ms=start_ms + end_ms, result=DOLLAR if each.settles_yes else 0)
            for ticker, each in zip(tickers, markets, strict=True)
        },
    )
    orders = OrderChanges(
        owner_market,
        start_ms + owner_ms,
        order,
        owner_side.astype(np.int8),
        (owner_ticks * unit).astype(np.int32),
        owner_size,
    )
    shadows = [order for follower in followers if follower for order in follower.orders]
    return SimSession(events, np.array([each.settles_yes for each in markets]), orders, shadows)


def fair_values(rng: np.random.Generator, activity: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Draw the probability of YES of one market: a martingale in (0, 100) that ends at 0 or 100.

    P = 100 * Phi((x + W(v)) / sqrt(V - v)) is the chance, seen when variance v of V has passed, that a Brownian motion
    from x ends above 0. Variance passes with `activity`, so that prices move when orders come.

    Args:
        rng: consumed.
        activity: f64[T], intensity of each step.
        at: i64[n], 0..T, numbers of steps passed at which to look.

    Returns:
        f64[n], cents.
    """
    variance = np.cumsum(activity) / activity.sum()  # V = 1
    moves = rng.standard_normal(len(activity)) * np.sqrt(np.diff(variance, prepend=0.0))
    position = rng.uniform(-1.0, 1.0) + np.concatenate([[0.0], np.cumsum(moves)])
    left = np.concatenate([[1.0], 1.0 - variance])
    left[-1] = 0.0
    with np.errstate(divide="ignore"):
        distance = position[at] / np.sqrt(2.0 * np.maximum(left[at], 0.0))  # infinite at the end
    return np.array([50.0 * (1.0 + erf(x)) for x in distance.tolist()])


# -- one market


def _simulate_market(
    rng: np.random.Generator,
    planted: np.random.Generator,
    follower: ShadowFollower | None,
    config: SimConfig,
    regime: np.ndarray,
) -> _Market:
    """Simulate the orders of one market, consuming `rng`, and `planted` if a pattern is; `regime` i64[T] of each step."""
    end_ms, steps = config.seconds * 1000, len(regime)
    activity = REGIME_INTENSITY[regime] ** config.regimes
    passed = np.concatenate([[0.0], np.cumsum(activity)])
    moment = _moments(rng, config, passed)
    at = np.concatenate([[0.0], moment, [steps]])
    elapsed = np.interp(at, np.arange(steps + 1), passed)
    passed_to_s = config.seconds / passed[-1]
    later = np.interp(elapsed + AHEAD_S / passed_to_s, passed, np.arange(steps + 1))
    bounds = np.arange(steps + 1 if config.bursts else 0)
    looks = np.concatenate([at, later, bounds]).astype(np.int64)
    fair, ahead, path = np.split(fair_values(rng, activity, looks), [len(at), 2 * len(at)])
    settles_yes, at_ms = bool(fair[-1] > 50.0), at * end_ms / steps
    if config.bursts:
        known, clock_s = bring_news(config, planted, passed * passed_to_s, path)
        fair, at_ms = known[at.astype(np.int64)], 1000 * np.interp(at, bounds, clock_s)
    beliefs = believe(config, planted, Moments(at_ms / 1000, elapsed * passed_to_s, fair, ahead))
    value, width = (beliefs.value / config.tick).tolist(), beliefs.width.tolist()
    deep = None if beliefs.deep is None else beliefs.deep.tolist()

    flow = OrderFlow(config, rng, len(moment))
    book = flow.book
    flow.begin(value[0], width[0])
    start = [(side, price, size) for side in (YES, NO) for price, size in enumerate(book.sizes[side]) if size]
    changes = [(0, *change) for change in book.changes]
    trades: list[tuple[int, int, int, int]] = []
    book.changes.clear()
    times = np.clip(at_ms[1:-1], 1, end_ms - 1).astype(np.int64).tolist()
    renewed_ms = 0
    for i, ms in enumerate(times, start=1):
        if follower:
            follower.place(book, ms)
        flow.step(value[i], width[i])
        if deep and ms >= renewed_ms + RENEWED_MS:
            flow.show(deep[i])
            renewed_ms = ms
        if follower:
            follower.collect(book, ms)
        changes += [(ms, *change) for change in book.changes]
        for maker, taker_side, size in book.fills:
            trades.append((ms, maker.price if maker.side == YES else book.ticks - maker.price, size, taker_side))
        book.changes.clear()
        book.fills.clear()
    if follower:
        follower.place(book, end_ms)
    flow.withdraw_all()
    changes += [(end_ms, *change) for change in book.changes]
    return _Market(
        np.array(start, np.int64).reshape(-1, 3),
        np.array(changes, np.int64).reshape(-1, 5),
        np.array(trades, np.int64).reshape(-1, 4),
        settles_yes,
    )


def _regimes(rng: np.random.Generator, config: SimConfig) -> np.ndarray:
    """Draw the regime of each step of a session: quiet (0), normal (1) and burst (2) by turns, i64[T]."""
    steps = min(config.seconds * STEPS_PER_S, MAX_STEPS)
    number = 8 + 4 * config.seconds // round(REGIME_SECONDS.min())
    regime = np.cumsum(rng.integers(1, 3, number)) % 3  # never the same one twice in a row
    lengths = 1 + rng.exponential(REGIME_SECONDS[regime]) * steps / config.seconds
    return np.repeat(regime, lengths.astype(np.int64))[:steps]


def _moments(rng: np.random.Generator, config: SimConfig, passed: np.ndarray) -> np.ndarray:
    """Draw when messages come, f64[n] steps, ascending; `passed` f64[T + 1] is the activity before each step and in all."""
    number = rng.poisson(config.rate * config.seconds)
    moment = np.interp(np.sort(rng.uniform(0.0, passed[-1], number)), passed, np.arange(len(passed)))
    if config.echo and number:
        steps_per_ms = (len(passed) - 1) / (config.seconds * 1000)
        heads = rng.random(number) >= config.echo
        heads[0] = True
        head = np.maximum.accumulate(np.where(heads, np.arange(number), 0))
        after = np.where(heads, 0.0, rng.exponential(ECHO_MS * steps_per_ms, number))
        moment = np.sort(np.minimum(moment[head] + after, len(passed) - 1))
    return moment


def _followers(config: SimConfig, session: int, plan: ShadowPlan | None) -> list[ShadowFollower | None]:
    """Give each market a follower of shadow orders with a stream of random numbers of its own, or None without a plan."""
    if plan is None:
        return [None] * config.markets
    end_ms, unit = config.seconds * 1000, round(config.tick * CENT)
    streams = [np.random.default_rng([config.seed, session, 1 + market]) for market in range(config.markets)]
    return [ShadowFollower(plan, stream, market, end_ms, unit) for market, stream in enumerate(streams)]


# -- as columns


def _book_changes(market: _Market, end_ms: int) -> np.ndarray:
    """Give what is recorded of a market, i64[n, 5] (ms, kind, side, ticks, contracts): a snapshot, deltas, an empty snapshot."""
    ms = market.changes[:, 0]
    deltas = market.changes[(ms > 0) & (ms < end_ms)]
    empty = [0, Kind.CLEAR, 0, 0, 0]
    first = np.insert(market.start, [0, 0], [0, Kind.SET], axis=1)
    return np.concatenate(
        [[empty], first, np.insert(deltas[:, [0, 2, 3, 4]], 1, Kind.ADD, axis=1), [[end_ms, *empty[1:]]]]
    )


def _merge(tables: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Merge the rows of all markets by time, their first column: market i32[n] and the columns i64[columns, n]."""
    market = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    rows = np.concatenate(tables)
    order = np.argsort(rows[:, 0], kind="stable")
    return market[order], rows[order].T
