"""Shadow orders: what resting orders of ours would really have filled in a simulated market, whose queues are known.

A recording tells sizes of levels, not who in the queue left; here the matching engine tells. `benchmarks/queue_models.py` holds
the environment's queue models against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from loaders.matching import OrderBook, Shadow


@dataclass(frozen=True)
class ShadowPlan:
    """Which shadow orders to follow: each joins the best bid of a side, at a moment and on a side drawn uniformly."""

    per_market: int = 25
    contracts: int = 10
    horizon_ms: int = 60_000  # how long each is followed; none is placed later than this before the session's end


@dataclass
class ShadowOrder:
    """A shadow order and its true fills within the horizon."""

    market: int  # of the session
    time_ms: int  # since the session's start: placed after everything that happened in this ms
    side: int  # YES or NO
    price: int  # 0.01 cent
    contracts: int
    ahead: int  # contracts that rested at its level when it joined
    # ms since the session's start, contracts, and of these `beyond` (see matching.ShadowFill)
    fills: list[tuple[int, int, int]] = field(default_factory=list)


class ShadowFollower:
    """Places the shadow orders of one market in its order book, and collects what they fill.

    The market tells it of every moment before (`place`) and after (`collect`) the messages of that moment. A side without a bid
    gets no shadow.
    """

    def __init__(self, plan: ShadowPlan, rng: np.random.Generator, market: int, end_ms: int, unit: int) -> None:
        """Draw moments and sides, consuming `rng`; `unit` is a tick in 0.01 cent."""
        if plan.horizon_ms >= end_ms:
            raise ValueError(
                f"shadow orders are followed for {plan.horizon_ms} ms: expected less than the session's {end_ms}"
            )
        self.orders: list[ShadowOrder] = []
        times = np.sort(rng.integers(0, end_ms - plan.horizon_ms, plan.per_market))
        self._due = list(zip(times.tolist(), rng.integers(0, 2, plan.per_market).tolist(), strict=True))[::-1]
        self._plan, self._market, self._unit = plan, market, unit
        self._followed: dict[Shadow, ShadowOrder] = {}

    def place(self, book: OrderBook, ms: int) -> None:
        """Let go of orders that are past their horizon, and place what was due, before `ms`, the time of the next message."""
        for shadow, order in list(self._followed.items()):
            if order.time_ms + self._plan.horizon_ms < ms or not shadow.remaining:
                del self._followed[shadow]
                book.shadows = [other for other in book.shadows if other is not shadow]
        while self._due and self._due[-1][0] < ms:
            time_ms, side = self._due.pop()
            if price := book.best[side]:
                contracts, ahead = self._plan.contracts, book.sizes[side][price]
                order = ShadowOrder(self._market, time_ms, side, price * self._unit, contracts, ahead)
                self.orders.append(order)
                self._followed[book.follow(side, price, contracts)] = order

    def collect(self, book: OrderBook, ms: int) -> None:
        """Note the fills that a message at `ms` brought."""
        for shadow, contracts, beyond in book.shadow_fills:
            self._followed[shadow].fills.append((ms, contracts, beyond))
        book.shadow_fills.clear()
