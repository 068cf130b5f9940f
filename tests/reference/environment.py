"""The step of RULES.md, read aloud in plain Python. Slow, exact, one episode at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.reference.books import DOLLAR, OPPOSITE, SIDES, Market, Shown, Side, best_price
from tests.reference.fees import Fill, charged
from tests.reference.ledger import Ledger, Position, portfolio_value, trade
from tests.reference.queues import off_the_front


@dataclass(frozen=True)
class Primitive:
    """One of the eight ways to trade a market."""

    verb: str  # BUY or SELL
    outcome: Side  # of which contract: yes or no
    when: str  # NOW or WAIT

    @property
    def direction(self) -> int:
        """+1 for BUY_YES and SELL_NO, -1 for SELL_YES and BUY_NO."""
        return 1 if (self.verb == "BUY") == (self.outcome == "yes") else -1

    @property
    def takes(self) -> Side:
        """The side whose bids a NOW order takes."""
        return "no" if self.direction > 0 else "yes"

    @property
    def rests(self) -> Side:
        """The side among whose bids a WAIT order rests."""
        return "yes" if self.direction > 0 else "no"


# BUY_YES_NOW, SELL_YES_NOW, BUY_NO_NOW, SELL_NO_NOW, BUY_YES_WAIT, SELL_YES_WAIT, BUY_NO_WAIT, SELL_NO_WAIT
PRIMITIVES = [
    Primitive(verb, outcome, when) for when in ("NOW", "WAIT") for outcome in SIDES for verb in ("BUY", "SELL")
]


@dataclass
class Order:
    """One resting order: a bid of this account."""

    primitive: Primitive
    price: int  # bid price on its side, 0.01 cent
    remaining: int  # contracts
    filled: int  # contracts
    front: int  # contracts displayed ahead of it in the queue


def yes_price(side: Side, bid: int) -> int:
    """The YES price of a fill at a bid of a side."""
    return bid if side == "yes" else DOLLAR - bid


@dataclass
class ReferenceEnv:
    """One episode after another of the environment. Money in 0.01 cent, times in ms since the session's first event."""

    decision_interval_ms: int = 0
    episode_length: int = 1000
    order_sizes: tuple[int, ...] = (10,)
    orders_per_market: int = 1
    hold_cancels: bool = True
    mark: str = "mid"  # mid or exit
    initial_cash: int = 10_000 * DOLLAR
    taker_rate: int = 700
    maker_rate: int = 0
    taker_flat: int = 0
    maker_flat: int = 0
    bound: int = 2_000_000_000
    queue_model: str = "risk_averse"
    queue_exponent: int = 2  # n of the power model

    def start(self, markets: Sequence[Market | None], start_ms: int) -> dict[str, Any]:
        """Begin an episode in these market slots (None: unused) at a time; returns what `step` returns."""
        self.markets = [market or Market("unused") for market in markets]  # an unused slot has no rows
        self.used = [slot for slot, market in enumerate(markets) if market is not None]
        self.slots = [(k, slot) for k in range(self.orders_per_market) for slot in range(len(markets))]  # booking order
        self.now = start_ms
        self.rows = [market.row_at(start_ms) for market in self.markets]
        self.ledger = Ledger(self.initial_cash, tuple(Position() for _ in markets))
        self.orders: dict[tuple[int, int], Order] = {}  # (order slot, market slot) -> the resting order
        self.taken: list[dict[tuple[Side, int], int]] = [{} for _ in markets]  # contracts taken since the level changed
        self.steps = 0
        self.value = self.initial_cash
        self.trades = self.taker_contracts = self.maker_contracts = self.refused = 0
        return self.report(0.0)

    def step(self, actions: list[list[int]]) -> dict[str, Any]:
        """Take one step with actions[market slot][order slot]; returns the account, the orders and what happened."""
        intents = {(k, slot): self.decode(slot, actions[slot][k]) for k, slot in self.slots}
        self.trades = self.taker_contracts = self.maker_contracts = self.refused = 0
        value_before = self.value
        self.cancel(intents)
        self.place(intents)
        self.advance()
        self.steps += 1
        self.value = portfolio_value(self.ledger, [self.mark_of(slot) for slot in range(len(self.markets))])
        earned = 0.01 * (self.value - value_before) / DOLLAR - 0.001 * max(0, self.trades - 5)
        return self.report(min(max(earned, -2.0), 2.0))

    def decode(self, slot: int, action: int) -> tuple[Primitive, int] | None:
        """The primitive and size that an action number stands for; None is HOLD."""
        if slot not in self.used or not 1 <= action <= 8 * len(self.order_sizes):
            return None
        size, primitive = divmod(action - 1, 8)
        return PRIMITIVES[primitive], self.order_sizes[size]

    # -- 1. cancel

    def cancel(self, intents: dict[tuple[int, int], tuple[Primitive, int] | None]) -> None:
        """Cancel every resting order that its slot's action does not re-affirm."""
        for at, order in list(self.orders.items()):
            intent = intents[at]
            if intent is None:  # HOLD
                if self.hold_cancels:
                    del self.orders[at]
                continue
            primitive, size = intent
            same = primitive == order.primitive and self.best_bid(at[1], primitive.rests) == order.price
            if same and size <= order.filled + order.remaining:
                order.remaining = min(order.remaining, size)
            else:
                del self.orders[at]

    # -- 2. new orders

    def place(self, intents: dict[tuple[int, int], tuple[Primitive, int] | None]) -> None:
        """Carry out the new orders, order slot 0 of all markets first."""
        for at in self.slots:
            intent = intents[at]
            if intent is None or at in self.orders:
                continue
            primitive, size = intent
            n = size if primitive.verb == "BUY" else min(size, self.holding(at[1], primitive.outcome))
            if n > 0 and primitive.when == "NOW":
                self.take(at[1], primitive, n)
            elif n > 0:
                self.join(at, primitive, n)

    def take(self, slot: int, primitive: Primitive, n: int) -> None:
        """NOW: walk the displayed levels for up to n contracts; all fills are one trade."""
        side = primitive.takes
        took: dict[tuple[Side, int], int] = {}
        fills: list[Fill] = []
        for price, size in self.shown(slot, side):
            count = min(n, max(0, size - self.taken[slot].get((side, price), 0)))
            if count > 0:
                took[side, price] = count
                fills.append((count, yes_price(side, price)))
                n -= count
        if not fills:
            return
        fee = charged(fills, self.taker_rate, self.taker_flat)
        after = trade(self.ledger, slot, primitive.direction, fills, fee)
        over_bound = after.cash + DOLLAR * (after.contracts + self.resting_buys()) > self.bound
        if after.cash < self.reserved() or (primitive.verb == "BUY" and over_bound):
            self.refused += 1
            return
        self.ledger = after
        for level, count in took.items():
            self.taken[slot][level] = self.taken[slot].get(level, 0) + count
        self.trades += 1
        self.taker_contracts += sum(took.values())

    def join(self, at: tuple[int, int], primitive: Primitive, n: int) -> None:
        """WAIT: rest n contracts at the best bid, behind what is displayed there."""
        levels = self.shown(at[1], primitive.rests)
        if not levels:
            self.refused += 1
            return
        price, front = levels[0]
        order = Order(primitive, price, remaining=n, filled=0, front=front)
        over_bound = self.ledger.cash + DOLLAR * (self.ledger.contracts + self.resting_buys() + n) > self.bound
        if self.free_cash() < self.reserve(order) or (primitive.verb == "BUY" and over_bound):
            self.refused += 1
            return
        self.orders[at] = order

    # -- 3. time

    def advance(self) -> None:
        """Move time on; resting orders meet every row on the way; what they got is booked in slot order."""
        self.now = self.next_time()
        passed = [range(0)] * len(self.markets)
        for slot in self.used:
            row = self.markets[slot].row_at(self.now)
            passed[slot] = range(self.rows[slot] + 1, row + 1)
            self.rows[slot] = row
            self.forget_taken(slot, passed[slot])
        self.got: dict[
            tuple[int, int, Side, int], int
        ] = {}  # (market slot, row, level) -> contracts its trades gave us
        wanted = {at: self.meet(at, passed[at[1]]) for at in self.slots if at in self.orders}
        for at, n in wanted.items():
            if n > 0:
                self.fill(at, n)

    def next_time(self) -> int:
        """Now + the decision interval, or the earliest next row of any market, or now if there is none."""
        if self.decision_interval_ms > 0:
            return self.now + self.decision_interval_ms
        nexts = [(self.markets[slot].times, self.rows[slot] + 1) for slot in self.used]
        return min((times[row] for times, row in nexts if row < len(times)), default=self.now)

    def forget_taken(self, slot: int, passed: range) -> None:
        """What was taken from a level is forgotten when the level changes."""
        for row in passed if self.taken[slot] else ():
            for level in self.markets[slot].changes[row]:
                self.taken[slot].pop(level, None)

    def meet(self, at: tuple[int, int], passed: range) -> int:
        """Lead one resting order through rows of its market; returns the contracts that fill."""
        order, market = self.orders[at], self.markets[at[1]]
        side = order.primitive.rests
        got = 0
        for row in passed:
            if best_price(market.book(row)[OPPOSITE[side]]) >= DOLLAR - order.price:
                return order.remaining
            if (side, order.price) in market.changes[row]:
                got += self.queue(at, row, order.remaining - got)
        return got

    def queue(self, at: tuple[int, int], row: int, remaining: int) -> int:
        """Move an order's queue on by one change of its level; returns the contracts that trades fill."""
        order, market = self.orders[at], self.markets[at[1]]
        level = (order.primitive.rests, order.price)
        before, after = market.before[row][level] // 100, market.changes[row][level] // 100
        traded = min(market.traded[row].get(level, 0) // 100, max(before - after, 0))
        earlier = self.got.get((at[1], row, *level), 0)  # what orders in earlier slots got of these trades
        fill = max(0, min(max(traded - order.front, 0) - earlier, remaining))
        self.got[at[1], row, *level] = earlier + fill
        front = max(order.front - traded, 0)
        back = max(before - traded - front, 0)
        rest = max(before - traded - after, 0)
        front -= off_the_front(self.queue_model, front, back, rest, self.queue_exponent)
        order.front = min(max(front, 0), after)
        return fill

    def fill(self, at: tuple[int, int], wanted: int) -> None:
        """Fill a resting order at its price; of a SELL at most what is held, and if that is less, the rest is cancelled."""
        order = self.orders[at]
        primitive, slot = order.primitive, at[1]
        held = self.holding(slot, primitive.outcome)
        n = wanted if primitive.verb == "BUY" else min(wanted, held)
        if n < wanted or n == order.remaining:
            del self.orders[at]
        if n == 0:
            return
        fee = self.maker_fee(order, order.filled + n) - self.maker_fee(order, order.filled)
        fills = [(n, yes_price(primitive.rests, order.price))]
        order.remaining, order.filled = order.remaining - n, order.filled + n
        self.ledger = trade(self.ledger, slot, primitive.direction, fills, fee)
        self.trades += 1
        self.maker_contracts += n

    # -- money

    def maker_fee(self, order: Order, n: int) -> int:
        """F(n): the whole maker fee of n contracts at the order's price."""
        return charged([(n, yes_price(order.primitive.rests, order.price))], self.maker_rate, self.maker_flat)

    def reserve(self, order: Order) -> int:
        """Cash that an order keeps reserved."""
        price = order.remaining * order.price if order.primitive.verb == "BUY" else 0
        return price + self.maker_fee(order, order.filled + order.remaining) - self.maker_fee(order, order.filled)

    def reserved(self) -> int:
        return sum(self.reserve(order) for order in self.orders.values())

    def free_cash(self) -> int:
        return self.ledger.cash - self.reserved()

    def resting_buys(self) -> int:
        """Contracts of all resting BUY orders."""
        return sum(order.remaining for order in self.orders.values() if order.primitive.verb == "BUY")

    def holding(self, slot: int, outcome: Side) -> int:
        """Contracts held of an outcome: max(q, 0) of YES, max(-q, 0) of NO."""
        q = self.ledger.positions[slot].contracts
        return max(q, 0) if outcome == "yes" else max(-q, 0)

    # -- what is seen

    def shown(self, slot: int, side: Side) -> Shown:
        """The displayed bids of a side now."""
        return self.markets[slot].book(self.rows[slot])[side]

    def best_bid(self, slot: int, side: Side) -> int:
        return best_price(self.shown(slot, side))

    def mark_of(self, slot: int) -> int:
        """The YES price at which a market's position is valued."""
        bid, ask = self.markets[slot].bid_and_ask(self.rows[slot])
        if self.mark == "mid":
            return (bid + ask) // 2
        return bid if self.ledger.positions[slot].contracts >= 0 else ask

    def legal_actions(self) -> list[list[bool]]:
        """Which action numbers are legal per market slot; the same for every order slot."""
        free = self.free_cash()
        return [self.legal_in(slot, free) for slot in range(len(self.markets))]

    def legal_in(self, slot: int, free: int) -> list[bool]:
        """HOLD, then every size of every primitive, given the free cash."""
        legal = [True]
        for size in self.order_sizes:
            for primitive in PRIMITIVES:
                side = primitive.takes if primitive.when == "NOW" else primitive.rests
                if not self.shown(slot, side):
                    legal.append(False)
                elif primitive.verb == "SELL":
                    legal.append(self.holding(slot, primitive.outcome) > 0)
                else:
                    bid = self.best_bid(slot, side)
                    pays = DOLLAR - bid if primitive.when == "NOW" else bid
                    legal.append(free >= size * pays)
        return legal

    def report(self, reward: float) -> dict[str, Any]:
        """Everything that the environment shows of itself after a step."""
        last_rows = [self.markets[slot].times[-1] for slot in self.used]
        return {
            "now_ms": self.now,
            "rows": list(self.rows),
            "cash": self.ledger.cash,
            "positions": [position.contracts for position in self.ledger.positions],
            "cost_basis": [position.cost_basis for position in self.ledger.positions],
            "realized_pnl": [position.realized_pnl for position in self.ledger.positions],
            "fees_paid": [position.fees_paid for position in self.ledger.positions],
            "value": self.value,
            "orders": [
                [self.describe(self.orders.get((k, slot))) for k in range(self.orders_per_market)]
                for slot in range(len(self.markets))
            ],
            "trades": self.trades,
            "taker_contracts": self.taker_contracts,
            "maker_contracts": self.maker_contracts,
            "refused": self.refused,
            "reward": reward,
            "terminated": self.value <= 0,
            "truncated": self.steps >= self.episode_length or self.now >= max(last_rows, default=self.now),
        }

    def describe(self, order: Order | None) -> dict[str, Any] | None:
        """One resting order as data."""
        if order is None:
            return None
        return {
            "side": order.primitive.rests,
            "price": order.price,
            "remaining": order.remaining,
            "filled": order.filled,
            "front": order.front,
        }
