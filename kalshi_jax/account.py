"""The ledger that trains, following a live account: fills, position reports and position messages of the exchange.

The ledger's unit of 0.01 cent is the exchange's centi-cent, 1/10,000 dollar. All functions run on the host, return a new ledger,
and refuse what does not fit exactly, leaving the ledger they were given as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kalshi_jax.fees import MAX_CONTRACTS
from kalshi_jax.ledger import MAX_WEALTH, Ledger, Trade, book_trades
from kalshi_jax.tape import CENT, DOLLAR

INT32 = 2**31 - 1
FIXED_POINT = re.compile(r"-?[0-9]{1,15}(\.[0-9]{1,15})?")
FIELDS = ("position", "cost_basis", "realized_pnl", "fees_paid")  # of the ledger, per market

_book_trades = jax.jit(book_trades)


# -- fills


def update_from_fill(
    ledger: Ledger, slot: int, side: str, action: str, contracts: int, price: int, fee: int = 0
) -> Ledger:
    """Book one fill of the live account, by the very `book_trades` that trains.

    Args:
        ledger: the account before.
        slot: market slot, 0 .. M - 1.
        side: "yes" or "no", the contract traded.
        action: "buy" or "sell"; selling more than is held opens the other side, as it does on the exchange.
        contracts: whole contracts, 1 to 200,000.
        price: of that side, 1 to 9,999 in 0.01 cent.
        fee: 0.01 cent.

    Raises:
        ValueError: an argument outside its range, or a fill that would carry cash below zero, the account past the ledger's
            bound (`MAX_WEALTH`) or a field past int32. Nothing wraps around.
    """
    _require(side in ("yes", "no"), f"slot {slot}: side={side!r}: expected 'yes' or 'no'")
    _require(action in ("buy", "sell"), f"slot {slot}: action={action!r}: expected 'buy' or 'sell'")
    position = _columns(ledger)["position"]
    _in_range(f"slot={slot!r}", slot, 0, len(position) - 1)
    _in_range(f"slot {slot}: contracts={contracts!r}", contracts, 1, MAX_CONTRACTS)
    _in_range(f"slot {slot}: price={price!r}", price, 1, DOLLAR - 1)
    _in_range(f"slot {slot}: fee={fee!r}", fee, 0, INT32)
    slot, contracts, price, fee = int(slot), int(contracts), int(price), int(fee)  # NumPy's integers would wrap around

    direction = 1 if (side == "yes") == (action == "buy") else -1
    yes_price = price if side == "yes" else DOLLAR - price
    held = int(position[slot])
    after = held + direction * contracts
    cash_move = -direction * contracts * yes_price - DOLLAR * (max(-after, 0) - max(-held, 0)) - fee
    fill = f"slot {slot}: {action} {contracts} {side} at {price} with fee {fee}"
    _require(
        int(ledger.cash) + cash_move >= 0,
        f"{fill} needs {-cash_move} of cash {int(ledger.cash)} (0.01 cent): the ledger has lost step with the account; "
        "set ledger.cash from the account's balance and its positions from the exchange's report",
    )
    wealth = _wealth(int(ledger.cash) + cash_move, position) + DOLLAR * (abs(after) - abs(held))
    _check_wealth(wealth, fill)

    close = min(contracts, abs(held)) if direction * held < 0 else 0
    trade = [np.zeros(len(position), np.int32) for _ in range(5)]
    for column, value in zip(trade, (direction, contracts, contracts * yes_price, close * yes_price, fee), strict=True):
        column[slot] = value
    booked = _book_trades(ledger, Trade(*(jnp.asarray(column) for column in trade)))

    # The bound on wealth keeps cash and cost in int32; fees and realized P&L add up without one. Every trade moves cash by
    # its realized P&L less its cost and fee, which gives the exact sum here.
    cost_change = int(booked.cost_basis[slot]) - int(ledger.cost_basis[slot])
    sums = {"fees_paid": fee, "realized_pnl": cash_move + cost_change + fee}
    for name, change in sums.items():
        total = int(getattr(ledger, name)[slot]) + change
        _require(
            abs(total) <= INT32, f"{fill}: {name} would be {total}, beyond int32: begin a new ledger for this market"
        )
    return booked


# -- reports of the exchange


def update_from_kalshi_api(
    ledger: Ledger,
    index_of_ticker: Mapping[str, int],
    payload: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ignore_unknown: bool = False,
) -> Ledger:
    """Set positions from a response of `GET /portfolio/positions`.

    Old fields are integer cents (`position, market_exposure, realized_pnl, fees_paid`), new ones strings (`position_fp,
    market_exposure_dollars, realized_pnl_dollars, fees_paid_dollars`); where a record has both, the string counts. The
    exposure is the cost; `total_traded` is a volume and is not read. Cash is not in the response and stays: set `ledger.cash`
    from the account's balance. A market that the response does not list keeps what it has, for there may be further pages.

    Args:
        ledger: the account before.
        index_of_ticker: market slot per ticker.
        payload: the response, or its list `market_positions`.
        ignore_unknown: leave out tickers without a slot.

    Raises:
        ValueError: a missing field, a value that is not a whole number of contracts or of 0.01 cent or does not fit the ledger,
            or a ticker without a slot; ticker, field and value are named. Positions are held against `ledger.cash`: set it first.
    """
    positions: Any = payload
    if isinstance(payload, Mapping):
        _require("market_positions" in payload, f"positions response has {sorted(payload)}: expected market_positions")
        positions = payload["market_positions"]
    _require(
        isinstance(positions, Sequence) and not isinstance(positions, str),
        f"market_positions={positions!r}: expected a list of positions",
    )
    records = [(record, _ticker(record, "ticker")) for record in positions]
    return _set_positions(ledger, index_of_ticker, records, "market_exposure", CENT, ignore_unknown)


def update_from_websocket(
    ledger: Ledger, index_of_ticker: Mapping[str, int], message: Mapping[str, Any], ignore_unknown: bool = False
) -> Ledger:
    """Set one position from a `market_position` message of the websocket.

    Old fields are integer centi-cents, 1/10,000 dollar (`position, position_cost, realized_pnl, fees_paid`), new ones strings
    (`position_fp, position_cost_dollars, realized_pnl_dollars, fees_paid_dollars`). Cash is not in the message and stays.

    Args:
        ledger: the account before.
        index_of_ticker: market slot per ticker.
        message: the whole frame, or its `msg`.
        ignore_unknown: return the ledger as it is if the ticker has no slot.

    Raises:
        ValueError: as `update_from_kalshi_api`, or a message of another type.
    """
    _require(isinstance(message, Mapping), f"message {message!r}: expected the frame as a mapping")
    kind = message.get("type", "market_position")
    _require(
        kind == "market_position", f"message type={kind!r}: expected 'market_position'; route other types elsewhere"
    )
    record = message.get("msg", message)
    records = [(record, _ticker(record, "market_ticker"))]
    return _set_positions(ledger, index_of_ticker, records, "position_cost", 1, ignore_unknown)


def _set_positions(
    ledger: Ledger,
    index_of_ticker: Mapping[str, int],
    records: Sequence[tuple[Mapping[str, Any], str]],
    cost_field: str,
    unit: int,  # of the old integers, in 0.01 cent
    ignore_unknown: bool,
) -> Ledger:
    columns = _columns(ledger)
    for record, ticker in records:
        if ticker not in index_of_ticker:
            _require(
                ignore_unknown,
                f"ticker {ticker}: has no market slot; add it to index_of_ticker or pass ignore_unknown=True",
            )
            continue
        slot = index_of_ticker[ticker]
        _in_range(f"ticker {ticker}: slot={slot!r}", slot, 0, len(columns["position"]) - 1)
        for name, value in zip(FIELDS, _read_position(record, ticker, cost_field, unit), strict=True):
            columns[name][slot] = value
    _check_wealth(_wealth(int(ledger.cash), columns["position"]), "positions of the exchange")
    return replace(ledger, **{name: jnp.asarray(column, jnp.int32) for name, column in columns.items()})


def _read_position(record: Mapping[str, Any], ticker: str, cost_field: str, unit: int) -> Iterator[int]:
    """Read the ledger's fields of one market in their order."""
    position = _amount(record, ticker, "position", "position_fp", 1, 1, "contracts")
    _in_range(f"ticker {ticker}: position={position}", position, -MAX_WEALTH // DOLLAR, MAX_WEALTH // DOLLAR)
    yield position
    limits = {  # a contract never costs more than a dollar: a larger cost was sent in another unit
        cost_field: (0, DOLLAR * abs(position)),
        "realized_pnl": (-INT32, INT32),
        "fees_paid": (0, INT32),
    }
    for field, (low, high) in limits.items():
        value = _amount(record, ticker, field, f"{field}_dollars", unit, DOLLAR, "0.01 cent")
        _in_range(f"ticker {ticker}: {field}={value} (0.01 cent) with position {position}", value, low, high)
        yield value


def _amount(record: Mapping[str, Any], ticker: str, old: str, new: str, old_unit: int, new_unit: int, what: str) -> int:
    """Read a field of either generation, in units of the ledger: an integer, or a string of exactly as many units."""
    if new in record:
        text = record[new]
        _require(
            isinstance(text, str) and FIXED_POINT.fullmatch(text) is not None,
            f"ticker {ticker}: {new}={text!r}: expected a decimal string such as '12.3400'; pass the exchange's own text",
        )
        amount = Fraction(text) * new_unit
        _require(
            amount.denominator == 1,
            f"ticker {ticker}: {new}={text!r}: is not a whole number of {what}, which this ledger counts in; "
            "follow this market elsewhere or leave it out of the payload",
        )
        return amount.numerator
    _require(old in record, f"ticker {ticker}: has neither {new} nor {old}; pass the exchange's record as it came")
    value = record[old]
    _require(
        isinstance(value, int) and not isinstance(value, bool),
        f"ticker {ticker}: {old}={value!r}: expected a whole number; pass the exchange's own number, not a float",
    )
    return value * old_unit


def _ticker(record: Any, field: str) -> str:
    _require(
        isinstance(record, Mapping) and isinstance(record.get(field), str),
        f"position {record!r}: expected a record with the text field {field}",
    )
    return record[field]


# -- bounds


def _columns(ledger: Ledger) -> dict[str, np.ndarray]:
    """Copy the fields per market to the host, i64[M] each."""
    return {name: np.array(getattr(ledger, name), np.int64) for name in FIELDS}


def _wealth(cash: int, position: np.ndarray) -> int:
    return cash + DOLLAR * int(np.abs(position).sum())


def _check_wealth(wealth: int, what: str) -> None:
    _require(
        wealth <= MAX_WEALTH,
        f"{what}: cash and a dollar a contract would be {wealth} (0.01 cent), beyond the ledger's bound {MAX_WEALTH}; "
        "follow a smaller part of the account",
    )


def _in_range(what: str, value: Any, low: int, high: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    _require(whole and low <= value <= high, f"{what}: expected a whole number from {low} to {high}")


def _require(fits: bool, message: str) -> None:
    if not fits:
        raise ValueError(message)
