"""A matching engine for one market: price-time priority between bids for YES and bids for NO.

A bid for YES at p and a bid for NO at 100 - p pay for the pair together, so they meet. Selling YES at p is bidding for
NO at 100 - p: bids are all there is, as in the book that the exchange publishes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from kalshi_jax.tape import NO, YES


@dataclass(slots=True)
class Order:
    """A resting bid."""

    side: int  # YES or NO
    price: int  # ticks
    remaining: int  # contracts; 0 once filled or cancelled
    arrival: int  # orders of the book that came before it


@dataclass(slots=True, eq=False)
class Shadow:
    """A virtual resting bid: it joins behind what rests at its level, nobody sees it, and it changes nothing.

    An incoming order that reaches its price and is not used up by the orders ahead of it would have met it. Every shadow is alone
    with the real orders, which go on as if it were not there: what it takes from an incoming order they get nevertheless.
    """

    side: int  # YES or NO
    price: int  # ticks
    remaining: int  # contracts; 0 once filled
    arrival: int  # orders of the book that came before it; at its own price these are ahead


class Change(NamedTuple):
    """A change of the size that rests at a level, and of one order in it."""

    order: int  # its arrival
    side: int
    price: int  # ticks
    size: int  # contracts, signed


class Fill(NamedTuple):
    """A trade with one resting order, at its price."""

    maker: Order
    taker_side: int  # what the taker bought
    size: int  # contracts


class ShadowFill(NamedTuple):
    """What an incoming order would have traded with a shadow, at the shadow's price."""

    shadow: Shadow
    size: int  # contracts
    beyond: int  # of these, contracts that did not come off the shadow's own level: they went further down, or found nothing


class OrderBook:
    """Resting bids of one market, and the changes and fills since they were last taken.

    Prices are ticks from 1 to `ticks - 1`, where `ticks` is a dollar. After every call the best bids of both sides add
    up to less than a dollar.
    """

    def __init__(self, ticks: int) -> None:
        self.ticks = ticks
        self.sizes = ([0] * (ticks + 1), [0] * (ticks + 1))  # contracts resting per side and price
        self.best = [0, 0]  # highest bid per side; 0: none
        self.changes: list[Change] = []
        self.fills: list[Fill] = []
        self.shadows: list[Shadow] = []  # those with something remaining; take one out to cancel it
        self.shadow_fills: list[ShadowFill] = []
        self._arrivals = 0
        self._queues: tuple[list[deque[Order]], ...] = tuple([deque() for _ in range(ticks)] for _ in (YES, NO))

    def limit(self, side: int, price: int, size: int) -> Order:
        """Bid for `side`: take what can be bought at `price` or less, rest with what is left.

        Args:
            side: YES or NO.
            price: ticks, 1 to ticks - 1.
            size: contracts, at least 1.

        Returns:
            The order; it rests if its `remaining` is above 0.

        Raises:
            ValueError: a price or size outside these bounds.
        """
        order = Order(side, price, self._take(side, price, size), self._arrivals)
        self._arrivals += 1
        if order.remaining:
            self._queues[side][price].append(order)
            self._change(order, order.remaining)
            self.best[side] = max(self.best[side], price)
        return order

    def market(self, side: int, size: int) -> int:
        """Buy `side` at any price, best first; return the contracts that were not to be had."""
        return self._take(side, self.ticks - 1, size)

    def cancel(self, order: Order) -> int:
        """Take a resting order out of the book; return its contracts, 0 if it no longer rests."""
        size, order.remaining = order.remaining, 0
        if size:
            self._change(order, -size)
            self._lower_best(order.side)
        return size

    def reduce(self, order: Order, size: int) -> None:
        """Decrease a resting order to `size` contracts; it keeps its place in the queue.

        Raises:
            ValueError: not a decrease to at least one contract (an increase would lose its place: cancel, bid again).
        """
        if not 0 < size <= order.remaining:
            raise ValueError(
                f"an order of {order.remaining} contracts cannot be reduced to {size}: expected 1..remaining"
            )
        self._change(order, size - order.remaining)
        order.remaining = size

    def follow(self, side: int, price: int, size: int) -> Shadow:
        """Let a shadow of `size` contracts join the queue at a level; its fills come into `shadow_fills`."""
        shadow = Shadow(side, price, size, self._arrivals)
        self.shadows.append(shadow)
        return shadow

    def first(self, side: int) -> Order | None:
        """Give the order that would trade next on a side."""
        queue = self._queues[side][self.best[side]]
        while queue and not queue[0].remaining:
            queue.popleft()
        return queue[0] if queue else None

    def ahead(self, order: Order) -> int:
        """Count the contracts that trade before a resting order at its own level."""
        queue = self._queues[order.side][order.price]
        return sum(other.remaining for other in takewhile(lambda other: other is not order, queue))

    def _take(self, side: int, price: int, size: int) -> int:
        if not 0 < price < self.ticks or size < 1:
            raise ValueError(
                f"no bid for {size} contracts at {price}: expected 1..{self.ticks - 1} ticks, 1 contract up"
            )
        other, arriving, earlier_fills = 1 - side, size, len(self.fills)
        while size and self.best[other] >= self.ticks - price:
            maker = self.first(other)
            assert maker is not None, "a level with a size has an order"
            traded = min(size, maker.remaining)
            maker.remaining -= traded
            size -= traded
            self.fills.append(Fill(maker, side, traded))
            self._change(maker, -traded)
            self._lower_best(other)
        if self.shadows:
            self._fill_shadows(side, price, arriving, self.fills[earlier_fills:])
        return size

    def _fill_shadows(self, side: int, price: int, size: int, fills: list[Fill]) -> None:
        """Give every shadow its part of an incoming order: what is left of it after its fills with orders ahead of the shadow."""
        for shadow in self.shadows:
            if shadow.side == side or shadow.price < self.ticks - price:
                continue
            ahead = behind = 0
            for maker, _, traded in fills:
                if maker.price == shadow.price and maker.arrival >= shadow.arrival:
                    behind += traded
                elif maker.price >= shadow.price:
                    ahead += traded
            if filled := min(size - ahead, shadow.remaining):
                shadow.remaining -= filled
                self.shadow_fills.append(ShadowFill(shadow, filled, max(filled - behind, 0)))
        self.shadows = [shadow for shadow in self.shadows if shadow.remaining]

    def _change(self, order: Order, size: int) -> None:
        self.sizes[order.side][order.price] += size
        self.changes.append(Change(order.arrival, order.side, order.price, size))

    def _lower_best(self, side: int) -> None:
        sizes, best = self.sizes[side], self.best[side]
        while best and not sizes[best]:
            self._queues[side][best].clear()  # only cancelled orders are left
            best -= 1
        self.best[side] = best
