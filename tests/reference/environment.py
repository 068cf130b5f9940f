"""The step of RULES.md, read aloud in plain Python. Slow, exact, one episode at a time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.reference.books import DOLLAR, HUNDREDTHS, OPPOSITE, VOID, Level, Market, Shown, Side, best_price
from tests.reference.fees import Fill, charged
from tests.reference.ledger import Ledger, Position, neg, pay_out, portfolio_value, trade
from tests.reference.orders import PRIMITIVES, Intent, Order, Place, Primitive, Sent, yes_price
from tests.reference.queues import off_the_front


@dataclass
class ReferenceEnv:
    """One episode after another of the environment. Money in 0.01 cent, times in ms since the session's first event."""

    decision_interval_ms: int = 0
    latency_ms: int = 0  # until what is decided reaches the exchange; at most the decision interval if there is one
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
    certain_fill: str = "whole"  # or "displayed": how much of an order fills when it is reached
    remembered_levels: int = (
        4  # of a market, taken from and not changed since; and how many best levels an order looks at
    )

    def start(self, markets: Sequence[Market | None], start_ms: int) -> dict[str, Any]:
        """Begin an episode in these market slots (None: unused) at a time; returns what `step` returns."""
        self.markets = [market or Market("unused") for market in markets]  # an unused slot has no rows
        self.used = [slot for slot, market in enumerate(markets) if market is not None]
        self.slots = [(k, slot) for k in range(self.orders_per_market) for slot in range(len(markets))]  # booking order
        self.now = start_ms
        self.end = max((self.markets[slot].times[-1] for slot in self.used), default=start_ms)
        self.rows = [market.row_at(start_ms) for market in self.markets]
        self.ledger = Ledger(self.initial_cash, tuple(Position() for _ in markets))
        self.orders: dict[Place, Order] = {}  # the resting orders
        # per market: (side, price, row of the level's last change) -> contracts taken since
        self.taken: list[dict[tuple[Side, int, int], int]] = [{} for _ in markets]
        self.steps = 0
        self.value = self.initial_cash
        self.trades = self.taker_contracts = self.maker_contracts = self.refused = 0
        return self.report(0.0)

    def step(self, actions: list[list[int]]) -> dict[str, Any]:
        """Take one step with actions[market slot][order slot]; returns the account, the orders and what happened."""
        self.trades = self.taker_contracts = self.maker_contracts = self.refused = 0
        intents = {(k, slot): self.decode(slot, actions[slot][k]) for k, slot in self.slots}
        value_before = self.value
        if self.latency_ms > 0:
            self.decide_and_wait(intents)
        else:
            staying = self.staying(intents)
            self.cancel(staying)
            self.place(intents, staying)
            self.advance(self.next_time(self.now + 1))
        self.settle()
        self.steps += 1
        self.value = portfolio_value(self.ledger, [self.mark_of(slot) for slot in range(len(self.markets))])
        earned = 0.01 * (self.value - value_before) / DOLLAR - 0.001 * max(0, self.trades - 5)
        return self.report(min(max(earned, -2.0), 2.0))

    def decode(self, slot: int, action: int) -> Intent:
        """What an action number stands for; an order to a closed market is refused."""
        if slot not in self.used or not 1 <= action <= 8 * len(self.order_sizes):
            return None
        if self.is_closed(slot):
            self.refused += 1
            return None
        size, primitive = divmod(action - 1, 8)
        return PRIMITIVES[primitive], self.order_sizes[size]

    # -- 1. cancel

    def staying(self, intents: dict[Place, Intent]) -> dict[Place, int]:
        """Which resting orders their slots' actions re-affirm, and with how many contracts."""
        staying = {}
        for at, order in self.orders.items():
            intent = intents[at]
            if intent is None:  # HOLD
                if not self.hold_cancels:
                    staying[at] = order.remaining
                continue
            primitive, size = intent
            same = primitive == order.primitive and self.best_bid(at[1], primitive.rests) == order.price
            if same and size <= order.filled + order.remaining:
                staying[at] = min(order.remaining, size)
        return staying

    def cancel(self, staying: dict[Place, int]) -> None:
        """Cut the orders that stay to their contracts and cancel all others."""
        self.orders = {at: order for at, order in self.orders.items() if at in staying}
        for at, order in self.orders.items():
            order.remaining = min(order.remaining, staying[at])

    # -- 2. new orders

    def place(self, intents: dict[Place, Intent], staying: dict[Place, int]) -> None:
        """Carry out the new orders, order slot 0 of all markets first."""
        for at in self.slots:
            intent = intents[at]
            if intent is None or at in staying:
                continue
            primitive, size = intent
            n = self.allowed(at[1], primitive, size)
            if n > 0 and primitive.when == "NOW":
                self.take(at[1], primitive, n)
            elif n > 0 and self.shown(at[1], primitive.rests):
                self.join(at, primitive, n, self.best_bid(at[1], primitive.rests))

    def allowed(self, slot: int, primitive: Primitive, size: int) -> int:
        """Contracts that an order of this size may trade: of a SELL no more than are held."""
        return size if primitive.verb == "BUY" else min(size, self.holding(slot, primitive.outcome))

    def walk(self, slot: int, row: int, side: Side, n: int, limit: int = 0) -> dict[int, int]:
        """Which of the bids that a row shows on a side n contracts take, best first: price -> contracts; none below the limit."""
        memory = self.in_force(slot, row)
        room = self.remembered_levels - len(memory)
        found: dict[int, int] = {}
        for price, size in self.markets[slot].book(row)[side][: self.remembered_levels]:
            level = (side, price, self.markets[slot].last_change(row, (side, price)))
            count = min(n, max(0, size - memory.get(level, 0)))
            if count > 0 and price >= limit:
                room -= level not in memory
                if room < 0:
                    break
                found[price] = count
                n -= count
        return found

    def in_force(self, slot: int, row: int) -> dict[tuple[Side, int, int], int]:
        """What was taken of levels that have not changed up to a row: (side, price, row of its last change) -> contracts."""
        market = self.markets[slot]
        return {at: n for at, n in self.taken[slot].items() if market.last_change(row, at[:2]) <= at[2]}

    def remember(self, slot: int, row: int, side: Side, found: dict[int, int]) -> None:
        """Remember what was taken of the bids that a row shows."""
        self.taken[slot] = self.in_force(slot, row)
        for price, count in found.items():
            level = (side, price, self.markets[slot].last_change(row, (side, price)))
            self.taken[slot][level] = self.taken[slot].get(level, 0) + count

    def take(self, slot: int, primitive: Primitive, n: int, limit: int = 0) -> None:
        """NOW: walk the displayed levels, no further than the limit, for up to n contracts; all fills are one trade."""
        side = primitive.takes
        found = self.walk(slot, self.rows[slot], side, n, limit)
        if not found:
            return
        fills: list[Fill] = [(count, yes_price(side, price)) for price, count in found.items()]
        fee = charged(fills, self.taker_rate, self.taker_flat)
        after = trade(self.ledger, slot, primitive.direction, fills, fee)
        over_bound = after.cash + DOLLAR * (after.contracts + self.resting_buys()) > self.bound
        if after.cash < self.reserved() or (primitive.verb == "BUY" and over_bound):
            self.refused += 1
            return
        self.ledger = after
        self.remember(slot, self.rows[slot], side, found)
        self.trades += 1
        self.taker_contracts += sum(found.values())

    def join(self, at: Place, primitive: Primitive, n: int, price: int) -> None:
        """WAIT: rest n contracts at a price, behind the whole contracts that rest there."""
        front = self.markets[at[1]].size(self.rows[at[1]], (primitive.rests, price)) // HUNDREDTHS
        order = Order(primitive, price, remaining=n, filled=0, front=front)
        over_bound = self.ledger.cash + DOLLAR * (self.ledger.contracts + self.resting_buys() + n) > self.bound
        if self.free_cash() < self.reserve(order) or (primitive.verb == "BUY" and over_bound):
            self.refused += 1
            return
        self.orders[at] = order

    # -- 3. time

    def advance(self, time: int) -> None:
        """Move time on; resting orders meet every row on the way; what they got is booked in slot order."""
        self.now = time
        passed = [range(0)] * len(self.markets)
        for slot in self.used:
            row = self.markets[slot].row_at(self.now)
            passed[slot] = range(self.rows[slot] + 1, row + 1)
            self.rows[slot] = row
        self.got: dict[
            tuple[int, int, Side, int], int
        ] = {}  # (market slot, row, level) -> contracts its trades gave us
        met = {at: self.meet(at, passed[at[1]]) for at in self.slots if at in self.orders}
        for at, (got, reached) in met.items():
            if got > 0 or reached is not None:
                self.fill(at, got, reached)
        self.restarted = {slot for slot in self.used if any(self.markets[slot].restarts[row] for row in passed[slot])}
        self.orders = {at: order for at, order in self.orders.items() if at[1] not in self.restarted}

    def next_time(self, earliest: int) -> int:
        """Now + the decision interval, or the first row of any market from `earliest` on, or the end if there is none."""
        if self.decision_interval_ms > 0:
            return self.now + self.decision_interval_ms
        nexts = [(self.markets[slot].times, bisect_left(self.markets[slot].times, earliest)) for slot in self.used]
        return min((times[row] for times, row in nexts if row < len(times)), default=max(self.now, self.end))

    def meet(self, at: Place, passed: range) -> tuple[int, int | None]:
        """Lead one resting order through rows of its market, up to a restart or the row that reaches it.

        Returns:
            The contracts that trades fill, and the row that reaches it.
        """
        order, market = self.orders[at], self.markets[at[1]]
        side = order.primitive.rests
        got, met, reached = 0, [], None
        for row in passed:
            if market.restarts[row]:
                break
            met.append(row)
            if (side, order.price) in market.changes[row]:
                got += self.queue(at, row, order.remaining - got)
            if best_price(market.book(row)[OPPOSITE[side]]) >= DOLLAR - order.price:
                order.front = 0
                reached = row
                break
        for row in met:
            if market.traded[row]:
                got += self.through(at, row, order.remaining - got)
        return got, reached

    def through(self, at: Place, row: int, remaining: int) -> int:
        """What a row's trades at worse bids than the order's give it, best first."""
        order, market = self.orders[at], self.markets[at[1]]
        side = order.primitive.rests
        own = {o.price for (_, slot), o in self.orders.items() if slot == at[1] and o.primitive.rests == side}
        fill = 0
        for price in sorted((price for s, price in market.traded[row] if s == side), reverse=True):
            if price < order.price and price not in own:
                earlier = self.got.get((at[1], row, side, price), 0)
                part = max(0, min(self.traded(at[1], row, (side, price)) - earlier, remaining - fill))
                self.got[at[1], row, side, price] = earlier + part
                fill += part
        return fill

    def traded(self, slot: int, row: int, level: Level) -> int:
        """Whole contracts of a level's decrease in a row that prints explain."""
        market = self.markets[slot]
        before, after = market.before[row][level] // HUNDREDTHS, market.changes[row][level] // HUNDREDTHS
        return min(market.traded[row].get(level, 0) // HUNDREDTHS, max(before - after, 0))

    def queue(self, at: Place, row: int, remaining: int) -> int:
        """Move an order's queue on by one change of its level; returns the contracts that trades fill."""
        order, market = self.orders[at], self.markets[at[1]]
        level = (order.primitive.rests, order.price)
        before, after = market.before[row][level] // HUNDREDTHS, market.changes[row][level] // HUNDREDTHS
        traded = self.traded(at[1], row, level)
        earlier = self.got.get((at[1], row, *level), 0)  # what orders in earlier slots got of these trades
        fill = max(0, min(max(traded - order.front, 0) - earlier, remaining))
        self.got[at[1], row, *level] = earlier + fill
        front = max(order.front - traded, 0)
        back = max(before - traded - front, 0)
        rest = max(before - traded - after, 0)
        front -= off_the_front(self.queue_model, front, back, rest, self.queue_exponent)
        order.front = min(max(front, 0), after)
        return fill

    def fill(self, at: Place, got: int, reached: int | None) -> None:
        """Fill a resting order at its price, of a SELL at most what is held: by trades, then by what comes to it.

        A SELL that more would fill than is held has its rest cancelled.
        """
        order = self.orders[at]
        primitive, slot = order.primitive, at[1]
        wanted = got if reached is None else order.remaining
        most = wanted if primitive.verb == "BUY" else min(wanted, self.holding(slot, primitive.outcome))
        n = min(got, most)
        if reached is not None and self.certain_fill == "whole":
            n = most
        elif reached is not None and n < most:
            found = self.walk(slot, reached, OPPOSITE[primitive.rests], most - n, DOLLAR - order.price)
            self.remember(slot, reached, OPPOSITE[primitive.rests], found)
            n += sum(found.values())
        if most < wanted or n == order.remaining:
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

    # -- latency: 1. to 3. when what is decided takes time to arrive

    def decide_and_wait(self, intents: dict[Place, Intent]) -> None:
        """Steps 1 to 3 with latency: decide now, let what was sent arrive later, and move on; orders meet all rows."""
        arrival = self.now + self.latency_ms
        next_time = self.next_time(arrival)
        staying = self.staying(intents)
        sent = self.send(intents, staying)
        self.advance(min(arrival, next_time))
        if arrival <= self.end:
            self.cancel(staying)
        for new in sent:
            if arrival <= self.end and new.at[1] not in self.restarted:
                self.arrive(new)
            else:
                self.refused += 1
        self.advance(next_time)

    def send(self, intents: dict[Place, Intent], staying: dict[Place, int]) -> list[Sent]:
        """The new orders that are sent, order slot 0 of all markets first."""
        sent = []
        for at in self.slots:
            intent = intents[at]
            if intent is None or at in staying:
                continue
            primitive, size = intent
            n = self.allowed(at[1], primitive, size)
            if primitive.when == "NOW":
                limit = min(self.walk(at[1], self.rows[at[1]], primitive.takes, n), default=0)
            else:
                limit = self.best_bid(at[1], primitive.rests)
            if n > 0 and limit > 0:
                sent.append(Sent(at, primitive, n, limit))
        return sent

    def arrive(self, new: Sent) -> None:
        """Carry out a new order on the book that it finds; one that waits is refused if it would trade at once."""
        slot, primitive = new.at[1], new.primitive
        n = self.allowed(slot, primitive, new.size)
        if n > 0 and primitive.when == "NOW":
            self.take(slot, primitive, n, new.limit)
        elif n > 0 and self.best_bid(slot, OPPOSITE[primitive.rests]) >= DOLLAR - new.limit:
            self.refused += 1
        elif n > 0:
            self.join(new.at, primitive, n, new.limit)

    # -- 4. settlement

    def settle(self) -> None:
        """Pay out what is held of settled markets."""
        for slot in self.used:
            position, result = self.ledger.positions[slot], self.markets[slot].result
            if self.is_settled(slot) and position.contracts != 0:
                worth = DOLLAR * neg(position.contracts) + position.contracts * result
                self.ledger = pay_out(self.ledger, slot, position.cost_basis if result == VOID else worth)

    def is_closed(self, slot: int) -> bool:
        return self.markets[slot].closed(self.rows[slot])

    def is_settled(self, slot: int) -> bool:
        return self.markets[slot].settled(self.rows[slot])

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
        all_settled = bool(self.used) and all(self.is_settled(slot) for slot in self.used)
        terminated = self.value <= 0 or all_settled
        return {
            "now_ms": self.now,
            "rows": list(self.rows),
            "cash": self.ledger.cash,
            "positions": [position.contracts for position in self.ledger.positions],
            "cost_basis": [position.cost_basis for position in self.ledger.positions],
            "realized_pnl": [position.realized_pnl for position in self.ledger.positions],
            "fees_paid": [position.fees_paid for position in self.ledger.positions],
            "value": self.value,
            "closed": [self.is_closed(slot) for slot in range(len(self.markets))],
            "settled": [self.is_settled(slot) for slot in range(len(self.markets))],
            "orders": [
                [self.describe(self.orders.get((k, slot))) for k in range(self.orders_per_market)]
                for slot in range(len(self.markets))
            ],
            "trades": self.trades,
            "taker_contracts": self.taker_contracts,
            "maker_contracts": self.maker_contracts,
            "refused": self.refused,
            "reward": reward,
            "terminated": terminated,
            "truncated": not terminated and (self.steps >= self.episode_length or self.now >= self.end),
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
