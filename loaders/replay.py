"""Replay: the events of one session become rows and entries, without a Python loop over rows.

Every event of a level gives the level's exact size after it by a cumulative sum that begins anew at each absolute size
and each emptied book. From these follow, per row, the levels that changed; and from the changes the best bids and the
top K levels of every row. Markets are replayed group by group, so that what this needs in between does not grow with the
session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from loaders.events import Events, Kind

PRICES = 10_000  # a level's number is (market * 2 + side) * PRICES + price
EVENTS = 1 << 19  # replayed at once beside those of one market; bounds memory
BATCH = 1 << 17  # rows of market sides whose books are filled at once; bounds memory


@dataclass
class Changes:
    """How levels went through steps: one change each time a level's exact size differs from that of the step before."""

    level: np.ndarray  # i64[n], ascending; steps ascend within a level
    step: np.ndarray  # i64[n]
    size: np.ndarray  # i64[n], 0.01 contract, after the change

    @property
    def before(self) -> np.ndarray:
        """The level's size before each change, i64[n], 0.01 contract."""
        same_level = np.append(False, self.level[1:] == self.level[:-1])[: len(self.level)]
        return np.where(same_level, np.append(0, self.size[:-1])[: len(self.size)], 0)


@dataclass
class Replay:
    """One session, replayed: R rows market by market in time order, and its N entries level by level."""

    markets: np.ndarray  # i64[m], market numbers (of `Events.tickers`) that have a row
    first_row: np.ndarray  # i64[m + 1], where each one's rows begin; the last is R
    time_ms: np.ndarray  # i64[R], epoch ms
    best: np.ndarray  # i16[S, R], best bid in 0.01 cent, 0 if the side is empty
    restart: (
        np.ndarray
    )  # bool[R], the book begins anew: a snapshot, or the end of what is known; never a market's first row
    ends: np.ndarray  # bool[m], the market's last event emptied its book for good
    entries: Changes  # levels number the m markets; steps are rows
    negative_sizes: int
    crossed_inside: int
    crossed_after: int


def replay(events: Events) -> Replay:
    """Replay one session's events into rows and entries."""
    return _join([_replay(events, chosen) for chosen in market_groups(events.market, len(events.tickers))])


def market_groups(market: np.ndarray, markets: int) -> Iterator[np.ndarray]:
    """Give the events (i64[n] of i[n] market numbers) of some markets at a time, market by market in recorded order."""
    for group in split_counts(np.bincount(market, minlength=markets), EVENTS):
        inside = np.flatnonzero((market >= group[0]) & (market <= group[-1])) if len(group) else np.arange(0)
        yield inside[stable_order(market[inside])]


def split_counts(counts: np.ndarray, most: int) -> list[np.ndarray]:
    """Split 0 .. len(counts) - 1 into runs; of each run, the counts after the first add up to less than `most`."""
    return np.split(np.arange(len(counts)), np.flatnonzero(np.diff(np.cumsum(counts) // most)) + 1)


def stable_order(keys: np.ndarray) -> np.ndarray:
    """Find the order that sorts small numbers, equal ones as they came: much faster than a stable argsort.

    Args:
        keys: i[n], at least 0; n times the highest must be less than 2**62.
    """
    bits = len(keys).bit_length()
    return np.sort(keys.astype(np.int64) << bits | np.arange(len(keys))) & ((1 << bits) - 1)


def _join(parts: list[Replay]) -> Replay:
    """Join the replays of some markets after others; `parts` are emptied."""
    markets = np.cumsum([0, *(len(part.markets) for part in parts)])
    rows = np.cumsum([0, *(part.first_row[-1] for part in parts)])
    for part, market, row in zip(parts, markets, rows, strict=False):
        part.first_row = part.first_row[:-1] + row
        part.entries.level += 2 * PRICES * market
        part.entries.step += row
    parts[-1].first_row = np.append(parts[-1].first_row, rows[-1])

    def column(of: list[Any], name: str) -> np.ndarray:
        return np.concatenate([vars(part).pop(name) for part in of], axis=-1)

    entries = [part.entries for part in parts]
    return Replay(
        **{name: column(parts, name) for name in ("markets", "first_row", "time_ms", "best", "restart", "ends")},
        entries=Changes(**{name: column(entries, name) for name in ("level", "step", "size")}),
        negative_sizes=sum(part.negative_sizes for part in parts),
        crossed_inside=sum(part.crossed_inside for part in parts),
        crossed_after=sum(part.crossed_after for part in parts),
    )


def _replay(events: Events, order: np.ndarray) -> Replay:
    """Replay the events of some markets, which lie in `order` market by market."""
    number, time, kind = events.market[order], events.time_ms[order], events.kind[order]
    new_market = np.append(True, number[1:] != number[:-1])[: len(order)]
    first_event, market = np.flatnonzero(new_market), np.cumsum(new_market) - 1
    new_row = new_market | np.append(True, time[1:] != time[:-1])[: len(order)]
    row = np.cumsum(new_row) - 1
    first_row = np.append(row[first_event], new_row.sum())

    new_message = begins_message(kind, new_row)
    message = np.cumsum(new_message) - 1
    row_of_message = row[new_message]
    first_message = np.append(message[first_event], new_message.sum())

    restart = np.zeros(first_row[-1], bool)
    restart[row[kind == Kind.CLEAR]] = True
    restart[first_row[:-1]] = False
    last_event = np.append(first_event, len(order))[1:] - 1

    level, place, size, negative = _level_sizes(
        market, kind, events.side[order], events.price[order], events.size[order]
    )
    entries = _changes(level, row[place], size)
    best = best_bids(entries, first_row)
    best_inside = best_bids(_changes(level, message[place], size), first_message)
    crossed = best[0].astype(np.int32) + best[1] >= PRICES
    crossed_inside = best_inside[0].astype(np.int32) + best_inside[1] >= PRICES
    return Replay(
        markets=number[new_market].astype(np.int64),
        first_row=first_row,
        time_ms=time[new_row],
        best=best,
        restart=restart,
        ends=kind[last_event] == Kind.CLEAR,
        entries=entries,
        negative_sizes=negative,
        crossed_inside=int((crossed_inside & ~crossed[row_of_message]).sum()),
        crossed_after=int(crossed.sum()),
    )


def begins_message(kind: np.ndarray, new_row: np.ndarray) -> np.ndarray:
    """Tell which events begin a message, bool[n]: all but the SETs that follow a CLEAR in its row, which make a snapshot with it.

    Args:
        kind: i8[n], market by market in recorded order.
        new_row: bool[n], the market or its time differs from the event's before.
    """
    head = np.maximum.accumulate(np.where((kind != Kind.SET) | new_row, np.arange(len(kind)), 0))
    return (kind != Kind.SET) | (kind[head] != Kind.CLEAR)


def _level_sizes(
    market: np.ndarray, kind: np.ndarray, side: np.ndarray, price: np.ndarray, size: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Work out each level's exact size after each of its events, and after each CLEAR that empties it.

    Args:
        market, kind, side, price, size: columns of n events, market by market in recorded order.

    Returns:
        level i64[k] ascending, place i64[k] (the event that did it) ascending within a level, size i64[k], and the
        number of changes that would have gone below zero (they stop at zero).
    """
    cleared = np.cumsum(kind == Kind.CLEAR)
    key = (market * 2 + side) * PRICES + price
    place = np.flatnonzero(kind != Kind.CLEAR)
    place = place[stable_order(key[place])]
    level, change = key[place], size[place]
    new_level = np.append(True, level[1:] != level[:-1])[: len(level)]
    anew = new_level | (kind[place] == Kind.SET)
    anew[1:] |= cleared[place][1:] != cleared[place][:-1]
    total = np.cumsum(change)
    starts = np.flatnonzero(anew)
    after = total - np.repeat((total - change)[starts], np.diff(starts, append=len(level)))

    negative = 0
    run = np.cumsum(anew) - 1
    for broken in np.unique(run[after < 0]):  # the sum that stops at zero: less its lowest value so far below zero
        part = slice(starts[broken], starts[broken + 1] if broken + 1 < len(starts) else None)
        lowest = np.minimum(np.minimum.accumulate(after[part]), 0)
        negative += int((np.diff(lowest, prepend=0) < 0).sum())
        after[part] -= lowest

    # Where a CLEAR comes before the level's next event, the level is emptied there.
    clears = np.flatnonzero(kind == Kind.CLEAR)
    emptied = np.append(clears, len(kind))[cleared[place]]
    following = np.where(np.append(new_level[1:], True)[: len(level)], len(kind), np.append(place[1:], 0)[: len(level)])
    same_market = np.append(market, -1)[emptied] == market[place]
    gone = np.flatnonzero((after > 0) & same_market & (emptied < following))
    level, place, after = (
        np.insert(column, gone + 1, values)
        for column, values in ((level, level[gone]), (place, emptied[gone]), (after, np.zeros_like(gone)))
    )
    return level, place, after, negative


def _changes(level: np.ndarray, step: np.ndarray, size: np.ndarray) -> Changes:
    """Keep the last size of each level in each step, where it differs from the one before."""
    last = np.append((level[1:] != level[:-1]) | (step[1:] != step[:-1]), True)[: len(level)]
    level, step, size = level[last], step[last], size[last]
    before = np.append(0, size[:-1])[: len(size)]
    before[1:][level[1:] != level[:-1]] = 0
    differs = size != before
    return Changes(level[differs], step[differs], size[differs])


def best_bids(changes: Changes, first_step: np.ndarray) -> np.ndarray:
    """Find the best bid of each side after every step: the highest of all levels that rest in it.

    Each level rests over spans of steps. A span is covered by two runs of 2**d steps; runs are painted from the widest to
    single steps, each width passing its maximum on to two of half that width.

    Args:
        changes: changes of levels.
        first_step: i64[m + 1], where each market's steps begin; the last is their number.

    Returns:
        i16[S, steps], 0.01 cent; 0 where the side is empty.
    """
    count = int(first_step[-1])
    rests = np.flatnonzero(changes.size > 0)
    book, price = np.divmod(changes.level[rests], PRICES)
    market, side = np.divmod(book, 2)
    succeeded = np.append(changes.level[1:] == changes.level[:-1], False)[: len(changes.level)][rests]
    stop = np.where(succeeded, np.append(changes.step, 0)[rests + 1], first_step[1:][market])
    start = changes.step[rests]
    width = np.frexp((stop - start).astype(np.float64))[1] - 1  # of the widest power of two inside the span
    best = np.zeros((2, count), np.int16)
    for d in range(int(width.max(initial=0)), -1, -1):
        if (2 << d) <= count:
            best[:, 1 << d :] = np.maximum(best[:, 1 << d :], best[:, : -(1 << d)])
        here = np.flatnonzero(width == d)
        for first in (start[here], stop[here] - (1 << d)):
            np.maximum.at(best.reshape(-1), side[here] * count + first, price[here].astype(np.int16))
    return best


def top_entries(replayed: Replay, depth: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Find the best `depth` levels of every row and side, batch by batch.

    Within a batch the market sides lie one after the other, those with the most levels first, so that the j-th best level
    ever seen of each makes one contiguous vector; the best levels claim the first free places of their rows.

    Yields:
        row i64[n], side i64[n], and i32[n, depth] the number of the entry that set the level's size, counted from 1;
        0: no more levels.
    """
    entries, first_row = replayed.entries, replayed.first_row
    begin = np.flatnonzero(np.append(True, entries.level[1:] != entries.level[:-1])[: len(entries.level)])
    book = entries.level[begin] // PRICES  # market side of each level; levels ascend, so a book's are contiguous
    first_level = np.searchsorted(book, np.arange(2 * len(replayed.markets) + 1))
    levels = np.diff(first_level)
    rows = np.repeat(np.diff(first_row), 2)
    for chosen in split_counts(rows, BATCH):
        books = chosen[np.argsort(-levels[chosen], kind="stable")]
        offset = np.append(0, np.cumsum(rows[books]))
        # i32[n, depth]
        top = np.zeros((offset[-1], depth), np.int32)
        filled = np.zeros(offset[-1], np.int64)
        rank, start, number = _level_spans(entries, begin, first_level, first_row, books, offset)
        bounds = np.searchsorted(rank, np.arange(rank[-1] + 2 if len(rank) else 1))
        taking = np.searchsorted(-levels[books], -np.arange(len(bounds)), side="left")  # books with more than j levels
        for j in range(len(bounds) - 1):
            spans = slice(bounds[j], bounds[j + 1])
            n = offset[taking[j]]
            held = np.repeat(number[spans], np.diff(start[spans], append=n))
            at = np.flatnonzero((held > 0) & (filled[:n] < depth))
            top[at, filled[at]] = held[at]
            filled[at] += 1
        row = np.concatenate([np.arange(first_row[b // 2], first_row[b // 2 + 1]) for b in books])
        yield row, np.repeat(books % 2, rows[books]), top


def _level_spans(
    entries: Changes,
    begin: np.ndarray,
    first_level: np.ndarray,
    first_row: np.ndarray,
    books: np.ndarray,
    offset: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List, for the chosen books, the spans of rows over which each level keeps its size.

    Returns:
        rank (0: the highest level of its book), start (in the batch) and entry number counted from 1 (0 while the level
        is empty), all i64[spans], by rank and start. A level's first span begins at its book's first row.
    """
    levels = np.concatenate([np.arange(first_level[b], first_level[b + 1]) for b in books])
    position = np.repeat(np.arange(len(books)), first_level[books + 1] - first_level[books])
    rank = first_level[books + 1][position] - 1 - levels  # prices ascend within a book: the last is the best
    order = np.lexsort((position, rank))
    levels, position, rank = levels[order], position[order], rank[order]
    stop = np.append(begin[1:], len(entries.level))[levels]
    count = stop - begin[levels] + 1  # one more: the span before the first change
    leading = np.cumsum(count) - count
    number = np.arange(count.sum()) - np.repeat(leading - begin[levels], count)
    step = np.append(0, entries.step)[number] - np.repeat(first_row[books // 2][position], count)
    step[leading] = 0
    number[np.append(0, entries.size)[number] == 0] = 0
    number[leading] = 0
    return np.repeat(rank, count), step + np.repeat(offset[position], count), number
