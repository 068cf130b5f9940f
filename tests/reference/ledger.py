"""The ledger: cash and positions, and what one trade does to them. Money in integers of 0.01 cent."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.reference.fees import Fill

DOLLAR = 10_000


@dataclass(frozen=True)
class Position:
    """What is held of one market."""

    contracts: int = 0  # q: +YES, -NO
    cost_basis: int = 0  # K
    realized_pnl: int = 0  # R, before fees
    fees_paid: int = 0


@dataclass(frozen=True)
class Ledger:
    """An account over the market slots of an episode."""

    cash: int  # c
    positions: tuple[Position, ...]

    @property
    def contracts(self) -> int:
        """Contracts held over all markets, of either side."""
        return sum(abs(position.contracts) for position in self.positions)


def neg(q: int) -> int:
    return max(-q, 0)


def trade(ledger: Ledger, slot: int, direction: int, fills: list[Fill], fee: int) -> Ledger:
    """Book one order's fills of one step.

    Args:
        ledger: the account before.
        slot: the market slot.
        direction: +1 buys YES or sells NO, -1 sells YES or buys NO.
        fills: (contracts, YES price) in the order they happened.
        fee: 0.01 cent.
    """
    old = ledger.positions[slot]
    q, cash, cost, realized = old.contracts, ledger.cash, old.cost_basis, old.realized_pnl

    n = sum(contracts for contracts, _ in fills)
    close = min(n, abs(q)) if direction * q < 0 else 0
    each_price = [price for contracts, price in fills for _ in range(contracts)]  # one entry a contract
    paid_close, paid_open = sum(each_price[:close]), sum(each_price[close:])
    opened = n - close

    q_after = q + direction * n
    cash_after = cash - direction * (paid_close + paid_open) - DOLLAR * (neg(q_after) - neg(q)) - fee
    cost_closed = cost * close // abs(q) if close else 0
    cost_opened = paid_open if direction > 0 else DOLLAR * opened - paid_open
    earned = paid_close if q > 0 else DOLLAR * close - paid_close

    new = Position(q_after, cost - cost_closed + cost_opened, realized + earned - cost_closed, old.fees_paid + fee)
    positions = (*ledger.positions[:slot], new, *ledger.positions[slot + 1 :])
    return replace(ledger, cash=cash_after, positions=positions)


def pay_out(ledger: Ledger, slot: int, proceeds: int) -> Ledger:
    """Settle a whole holding for these proceeds, without a fee."""
    old = ledger.positions[slot]
    new = Position(0, 0, old.realized_pnl + proceeds - old.cost_basis, old.fees_paid)
    positions = (*ledger.positions[:slot], new, *ledger.positions[slot + 1 :])
    return replace(ledger, cash=ledger.cash + proceeds, positions=positions)


def portfolio_value(ledger: Ledger, marks: list[int]) -> int:
    """Cash, a dollar for every NO contract, and every signed contract at its market's YES mark."""
    held = zip(ledger.positions, marks, strict=True)
    return ledger.cash + sum(DOLLAR * neg(p.contracts) + p.contracts * mark for p, mark in held)
