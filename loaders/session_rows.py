"""Database rows of one session become Events: bad rows counted out, snapshots placed among the deltas, columns repaired.

Pure NumPy, so that every trap of such a database can be tested without one. A delta's `new_size` is absolute, so a
level whose history lost a row is right again at its next delta; how often that happens is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import orjson

from loaders.events import HUNDREDTHS, Events, Kind, Report, Trades, forward_times

NULL = -(2**62)  # how a NULL number arrives
UNITS = 10_000  # prices (cents) and sizes (contracts) arrive as integers of 1/10,000, exact for every NUMERIC in use
LARGEST = 10**12  # contracts or cents; numbers from here on arrive as this and are no size
NAN = float("nan")
LATEST_MS = 2**52  # times and sequence numbers from here on are none
LAST_SEQUENCE = 2**40
CENT = 100  # 0.01 cent
TOP = 100 * CENT  # a dollar
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

    def take(self, rows: np.ndarray) -> DeltaRows:
        """Select rows by index or mask."""
        return DeltaRows(**{name: column[rows] for name, column in vars(self).items()})


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
    _count_gaps(deltas.sequence, delta_epoch, snaps.sequence, snap_epoch, report)

    known_from, lost = _known_spans(snaps, snap_epoch, snap_position, deltas, delta_epoch, len(names))
    place = np.arange(len(delta_epoch))
    known = place >= known_from
    _count(report, "delta of a market that has no snapshot yet since the last (re)connection", ~known, number)
    deltas, place, number = deltas.take(known), place[known], number[known]
    report.snapshots, report.deltas = len(snaps.market), len(deltas.market)

    events = _join(session_id, names, snaps, snap_position, deltas, place, number, lost, report)
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
    n = len(events.market)
    by_market = np.argsort(events.market, kind="stable")
    market, clear = events.market[by_market], events.kind[by_market] == Kind.CLEAR
    span = np.empty(n, np.int64)  # a new span wherever a book starts empty
    span[by_market] = np.cumsum(clear | (np.diff(market, prepend=-1) != 0))
    level = (span * 2 + events.side) * (TOP + 1) + events.price  # CLEAR is alone at price 0
    order = np.argsort(level, kind="stable")
    first = np.diff(level[order], prepend=-1) != 0
    size = events.size[order]
    restart = first | (events.kind[order] != Kind.ADD)
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
    n, s = len(delta_sequence), len(snap_sequence)
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

    order = np.argsort(np.concatenate([np.arange(n) * 2 + 1, position * 2]), kind="stable")
    epoch = np.empty(n + s, np.int64)
    epoch[order] = np.cumsum(_falls(np.concatenate([delta_sequence, snap_sequence])[order]))
    return epoch[:n], epoch[n:], position


def _falls(sequence: np.ndarray) -> np.ndarray:
    return np.diff(sequence, prepend=sequence[:1] - 1) <= 0


def _drop_bad_deltas(rows: DeltaRows, report: Report) -> tuple[DeltaRows, np.ndarray]:
    """Leave out rows that state no change of a level, each counted under the first reason that holds.

    Returns:
        The good rows, and which of the session's they are: i64[n], from 0 in order of id.
    """
    reasons = {
        "delta without market_ticker": rows.market < 0,
        "delta without timestamp_ms": rows.time_ms == 0,
        "delta with a timestamp_ms that is no time": (rows.time_ms < 0) | (rows.time_ms >= LATEST_MS),
        "delta without sequence_number": rows.sequence == NULL,
        "delta with a sequence_number that is none": (rows.sequence < 0) | (rows.sequence >= LAST_SEQUENCE),
        "delta whose side is neither yes nor no": rows.side < 0,
        "delta without price": rows.price == NULL,
        "delta at a price outside 0..100 cents": (rows.price <= 0) | (rows.price >= 100 * UNITS),
        "delta at a price finer than 0.01 cent": rows.price % (UNITS // CENT) != 0,
        "delta without new_size": rows.new_size == NULL,
        "delta with a negative new_size": rows.new_size < 0,
        "delta with a new_size that is no size": rows.new_size >= LARGEST * UNITS,
        "delta with a new_size finer than 0.01 contract": rows.new_size % (UNITS // HUNDREDTHS) != 0,
    }
    good, number = np.ones(len(rows.market), bool), np.arange(len(rows.market))
    for reason, bad in reasons.items():
        _count(report, reason, good & bad, number)
        good = good & ~bad
    rows, number = rows.take(good), number[good]
    copies = _copies(rows)
    _count(report, "delta stored twice", copies, number)
    return rows.take(~copies), number[~copies]


def _copies(rows: DeltaRows) -> np.ndarray:
    """Mark rows that repeat an earlier one in sequence, time, market, level and size (a batch written twice)."""
    columns = (rows.new_size, rows.price, rows.side, rows.market, rows.time_ms, rows.sequence)
    order = np.lexsort(columns[-2:])
    copies = np.zeros(len(order), bool)
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
            _drop(report, reason, place)
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
    _drop(report, "level of a snapshot: not one price inside 0..100 cents and one size", place, sum(bad))
    if (not yes_asks and not no_asks) or (yes_asks == _mirror(no_bids) and no_asks == _mirror(yes_bids)):
        return yes_bids, no_bids
    raw_yes, raw_no = yes_bids | yes_asks, no_bids | no_asks
    if max(raw_yes, default=0) + max(raw_no, default=0) < TOP:
        report.snapshots_repaired += 1
        report.first.setdefault("snapshots_repaired", place)
        return raw_yes, raw_no
    _drop(report, "level of a snapshot: asks that contradict the bids", place, len(yes_asks) + len(no_asks))
    return yes_bids, no_bids


def _read_levels(text: str | None) -> tuple[dict[int, int], int] | None:
    """Read {"45": 100} as {0.01 cent: 0.01 contract} and the number of levels left out; None if it is something else."""
    levels, bad = {}, 0
    try:
        for key, value in ({} if text is None else orjson.loads(text)).items():
            price, size = float(key) * CENT, NAN if isinstance(value, bool) else float(value) * HUNDREDTHS
            fits = 0 < price < TOP and 0 <= size < LARGEST * HUNDREDTHS  # no NaN does
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
    return {TOP - price: size for price, size in bids.items()}


def _count_gaps(
    delta_sequence: np.ndarray,
    delta_epoch: np.ndarray,
    snap_sequence: np.ndarray,
    snap_epoch: np.ndarray,
    report: Report,
) -> None:
    """Count epochs and, inside them, places where messages are missing between two that were stored."""
    sequence, epoch = np.concatenate([delta_sequence, snap_sequence]), np.concatenate([delta_epoch, snap_epoch])
    order = np.lexsort((sequence, epoch))
    inside = np.diff(epoch[order]) == 0
    report.sequence_gaps = int(np.count_nonzero(inside & (np.diff(sequence[order]) > 1)))
    report.epochs = len(np.unique(epoch))


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

    epochs, where = np.unique(np.concatenate([delta_epoch, snap_epoch]), return_inverse=True)
    begins_ms = np.full(len(epochs), np.iinfo(np.int64).max)
    np.minimum.at(begins_ms, where, np.concatenate([deltas.time_ms, snaps.time_ms]))
    gone = keys[~np.isin(keys + n_markets, keys)] + n_markets  # known in the epoch before, no snapshot in this one
    lost = [
        (int(k % n_markets), int(np.searchsorted(delta_epoch, k // n_markets)), int(begins_ms[k // n_markets]))
        for k in gone
        if k // n_markets < len(epochs)
    ]
    return first_position[found], lost


def _join(
    session_id: str,
    names: list[str],
    snaps: _Snapshots,
    snap_position: np.ndarray,
    deltas: DeltaRows,
    delta_place: np.ndarray,
    delta_number: np.ndarray,
    lost: list[tuple[int, int, int]],
    report: Report,
) -> Events:
    """Put lost books, snapshots and deltas in order as events; count contradicted levels and repaired times."""
    lost_market, lost_place, lost_ms = np.array(lost, np.int64).reshape(-1, 3).T
    n_lost, s, n_levels, n = len(lost_market), len(snaps.market), len(snaps.level_of), len(deltas.market)
    of = snaps.level_of
    # Snapshots come before the delta at their place, each with its levels right behind its CLEAR.
    place = np.concatenate([lost_place * 2, snap_position * 2, snap_position[of] * 2, delta_place * 2 + 1])
    group = np.concatenate([np.full(n_lost, -1), np.arange(s), of, np.zeros(n, np.int64)])
    order = np.lexsort((group, place))
    zeros = np.zeros(n_lost + s, np.int64)

    def column(clears: np.ndarray, levels: np.ndarray, changes: np.ndarray, dtype: type) -> np.ndarray:
        return np.concatenate([clears, levels, changes])[order].astype(dtype)

    market = column(np.concatenate([lost_market, snaps.market]), snaps.market[of], deltas.market, np.int32)
    time_ms = column(np.concatenate([lost_ms, snaps.time_ms]), snaps.time_ms[of], deltas.time_ms, np.int64)
    kind = column(zeros + Kind.CLEAR, np.full(n_levels, Kind.SET), np.full(n, Kind.SET), np.int8)
    side = column(zeros, snaps.side, deltas.side, np.int8)
    price = column(zeros, snaps.price, deltas.price // (UNITS // CENT), np.int32)
    size = column(zeros, snaps.size, deltas.new_size // (UNITS // HUNDREDTHS), np.int64)
    market, tickers = _number_by_appearance(market, names)
    number = column(
        zeros - 1, np.full(n_levels, -1), delta_number, np.int64
    )  # of the session's deltas; -1: of a snapshot
    time_ms, late = forward_times(market, time_ms)
    _repair(report, "times_repaired", late, number)
    none = np.zeros(0, np.int64)
    trades = Trades(none.astype(np.int32), none, none.astype(np.int32), none, none.astype(np.int8))
    events = Events(session_id, tickers, market, time_ms, kind, side, price, size, trades, report)

    old_size = column(zeros + NULL, np.full(n_levels, NULL), deltas.old_size, np.int64)
    before, _ = level_sizes(events)
    _repair(report, "levels_repaired", (old_size != NULL) & (old_size != before * (UNITS // HUNDREDTHS)), number)
    return events


def _number_by_appearance(market: np.ndarray, names: list[str]) -> tuple[np.ndarray, list[str]]:
    """Renumber markets in order of first appearance, and leave out those that never appear."""
    present, first = np.unique(market, return_index=True)
    present = present[np.argsort(first)]
    number = np.full(len(names), -1, np.int32)
    number[present] = np.arange(len(present))
    return number[market], [names[index] for index in present]


def _repair(report: Report, counter: str, events: np.ndarray, number: np.ndarray) -> None:
    """Count repaired events, bool[n], of which `number` tells what deltas of the session they were."""
    found = number[events]
    setattr(report, counter, len(found))
    if len(found):
        report.first[counter] = "a snapshot" if found[0] < 0 else _delta_place(found[0])


def _count(report: Report, reason: str, rows: np.ndarray, number: np.ndarray) -> None:
    """Count deltas left out: bool[n] of them, and i64[n] which of the session's deltas they are, from 0 in order of id."""
    left_out = number[rows]
    if len(left_out):
        _drop(report, reason, _delta_place(left_out[0]), len(left_out))


def _drop(report: Report, reason: str, place: str, count: int = 1) -> None:
    if count:
        report.dropped[reason] = report.dropped.get(reason, 0) + count
        report.first.setdefault(reason, place)


def _delta_place(number: int) -> str:
    return f"delta {number + 1} of the session in order of id"
