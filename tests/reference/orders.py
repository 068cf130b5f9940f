"""Orders of the oracle: the eight ways to trade a market, orders on their way, and orders that rest."""

from __future__ import annotations

from dataclasses import dataclass

from tests.reference.books import DOLLAR, SIDES, Side


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


Place = tuple[int, int]  # (order slot, market slot)
Intent = tuple[Primitive, int] | None  # the primitive and size that an action stands for; None is HOLD


@dataclass(frozen=True)
class Sent:
    """A new order on its way to the exchange."""

    at: Place
    primitive: Primitive
    size: int  # contracts
    limit: int  # bid price: of a NOW the worst one that it takes, of a WAIT its own


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
