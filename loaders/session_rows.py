"""Database rows of one session become Events: bad rows counted out, snapshots placed among the deltas, columns repaired.

Pure NumPy, so that every trap of such a database can be tested without one. A delta's `new_size` is absolute, so a
level whose history lost a row is right again at its next delta; how often that happens is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import orjson

from kalshi_jax.tape import CENT, DOLLAR
from loaders.events import HUNDREDTHS, Events, Kind, Report, Trades, forward_times
from loaders.replay import market_groups, stable_order

NULL = -(2**62)  # how a NULL number arrives
UNITS = 10_000  # prices (cents) and sizes (contracts) arrive as integers of 1/10,000, exact for every NUMERIC in use
LARGEST = 10**12  # contracts or cents; numbers from here on arrive as this and are no size
NAN = float("nan")
LATEST_MS = 2**52  # times and sequence numbers from here on are none
LAST_SEQUENCE = 2**40
CLOCK_SKEW_MS = 1_000  # two rows of one connection may be stamped out of order by this much


@dataclass
class DeltaRows:
    """Rows of `rl_orderbook_deltas` of one session in order of id, as columns of n rows; NULL where the row has none."""

    market: np.ndarray  # i32[n], index into the names beside it; -1: NULL
    time_ms: np.ndarray  # i64[n], epoch ms
    sequence: np.ndarray  # i64[n]
    side: np.ndarray  # i8[n], 0 YES, 1 NO, -1 anything else
    price: np.ndarray  # i64[n], 1/10,000 cent
    old_size: np.ndarray  # i64[n], 1/10,000 contract
    new_size: np.ndarray  # i64[n], 1/10,000 contract

    def keep(self, rows: np.ndarray) -> DeltaRows:
        """Leave out the rows that are not marked; where all are, these rows are given, not a copy."""
        return self if rows.all() else DeltaRows(**{name: column[rows] for name, column in vars(self).items()})


@dataclass
class SnapshotRow:
    """A row of `rl_orderbook_snapshots`; the book columns are JSON text, price in cents to contracts."""

    ticker: str | None
    time_ms: int | None  # epoch ms
    sequence: int | None
    yes_bids: str | None
    yes_asks: str | None
    no_bids: str | None
    no_asks: str | None


@dataclass
class _Snapshots:
    """Usable snapshots as columns: s snapshots in order of id, l levels that point at them."""

    market: np.ndarray  # i32[s]
    time_ms: np.ndarray  # i64[s]
    sequence: np.ndarray  # i64[s]
    level_of: np.ndarray  # i64[l], snapshot of the level
    side: np.ndarray  # i8[l]
    price: np.ndarray  # i32[l], 0.01 cent
    size: np.ndarray  # i64[l], 0.01 contract


def events_from_rows(
    session_id: str, names: list[str], deltas: DeltaRows, snapshots: list[SnapshotRow], **labels: str | bool
) -> Events:
    """Turn the rows of one session into Events.

    Args:
        session_id: the session's name in Events.
        names: tickers that `deltas.market` indexes; tickers that only snapshots have are added.
        deltas: all delta rows of the session, in order of id.
        snapshots: all snapshot rows of the session, in order of id.
        labels: `status`, `environment` and `synthetic` of the Events.

    Returns:
        Events of kinds CLEAR and SET. Rows left out are counted by reason in `report.dropped`; a reason that starts
        with "level of a snapshot" counts levels, not rows.
    """
    report = Report(rows_read=len(snapshots) + len(deltas.market))
    names = list(names)
    snaps = _parse_snapshots(snapshots, names, report)
    deltas, number = _drop_bad_deltas(deltas, report)
    delta_epoch, snap_epoch, snap_position = place_snapshots(
        deltas.sequence, deltas.time_ms, snaps.sequence, snaps.time_ms
    )
    joined, snap_place = _insert_snapshots(snap_position, deltas.sequence, snaps.sequence)
    report.epochs = int(max(delta_epoch.max(initial=-1), snap_epoch.max(initial=-1))) + 1
    changes = np.ones(len(joined), bool)
    changes[snap_place] = False
    missing = np.flatnonzero(np.diff(joined) > 1) + 1  # messages are missing before these of an epoch
    _note(report, "sequence_gaps", missing, changes, number)

    known_from, lost = _known_spans(snaps, snap_epoch, snap_position, deltas, delta_epoch, len(names))
    known = np.arange(len(delta_epoch)) >= known_from
    _count(report, "delta of a market that has no snapshot yet since the last (re)connection", ~known, number)
    kept_before = np.append(0, np.cumsum(known))  # of deltas, by place
    deltas, number = deltas.keep(known), number[known]
    report.snapshots, report.deltas = len(snaps.market), len(deltas.market)

    events = _join(session_id, names, snaps, snap_position, deltas, number, kept_before, lost, report)
    for name, value in labels.items():
        setattr(events, name, value)
    return events


def level_sizes(events: Events) -> tuple[np.ndarray, np.ndarray]:
    """Work out the size of each event's level just before and just after it.

    Args:
        events: n events of any source.

    Returns:
        before, after: i64[n] each, 0.01 contract; 0 for CLEAR.
    """
    before, after = np.empty(len(events.market), np.int64), np.empty(len(events.market), np.int64)
    for rows in market_groups(events.market, len(events.tickers)):
        columns = (events.market, events.kind, events.side, events.price, events.size)
        before[rows], after[rows] = _level_sizes(*(column[rows] for column in columns))
    return before, after


def _level_sizes(
    market: np.ndarray, kind: np.ndarray, side: np.ndarray, price: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Work out what `level_sizes` does for n events that lie market by market."""
    n = len(market)
    # a new span wherever a book starts empty
    span = np.cumsum((kind == Kind.CLEAR) | (np.diff(market, prepend=-1) != 0))
    level = (span * 2 + side) * (DOLLAR + 1) + price  # CLEAR is alone at price 0
    order = stable_order(level)
    first = np.diff(level[order], prepend=-1) != 0
    size = size[order]
    restart = first | (kind[order] != Kind.ADD)
    total = np.cumsum(size)
    restarted_at = np.maximum.accumulate(np.where(restart, np.arange(n), 0))
    after_sorted = total - (total - size)[restarted_at]
    before, after = np.empty(n, np.int64), np.empty(n, np.int64)
    after[order] = after_sorted
    before[order] = np.where(first, 0, np.roll(after_sorted, 1))
    return before, after


def place_snapshots(
    delta_sequence: np.ndarray, delta_ms: np.ndarray, snap_sequence: np.ndarray, snap_ms: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the place of every snapshot among the deltas, and the epoch (connection) of every row.

    The two tables have ids of their own. Both clocks are one recorder's, so a snapshot belongs among the deltas stamped
    about when it was; there the sequence, which the tables share within an epoch, gives its place. Once all rows are in
    order, an epoch begins wherever the sequence falls.

    Args:
        delta_sequence: i64[n], in order of id.
        delta_ms: i64[n], epoch ms.
        snap_sequence: i64[s], in order of id.
        snap_ms: i64[s], epoch ms.

    Returns:
        delta_epoch i64[n]; snap_epoch i64[s]; position i64[s], how many deltas come before the snapshot.
    """
    n = len(delta_sequence)
    clock = np.maximum.accumulate(delta_ms)
    low = np.searchsorted(clock, snap_ms - CLOCK_SKEW_MS)
    high = np.searchsorted(clock, snap_ms + CLOCK_SKEW_MS, side="right")

    # Deltas low..high may straddle a reconnect: place the snapshot by the sequence of either side, take the nearer in time.
    run = np.append(np.cumsum(_falls(delta_sequence), dtype=np.int64), 0)
    span = 1 + max(delta_sequence.max(initial=0), snap_sequence.max(initial=0))
    keys = run[:n] * span + delta_sequence
    edges = np.concatenate([[np.iinfo(np.int64).min // 2], clock, [np.iinfo(np.int64).max // 2]])

    def place(near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        position = np.clip(np.searchsorted(keys, run[near] * span + snap_sequence), low, high)
        return position, np.maximum(edges[position] - snap_ms, snap_ms - edges[position + 1]).clip(0)

    (early, early_off), (late, late_off) = place(low), place(high - 1)
    position = np.where(early_off < late_off, early, late)

    joined, snaps = _insert_snapshots(position, delta_sequence, snap_sequence)
    epoch = np.cumsum(_falls(joined))
    return np.delete(epoch, snaps), epoch[snaps], position


def _insert_snapshots(position: np.ndarray, deltas: np.ndarray, snapshots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Insert a column of s snapshots into that of n deltas, each before the delta at its position, equal ones in order of id.

    Returns:
        i64[n + s], and where in it each snapshot is, i64[s].
    """
    order = np.argsort(position, kind="stable")
    place = np.empty_like(position)
    place[order] = position[order] + np.arange(len(position))
    return np.insert(deltas, position[order], snapshots[order]), place


def _falls(sequence: np.ndarray) -> np.ndarray:
    return np.diff(sequence, prepend=sequence[:1] - 1) <= 0


def _drop_bad_deltas(rows: DeltaRows, report: Report) -> tuple[DeltaRows, np.ndarray]:
    """Leave out rows that state no change of a level, each counted under the first reason that holds.

    Returns:
        The good rows, and which of the session's they are: i64[n], from 0 in order of id.
    """
    reasons: dict[str, Callable[[], np.ndarray]] = {
        "delta without market_ticker": lambda: rows.market < 0,
        "delta without timestamp_ms": lambda: rows.time_ms == 0,
        "delta with a timestamp_ms that is no time": lambda: (rows.time_ms < 0) | (rows.time_ms >= LATEST_MS),
        "delta without sequence_number": lambda: rows.sequence == NULL,
        "delta with a sequence_number that is none": lambda: (rows.sequence < 0) | (rows.sequence >= LAST_SEQUENCE),
        "delta whose side is neither yes nor no": lambda: rows.side < 0,
        "delta without price": lambda: rows.price == NULL,
        "delta at a price outside 0..100 cents": lambda: (rows.price <= 0) | (rows.price >= 100 * UNITS),
        "delta at a price finer than 0.01 cent": lambda: rows.price % (UNITS // CENT) != 0,
        "delta without new_size": lambda: rows.new_size == NULL,
        "delta with a negative new_size": lambda: rows.new_size < 0,
        "delta with a new_size that is no size": lambda: rows.new_size >= LARGEST * UNITS,
        "delta with a new_size finer than 0.01 contract": lambda: rows.new_size % (UNITS // HUNDREDTHS) != 0,
    }
    good, number = np.ones(len(rows.market), bool), np.arange(len(rows.market))
    for reason, find in reasons.items():
        bad = find()
        _count(report, reason, good & bad, number)
        good &= ~bad
    rows, number = rows.keep(good), number[good]
    copies = _copies(rows)
    _count(report, "delta stored twice", copies, number)
    return rows.keep(~copies), number[~copies]


def _copies(rows: DeltaRows) -> np.ndarray:
    """Mark rows that repeat an earlier one in sequence, time, market, level and size (a batch written twice)."""
    copies = np.zeros(len(rows.market), bool)
    if (np.diff(rows.sequence) > 0).all():  # one connection: no two are equal
        return copies
    columns = (rows.new_size, rows.price, rows.side, rows.market, rows.time_ms, rows.sequence)
    order = np.lexsort(columns[-2:])
    if _repeats(columns[-2:], order).any():  # only then is the full comparison worth its time
        order = np.lexsort(columns)
        copies[order[1:][_repeats(columns, order)]] = True
    return copies


def _repeats(columns: tuple[np.ndarray, ...], order: np.ndarray) -> np.ndarray:
    return np.logical_and.reduce([np.diff(column[order]) == 0 for column in columns])


def _parse_snapshots(rows: list[SnapshotRow], names: list[str], report: Report) -> _Snapshots:
    """Read the books of snapshot rows; tickers not yet in `names` are appended to it."""
    number = {name: index for index, name in enumerate(names)}
    heads: list[tuple[int, int, int]] = []
    levels: list[tuple[int, int, int, int]] = []
    seen: set[tuple] = set()
    for count, row in enumerate(rows, start=1):
        place = f"snapshot {count} of the session in order of id"
        reason = _fault_of_snapshot(row)
        books = None if reason else _read_books(row, report, place)
        if not reason and books is None:
            reason = "snapshot whose book is not an object of prices and sizes"
        if not reason and (copy := (row.ticker, row.time_ms, row.sequence, row.yes_bids, row.no_bids)) in seen:
            reason = "snapshot stored twice"
        if reason:
            report.drop(reason, place)
            continue
        seen.add(copy)
        assert row.ticker is not None, "has no reason to be dropped"
        assert books is not None, "has no reason to be dropped"
        market = number.setdefault(row.ticker, len(number))
        for side, book in enumerate(books):
            levels += ((len(heads), side, price, size) for price, size in book.items())
        heads.append((market, row.time_ms or 0, row.sequence or 0))
    names += list(number)[len(names) :]
    head, level = np.array(heads, np.int64).reshape(-1, 3).T, np.array(levels, np.int64).reshape(-1, 4).T
    return _Snapshots(
        head[0].astype(np.int32),
        head[1],
        head[2],
        level[0],
        level[1].astype(np.int8),
        level[2].astype(np.int32),
        level[3],
    )


def _fault_of_snapshot(row: SnapshotRow) -> str:
    for name, value in vars(row).items():
        if value is None and "asks" not in name:
            return f"snapshot without {name}"
    if not 0 < (row.time_ms or 0) < LATEST_MS:
        return "snapshot with a timestamp_ms that is no time"
    return "" if 0 <= (row.sequence or 0) < LAST_SEQUENCE else "snapshot with a sequence_number that is none"


def _read_books(row: SnapshotRow, report: Report, place: str) -> tuple[dict[int, int], dict[int, int]] | None:
    """Read both sides' bids of a snapshot, {0.01 cent: 0.01 contract}; None if a column is not such an object.

    Early recordings put levels above 50 cents into the `asks` columns as they came. A sound row repeats there the
    other side's bids seen from 100; where it does not, and bids and asks together are a possible book, they are it.
    """
    columns = [_read_levels(text) for text in (row.yes_bids, row.yes_asks, row.no_bids, row.no_asks)]
    if any(column is None for column in columns):
        return None
    (yes_bids, yes_asks, no_bids, no_asks), bad = zip(*(column for column in columns if column), strict=True)
    report.drop("level of a snapshot: not one price inside 0..100 cents and one size", place, sum(bad))
    if (not yes_asks and not no_asks) or (yes_asks == _mirror(no_bids) and no_asks == _mirror(yes_bids)):
        return yes_bids, no_bids
    raw_yes, raw_no = yes_bids | yes_asks, no_bids | no_asks
    if max(raw_yes, default=0) + max(raw_no, default=0) < DOLLAR:
        report.snapshots_repaired += 1
        report.first.setdefault("snapshots_repaired", place)
        return raw_yes, raw_no
    report.drop("level of a snapshot: asks that contradict the bids", place, len(yes_asks) + len(no_asks))
    return yes_bids, no_bids


def _read_levels(text: str | None) -> tuple[dict[int, int], int] | None:
    """Read {"45": 100} as {0.01 cent: 0.01 contract} and the number of levels left out; None if it is something else."""
    levels, bad = {}, 0
    try:
        for key, value in ({} if text is None else orjson.loads(text)).items():
            price, size = float(key) * CENT, NAN if isinstance(value, bool) else float(value) * HUNDREDTHS
            fits = 0 < price < DOLLAR and 0 <= size < LARGEST * HUNDREDTHS  # no NaN does
            if (
                fits
                and abs(price - round(price)) < 1e-3
                and abs(size - round(size)) < 1e-3
                and round(price) not in levels
            ):
                levels[round(price)] = round(size)
            else:
                bad += 1
    except (ValueError, TypeError, AttributeError):
        return None
    return {price: size for price, size in levels.items() if size}, bad


def _mirror(bids: dict[int, int]) -> dict[int, int]:
    return {DOLLAR - price: size for price, size in bids.items()}


def _known_spans(
    snaps: _Snapshots,
    snap_epoch: np.ndarray,
    snap_position: np.ndarray,
    deltas: DeltaRows,
    delta_epoch: np.ndarray,
    n_markets: int,
) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    """Find from where each market's book is known in each epoch, and where an epoch leaves it unknown.

    Returns:
        known_from: i64[n], for every delta the place of its market's first snapshot of the epoch (beyond all if none).
        lost: (market, place, epoch ms) of the start of an epoch that brings no snapshot of a market known before.
    """
    n = len(delta_epoch)
    key = snap_epoch * n_markets + snaps.market
    order = np.lexsort((snap_position, key))
    keys, first = np.unique(key[order], return_index=True)
    first_position = np.append(snap_position[order][first], n)
    wanted = delta_epoch * n_markets + deltas.market
    found = np.searchsorted(keys, wanted)
    found = np.where(np.append(keys, -1)[found] == wanted, found, len(keys))

    epochs = int(max(delta_epoch.max(initial=-1), snap_epoch.max(initial=-1))) + 1
    begins_ms = np.full(epochs, np.iinfo(np.int64).max)
    np.minimum.at(begins_ms, delta_epoch, deltas.time_ms)
    np.minimum.at(begins_ms, snap_epoch, snaps.time_ms)
    gone = keys[~np.isin(keys + n_markets, keys)] + n_markets  # known in the epoch before, no snapshot in this one
    lost = [
        (int(k % n_markets), int(np.searchsorted(delta_epoch, k // n_markets)), int(begins_ms[k // n_markets]))
        for k in gone
        if k // n_markets < epochs
    ]
    return first_position[found], lost


def _join(
    session_id: str,
    names: list[str],
    snaps: _Snapshots,
    snap_position: np.ndarray,
    deltas: DeltaRows,
    number: np.ndarray,
    kept_before: np.ndarray,
    lost: list[tuple[int, int, int]],
    report: Report,
) -> Events:
    """Put lost books, snapshots and deltas in order as events; count contradicted levels and repaired times.

    Snapshots and lost books come before the delta at their place.
    """
    lost_market, lost_place, lost_ms = np.array(lost, np.int64).reshape(-1, 3).T
    of = snaps.level_of
    # Lost books first, then snapshots, each with its levels right behind its CLEAR.
    place = np.concatenate([lost_place, snap_position, snap_position[of]])
    order = np.lexsort((np.concatenate([np.full(len(lost), -1), np.arange(len(snaps.market)), of]), place))
    changes = np.ones(len(place) + len(deltas.market), bool)  # which events are deltas
    changes[kept_before[place[order]] + np.arange(len(place))] = False
    zeros = np.zeros(len(lost) + len(snaps.market), np.int64)

    def column(clears: np.ndarray, levels: np.ndarray, values: np.ndarray | int, dtype: type) -> np.ndarray:
        joined: np.ndarray = np.empty(len(changes), dtype)
        joined[changes] = values
        joined[~changes] = np.concatenate([clears, levels])[order]
        return joined

    market = column(np.concatenate([lost_market, snaps.market]), snaps.market[of], deltas.market, np.int32)
    time_ms = column(np.concatenate([lost_ms, snaps.time_ms]), snaps.time_ms[of], deltas.time_ms, np.int64)
    kind = column(zeros + Kind.CLEAR, np.full(len(of), Kind.SET), Kind.SET, np.int8)
    side = column(zeros, snaps.side, deltas.side, np.int8)
    price = column(zeros, snaps.price, deltas.price // (UNITS // CENT), np.int32)
    size = column(zeros, snaps.size, deltas.new_size // (UNITS // HUNDREDTHS), np.int64)
    market, tickers = _number_by_appearance(market, names)
    time_ms, late = forward_times(market, time_ms)
    _note(report, "times_repaired", np.flatnonzero(late), changes, number)
    none = np.zeros(0, np.int64)
    trades = Trades(none.astype(np.int32), none, none.astype(np.int32), none, none.astype(np.int8))
    events = Events(session_id, tickers, market, time_ms, kind, side, price, size, trades, report)

    before, old_size = level_sizes(events)[0][changes], deltas.old_size
    contradicted = (old_size != NULL) & (old_size != before * (UNITS // HUNDREDTHS))
    _note(report, "levels_repaired", np.flatnonzero(changes)[contradicted], changes, number)
    return events


def _number_by_appearance(market: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Renumber markets in order of first appearance, and leave out those that never appear."""
    first = np.full(len(names), len(market))
    np.minimum.at(first, market, np.arange(len(market)))
    present = np.argsort(first, kind="stable")[: np.count_nonzero(first < len(market))]
    number = np.full(len(names), -1, np.int32)
    number[present] = np.arange(len(present))
    return number[market], [names[index] for index in present]


def _note(report: Report, counter: str, found: np.ndarray, changes: np.ndarray, number: np.ndarray) -> None:
    """Count events at fault, i64[...]; `changes` (bool[n]) tells which events are deltas, `number` which of the session's."""
    setattr(report, counter, len(found))
    if len(found):
        of_delta = changes[found[0]]
        report.first[counter] = (
            _delta_place(number[np.count_nonzero(changes[: found[0]])]) if of_delta else "a snapshot"
        )


def _count(report: Report, reason: str, rows: np.ndarray, number: np.ndarray) -> None:
    """Count deltas left out: bool[n] of them, and i64[n] which of the session's deltas they are, from 0 in order of id."""
    left_out = number[rows]
    if len(left_out):
        report.drop(reason, _delta_place(left_out[0]), len(left_out))


def _delta_place(number: int) -> str:
    return f"delta {number + 1} of the session in order of id"
