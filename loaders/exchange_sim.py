"""A simulated exchange: makers, noise and informed takers around a fair value that is a martingale and settles.

For demos, tests and benchmarks only. Everything it makes is labelled synthetic; training data is authentic order books.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import erf
from typing import Any

import numpy as np

from kalshi_jax.tape import DOLLAR
from loaders.events import HUNDREDTHS, Events, Kind, MarketFacts, Report, Trades
from loaders.matching import NO, YES, Order, OrderBook
from loaders.shadows import ShadowFollower, ShadowOrder, ShadowPlan

PREFIX = "synthetic:"
EPOCH_MS = 1_767_225_600_000  # 2026-01-01T00:00Z: the first session starts here
SESSION_GAP_MS = 3_600_000  # from the end of a session to the start of the next
CENT = 100  # 0.01 cent
# Activity switches between quiet, normal and burst: intensity and mean duration of each.
REGIME_INTENSITY = np.array([0.02, 1.0, 4.0])
REGIME_SECONDS = np.array([15.0, 20.0, 4.0])
STEPS_PER_S = 10  # of activity and fair value, but no more than
MAX_STEPS = 36_000  # a session
DEPTH = 120  # resting orders of a market that cancellations steer towards
SIZES = (1, 2, 5, 10, 10, 20, 25, 50, 100, 250)  # contracts of an order, equally likely
INFORMED = 0.35  # chance that a stale bid is hit before its maker withdraws it
STALE_EDGE = 0.25  # a bid is stale once it is closer to the fair value than this share of the half spread
REDUCED = 0.2  # share of withdrawals that only make an order smaller


@dataclass(frozen=True)
class SimConfig:
    """What to simulate; the same configuration always gives the same sessions, each of them independent of the rest."""

    sessions: int = 8
    markets: int = 3  # per session
    seconds: int = 600  # length of a session; its markets settle at its end
    seed: int = 0
    rate: float = 6.0  # order messages per second and market, on average
    spread: float = 2.0  # cents between the makers' best bids and offers, in quiet times
    tick: float = 1.0  # cents: 1 or 0.1
    stale: float = 0.0  # seconds by which makers lag the fair value: a planted edge, see `_follow`
    noise: float = 0.05  # share of messages that take whatever is there: what makers live on

    def __post_init__(self) -> None:
        for name, low, high in (
            ("sessions", 1, 100_000),
            ("markets", 1, 10_000),
            ("seconds", 1, 7 * 86_400),
            ("seed", 0, 2**32 - 1),
            ("rate", 0.01, 1_000),
            ("spread", 0.1, 50),
            ("stale", 0, 3_600),
            ("noise", 0, 0.5),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"simulated exchange: {name} is {getattr(self, name)}, expected {low} to {high}")
        if self.tick not in (1.0, 0.1):
            raise ValueError(f"simulated exchange: tick is {self.tick} cents, expected 1 or 0.1")

    @staticmethod
    def parse(spec: str) -> SimConfig:
        """Read "synthetic:sessions=8,markets=3,seconds=600,seed=0"; what is left out has its default.

        Raises:
            ValueError: another beginning, an unknown key, or a value that is no number or out of bounds.
        """
        if not spec.startswith(PREFIX):
            raise ValueError(f"{spec!r} is no simulated exchange: expected {PREFIX}key=value,...")
        kinds = {field.name: int if field.type == "int" else float for field in fields(SimConfig)}
        values: dict[str, Any] = {}
        for item in filter(None, spec.removeprefix(PREFIX).split(",")):
            key, _, value = item.partition("=")
            if key not in kinds:
                raise ValueError(f"{spec!r} has an unknown key {key!r}: expected {', '.join(kinds)}")
            try:
                values[key] = kinds[key](value)
            except ValueError:
                raise ValueError(f"{spec!r}: {key} is {value!r}, expected a number ({kinds[key].__name__})") from None
        return SimConfig(**values)

    @property
    def spec(self) -> str:
        """The text that `parse` reads."""
        return PREFIX + ",".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))


@dataclass
class SimSession:
    """One simulated session, and how its markets settle, which a recording does not tell."""

    events: Events
    settles_yes: np.ndarray  # bool[M], in the order of events.tickers
    shadows: list[ShadowOrder]  # by market and time of placement


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
    start_ms = EPOCH_MS + session * (config.seconds * 1000 + SESSION_GAP_MS)
    activity = _activity(rng, config.seconds)
    followers = _followers(config, session, plan)
    markets = [_simulate_market(rng, config, activity, follower) for follower in followers]

    market, (time_ms, kind, side, ticks, size) = _merge([np.array(changes, np.int64) for changes, _, _ in markets])
    trades = _merge([np.array(prints, np.int64).reshape(-1, 4) for _, prints, _ in markets])
    trade_market, (trade_ms, trade_ticks, trade_size, taker_side) = trades
    unit = round(config.tick * CENT)
    count = np.bincount(kind, minlength=3)
    report = Report(
        rows_read=int(count[Kind.CLEAR] + count[Kind.ADD]) + len(trade_ms),
        snapshots=int(count[Kind.CLEAR]),
        deltas=int(count[Kind.ADD]),
        trades=len(trade_ms),
        epochs=1,
    )
    events = Events(
        session_id=f"synthetic-{config.seed}-{session}",
        tickers=[f"SIM{market}-{config.seed}-{session}" for market in range(config.markets)],
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
        report=report,
        status="closed",
        environment="test",
        synthetic=True,
    )
    end_ms = start_ms + config.seconds * 1000
    for ticker, (_, _, yes) in zip(events.tickers, markets, strict=True):
        events.facts[ticker] = MarketFacts(close_ms=end_ms, result=DOLLAR if yes else 0)
    shadows = [order for follower in followers if follower for order in follower.orders]
    return SimSession(events, np.array([result for _, _, result in markets]), shadows)


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


# -- order flow


def _activity(rng: np.random.Generator, seconds: int) -> np.ndarray:
    """Draw the intensity of order flow at each step of a session: quiet, normal and burst regimes by turns, f64[T]."""
    steps = min(seconds * STEPS_PER_S, MAX_STEPS)
    regimes = 8 + 4 * seconds // round(REGIME_SECONDS.min())
    regime = np.cumsum(rng.integers(1, 3, regimes)) % 3  # never the same one twice in a row
    lengths = 1 + rng.exponential(REGIME_SECONDS[regime]) * steps / seconds
    return np.repeat(REGIME_INTENSITY[regime], lengths.astype(np.int64))[:steps]


def _followers(config: SimConfig, session: int, plan: ShadowPlan | None) -> list[ShadowFollower | None]:
    """Give each market a follower of shadow orders with a stream of random numbers of its own, or None without a plan."""
    if plan is None:
        return [None] * config.markets
    end_ms, unit = config.seconds * 1000, round(config.tick * CENT)
    streams = [np.random.default_rng([config.seed, session, 1 + market]) for market in range(config.markets)]
    return [ShadowFollower(plan, stream, market, end_ms, unit) for market, stream in enumerate(streams)]


def _simulate_market(
    rng: np.random.Generator, config: SimConfig, activity: np.ndarray, follower: ShadowFollower | None
) -> tuple[list[tuple[int, int, int, int, int]], list[tuple[int, int, int, int]], bool]:
    """Simulate the orders of one market.

    Returns:
        changes (ms, kind, side, ticks, contracts), trades (ms, YES ticks, contracts, taker side), and whether YES won.
    """
    end_ms, steps = config.seconds * 1000, len(activity)
    passed = np.concatenate([[0.0], np.cumsum(activity)])
    number = rng.poisson(config.rate * config.seconds)
    moment = np.interp(np.sort(rng.uniform(0.0, passed[-1], number)), passed, np.arange(steps + 1))
    fair = fair_values(rng, activity, np.concatenate([[0], moment.astype(np.int64), [steps]]))
    ticks = round(100 / config.tick)
    believed = _follow(fair, np.concatenate([[0.0], moment, [steps]]) * config.seconds / steps, config.stale)
    value = (believed / config.tick).tolist()

    flow = _OrderFlow(OrderBook(ticks), config.spread / 2 / config.tick, config.noise, rng, DEPTH + number)
    for _ in range(DEPTH):
        flow.quote(value[0])
    changes = [(0, int(Kind.CLEAR), 0, 0, 0)]
    changes += ((0, int(Kind.SET), side, p, n) for side in (YES, NO) for p, n in enumerate(flow.book.sizes[side]) if n)
    trades: list[tuple[int, int, int, int]] = []
    flow.book.changes.clear()
    times = np.clip(moment * end_ms / steps, 1, end_ms - 1).astype(np.int64).tolist()
    for ms, worth in zip(times, value[1:-1], strict=True):
        if follower:
            follower.place(flow.book, ms)
        flow.step(worth)
        if follower:
            follower.collect(flow.book, ms)
        changes += [(ms, int(Kind.ADD), *change) for change in flow.book.changes]
        for maker, taker_side, size in flow.book.fills:
            trades.append((ms, maker.price if maker.side == YES else ticks - maker.price, size, taker_side))
        flow.book.changes.clear()
        flow.book.fills.clear()
    if follower:
        follower.place(flow.book, end_ms)
    changes.append((end_ms, int(Kind.CLEAR), 0, 0, 0))
    return changes, trades, bool(fair[-1] > 50.0)


def _follow(fair: np.ndarray, at_s: np.ndarray, stale: float) -> np.ndarray:
    """Give what makers believe the fair value (f64[n], cents, at times f64[n], seconds) to be: itself, or behind it.

    A belief b follows the fair value f by db/dt = (f - b) / stale. Its slope tells how far it has still to go, and the books show
    that slope: whoever follows it buys below the fair value. With `stale` 0 the belief is the fair value, and nothing tells.
    """
    if stale == 0:
        return fair
    believed = fair.copy()
    for i, share in enumerate(-np.expm1(-np.diff(at_s) / stale), start=1):
        believed[i] = believed[i - 1] + share * (fair[i - 1] - believed[i - 1])
    return believed


class _OrderFlow:
    """Traders of one market: makers quote below the fair value, withdraw, and are picked off; noise takers cross."""

    def __init__(
        self, book: OrderBook, half_spread: float, noise: float, rng: np.random.Generator, number: int
    ) -> None:
        self.book = book
        self.half_spread = half_spread  # ticks
        self.noise = noise  # share of messages
        self.live: list[Order] = []
        self.draws = iter(rng.random((number, 4)).tolist())
        self.depths = iter((rng.exponential(4.0 * half_spread, number) * (rng.random(number) > 0.3)).tolist())

    def step(self, worth: float) -> None:
        """Let one message (and what it sets off in the same moment) reach the book; `worth` is YES in ticks."""
        book, live = self.book, self.live
        choice, which, amount, taken = next(self.draws)
        contracts = SIZES[int(amount * len(SIZES))]
        for side, value in ((YES, worth), (NO, book.ticks - worth)):
            while (order := book.first(side)) and order.price > value - STALE_EDGE * self.half_spread:
                if taken < INFORMED:  # someone was faster than the maker
                    book.limit(1 - side, book.ticks - order.price, min(contracts, order.remaining))
                    taken = 1.0
                else:
                    book.cancel(order)
        if choice < self.noise:
            book.market(int(which * 2), contracts)
        elif choice < self.noise + 0.45 * min(len(live) / DEPTH, 1.8):
            self._withdraw(which, amount)
        else:
            self.quote(worth, which, contracts)

    def quote(self, worth: float, which: float | None = None, contracts: int | None = None) -> None:
        """Rest a bid some way below the fair value of a side."""
        if which is None or contracts is None:
            _, which, amount, _ = next(self.draws)
            contracts = SIZES[int(amount * len(SIZES))]
        side = int(which * 2)
        value = worth if side == YES else self.book.ticks - worth
        price = int(value - self.half_spread - next(self.depths))
        if 0 < price < self.book.ticks - self.book.best[1 - side]:
            self.live.append(self.book.limit(side, price, contracts))

    def _withdraw(self, which: float, amount: float) -> None:
        """Cancel a random resting order, or now and then reduce it."""
        live = self.live
        while live:
            place = int(which * len(live))
            order = live[place]
            if order.remaining > 1 and amount < REDUCED:
                self.book.reduce(order, order.remaining // 2)
                return
            live[place] = live[-1]
            live.pop()
            if self.book.cancel(order):
                return


def _merge(tables: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Merge the rows of all markets by time, their first column: market i32[n] and the columns i64[columns, n]."""
    market = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    rows = np.concatenate(tables)
    order = np.argsort(rows[:, 0], kind="stable")
    return market[order], rows[order].T
