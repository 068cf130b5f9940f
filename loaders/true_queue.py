"""The true queue: every order of a simulated session, and how many contracts stood ahead of it at any moment.

A recording tells the size of a level; this tells whose it is. The changes of a level's orders add up to its recorded changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class OrderChanges:
    """All changes of resting orders of one session in the order they happened, as columns of n changes.

    An order begins with a positive change; each later one takes from it: a fill, a reduction, a cancellation, the close. The
    queue of a level stands in the order of its orders' numbers.
    """

    market: np.ndarray  # i32[n], of the session
    time_ms: np.ndarray  # i64[n], epoch ms
    order: np.ndarray  # i64[n], number of the order in its market, by arrival
    side: np.ndarray  # i8[n], 0 YES, 1 NO
    price: np.ndarray  # i32[n], 0.01 cent
    size: np.ndarray  # i64[n], contracts, signed


def contracts_ahead(orders: OrderChanges, market: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Follow one order's place in its queue.

    Args:
        orders: of a session.
        market: of the session.
        order: its number.

    Returns:
        time_ms i64[k] (epoch), ascending, and contracts ahead i64[k] from then on: first as it joined, then whenever some of
        those ahead left, until it leaves itself. What happens in the same ms lies in order.

    Raises:
        ValueError: the market has no such order, or it never rested.
    """
    own = np.flatnonzero((orders.market == market) & (orders.order == order))
    if not len(own):
        raise ValueError(f"market {market} has no order {order} that rested")
    joined, ended = own[0], own[-1]
    level = (orders.market == market) & (orders.side == orders.side[joined]) & (orders.price == orders.price[joined])
    before = np.flatnonzero(level & (orders.order < order))
    before = before[before <= ended]
    left = before[before > joined]
    ahead = orders.size[before[before < joined]].sum() + np.append(0, np.cumsum(orders.size[left]))
    return orders.time_ms[np.append(joined, left)], ahead


def write_orders(orders: OrderChanges, path: str | Path) -> None:
    """Write the orders of a session beside its recording, as a compressed NumPy archive (`*.npz`) of their columns."""
    with Path(path).open("wb") as file:
        np.savez_compressed(file, **vars(orders))


def read_orders(path: str | Path) -> OrderChanges:
    """Read what `write_orders` wrote."""
    with np.load(path) as columns:
        return OrderChanges(**columns)
