"""The traders of a simulated market: makers who quote, withdraw and are picked off, noise that crosses, one who knows more."""

from __future__ import annotations

from math import exp

import numpy as np

from kalshi_jax.tape import NO, YES
from loaders.matching import Order, OrderBook
from loaders.patterns import SHOWN
from loaders.sim_config import SimConfig

SIZES = (
    1,
    2,
    5,
    10,
    10,
    20,
    25,
    50,
    100,
    250,
)  # contracts of an order, equally likely; `SimConfig.size` multiplies them
STALE_EDGE = 0.25  # a bid is stale once it is closer to the fair value than this share of the half spread
REDUCED = 0.2  # share of withdrawals that only make an order smaller
BEST_LEVELS = 5  # above the deep bids that show a pattern
SHOWN_LEVELS = 3  # of such bids


class OrderFlow:
    """Traders of one market, and the orders they have in its book."""

    def __init__(self, config: SimConfig, rng: np.random.Generator, messages: int) -> None:
        """Draw what `messages` messages after the starting book need, consuming `rng`."""
        self.book = OrderBook(round(100 / config.tick))
        self.half_spread = config.spread / 2 / config.tick  # ticks
        self.noise = config.noise
        self.informed = config.informed
        self.resting = config.orders
        self.sizes = [max(1, round(size * config.size)) for size in SIZES]
        self.shown_size = SHOWN * config.size
        self.width = np.inf  # that makers last wanted
        self.live: list[Order] = []
        self.shown: list[Order] = []
        number = config.orders + messages
        reach = config.reach / config.tick or 4.0 * self.half_spread
        self.draws = iter(rng.random((number, 4)).tolist())
        self.depths = iter((rng.exponential(reach, number) * (rng.random(number) > 0.3)).tolist())

    def begin(self, worth: float, width: float) -> None:
        """Fill the book; arguments as of `step`."""
        for _ in range(self.resting):
            self._quote(worth, width * self.half_spread)

    def step(self, worth: float, width: float) -> None:
        """Let one message (and what it sets off in the same moment) reach the book.

        Args:
            worth: YES, in ticks, as makers believe.
            width: the spread that they want, as a multiple of the usual one.
        """
        book, live, half = self.book, self.live, width * self.half_spread
        choice, which, amount, taken = next(self.draws)
        if width > self.width:  # makers step back
            for side, value in ((YES, worth), (NO, book.ticks - worth)):
                while (order := book.first(side)) and order.price > value - half:
                    book.cancel(order)
        self.width = width
        contracts = self.sizes[int(amount * len(SIZES))]
        for side, value in ((YES, worth), (NO, book.ticks - worth)):
            while (order := book.first(side)) and order.price > value - STALE_EDGE * half:
                if taken < self.informed:  # someone was faster than the maker
                    book.limit(1 - side, book.ticks - order.price, min(contracts, order.remaining))
                    taken = 1.0
                else:
                    book.cancel(order)
        if choice < self.noise:
            book.market(int(which * 2), contracts)
        elif choice < self.noise + 0.45 * min(len(live) / self.resting, 1.8):
            self._withdraw(which, amount)
        else:
            self._quote(worth, half, which, contracts)

    def show(self, log_size: float) -> None:
        """Renew the bids that show a pattern: YES exp(log_size) times the usual size, NO as many times smaller."""
        for order in self.shown:
            self.book.cancel(order)
        self.shown.clear()
        self._show(YES, self.shown_size * exp(log_size))
        self._show(NO, self.shown_size * exp(-log_size))

    def _show(self, side: int, size: float) -> None:
        """Rest bids beyond the best levels of a side."""
        sizes, price, levels = self.book.sizes[side], self.book.best[side] + 1, 0
        while price > 1 and levels < BEST_LEVELS:
            price -= 1
            levels += sizes[price] > 0
        for below in range(max(price - SHOWN_LEVELS, 1), price):
            self.shown.append(self.book.limit(side, below, max(1, round(size))))

    def withdraw_all(self) -> None:
        """Take every order out of the book: its market closes."""
        for order in self.live + self.shown:
            self.book.cancel(order)

    def _quote(self, worth: float, half: float, which: float | None = None, contracts: int | None = None) -> None:
        """Rest a bid some way below the fair value of a side."""
        if which is None or contracts is None:
            _, which, amount, _ = next(self.draws)
            contracts = self.sizes[int(amount * len(SIZES))]
        side = int(which * 2)
        value = worth if side == YES else self.book.ticks - worth
        price = int(value - half - next(self.depths))
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
