"""Tapes: replayed sessions packed into the arrays of one `kalshi_jax.tape.Tape`.

Arrays are allocated once, at padded sizes, and each session is written into its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields

import jax
import numpy as np

from kalshi_jax.features import rhythm_of, row_features
from kalshi_jax.queues import queue_stops
from kalshi_jax.tape import CENT, DOLLAR, END_OF_TIME, NO, SCAN, YES, Tape
from loaders.closes import close_markets
from loaders.events import HUNDREDTHS, DataError, Events
from loaders.index import SessionInfo, TapeIndex, describe
from loaders.prints import match_prints
from loaders.replay import PRICES, Replay, replay, top_entries

DEPTH = 10  # book levels K of a row
LARGEST_SIZE = 2**31 - 1  # whole contracts
Progress = Callable[[int, int, str], None]  # sessions done, sessions in all (0: unknown), the last one's id


def build_tape(sessions: Iterable[Events], progress: Progress | None = None, total: int = 0) -> tuple[Tape, TapeIndex]:
    """Build the tape of some sessions.

    Args:
        sessions: their events; each session's are freed once replayed.
        progress: told after each session.
        total: number of sessions, for progress; 0: unknown.

    Raises:
        DataError: no session has a market with a book, two sessions have one id, a session is too long or a size too large.
    """
    infos: list[SessionInfo] = []
    skipped: list[SessionInfo] = []
    replays: list[Replay] = []
    prints: list[np.ndarray] = []  # of each session, what trade prints explain of its entries
    for done, recorded in enumerate(sessions, start=1):
        events = close_markets(recorded)
        replayed = replay(events)
        traded, events.report.prints_unmatched = match_prints(replayed, events.trades)
        info = describe(events, replayed)
        if info.session_id in {other.session_id for other in [*infos, *skipped]}:
            raise DataError(f"session {info.session_id} occurs twice in the source: give each session once")
        if info.tickers:
            infos.append(info)
            replays.append(replayed)
            prints.append(traded)
        else:
            skipped.append(info)
        if progress:
            progress(done, total, info.session_id)
    if not replays:
        found = (
            ", ".join(f"{info.session_id} (dropped {info.report.dropped})" for info in skipped) or "no session at all"
        )
        raise DataError(f"nothing to load: expected a session with a market that shows a book; found {found}")

    rows = np.cumsum([1, *(len(r.time_ms) for r in replays)])
    entries = np.cumsum([1, *(len(r.entries.level) + _levels(r) for r in replays)])
    arrays = _empty_arrays(int(rows[-1]), int(entries[-1]))
    lengths = np.concatenate([np.diff(r.first_row) for r in replays])
    replays.reverse()
    prints.reverse()
    trades = []
    for info, row, entry in zip(infos, rows, entries, strict=False):
        replayed, traded = replays.pop(), prints.pop()  # they are freed once they are written
        trades.append(_session_trades(replayed, traded, int(row)))
        _write_session(arrays, info, replayed, traded, int(row), int(entry))
    return _finish(arrays, infos, skipped, lengths, np.concatenate(trades))


def select_sessions(tape: Tape, index: TapeIndex, session_ids: Iterable[str]) -> tuple[Tape, TapeIndex]:
    """Make a tape of some sessions of a tape, in the order asked for; it equals one built of these alone.

    Raises:
        DataError: the tape has no such session, or what is asked for has no market with a book.
    """
    wanted = list(dict.fromkeys(session_ids))
    known = {info.session_id: i for i, info in enumerate([*index.sessions, *index.skipped])}
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise DataError(f"no session {', '.join(unknown)} on this tape: expected one of {', '.join(known)}")
    chosen = [known[name] for name in wanted if known[name] < len(index.sessions)]
    if not chosen:
        raise DataError(f"nothing to load: session {', '.join(wanted)} has no market that shows a book; choose others")
    host = {field.name: np.asarray(getattr(tape, field.name)) for field in fields(tape) if field.name != "bisections"}
    markets = [host["session_first_market"][i] + np.arange(host["session_markets"][i]) for i in chosen]
    track_start, track_length = host["track"][:, 0], host["track"][:, 1]
    begins = [int(track_start[m[0]]) for m in markets]
    counts = [int(track_length[m].sum()) for m in markets]
    spans = []  # of entries, each with its last sentinel
    for begin, count in zip(begins, counts, strict=True):
        at = np.flatnonzero((host["entry_row"] >= begin) & (host["entry_row"] < begin + count))
        spans.append(slice(int(at[0]), int(at[-1]) + 2) if at.size else slice(0, 0))
    arrays = _empty_arrays(1 + sum(counts), 1 + sum(span.stop - span.start for span in spans))
    row, entry = 1, 1
    for begin, count, span in zip(begins, counts, spans, strict=True):
        source, target = slice(begin, begin + count), slice(row, row + count)
        for name in ("time_ms", "price", "size", "mark"):
            arrays[name][target] = host[name][source]
        entries = host["entry"][source]
        arrays["entry"][target] = np.where(entries > 0, entries - span.start + entry, 0)
        restart = host["restart"][source]
        arrays["restart"][target] = np.where(restart < END_OF_TIME, restart - begin + row, END_OF_TIME)
        moved = host["entry_row"][span]
        size = span.stop - span.start
        arrays["entry_row"][entry : entry + size] = np.where(moved < END_OF_TIME, moved - begin + row, END_OF_TIME)
        for name in ("entry_size", "entry_traded"):
            arrays[name][entry : entry + size] = host[name][span]
        row, entry = row + count, entry + size
    infos = [index.sessions[i] for i in chosen]
    skipped = [info for info in index.skipped if info.session_id in wanted]
    chosen_markets = np.concatenate(markets)
    lengths = track_length[chosen_markets].astype(np.int64)
    moved_to = 1 + np.cumsum(lengths) - lengths
    trades = [
        _trades_of(host, int(track_start[market]), int(length), int(row))
        for market, length, row in zip(chosen_markets, lengths, moved_to, strict=True)
    ]
    return _finish(arrays, infos, skipped, lengths, np.concatenate(trades))


def to_device(arrays: dict[str, np.ndarray], bisections: int) -> Tape:
    """Make a tape of host arrays, letting go of each once it is on the device. `arrays` is emptied.

    On a CPU, arrays in aligned memory are not copied: nobody may write to them afterwards.
    """
    return Tape(**{name: jax.device_put(arrays.pop(name)) for name in list(arrays)}, bisections=bisections)


def _finish(
    arrays: dict[str, np.ndarray],
    infos: list[SessionInfo],
    skipped: list[SessionInfo],
    lengths: np.ndarray,
    trades: np.ndarray,
) -> tuple[Tape, TapeIndex]:
    """Add what the rows imply: tracks, grids, range maxima, features.

    Args:
        arrays: rows and entries; it is emptied.
        infos: sessions of the tape.
        skipped: sessions left out.
        lengths: i64[n_markets], rows of the markets.
        trades: see `_trades`.
    """
    rows = len(arrays["time_ms"])
    starts = 1 + np.cumsum(lengths) - lengths
    markets = np.array([len(info.tickers) for info in infos], np.int32)
    first_market = np.cumsum(markets, dtype=np.int32) - markets
    tracks = [arrays["time_ms"][start : start + length] for start, length in zip(starts, lengths, strict=True)]
    changes = [
        np.unique(np.concatenate(tracks[first : first + count]))
        for first, count in zip(first_market, markets, strict=True)
    ]
    positions = np.array([len(times) for times in changes])
    session_times = np.full(_bucket(int(positions.sum())) + SCAN, END_OF_TIME, np.int32)
    session_times[: positions.sum()] = np.concatenate(changes)
    arrays["best_max"] = _range_maxima(arrays["price"][:, :, 0], int(lengths.max()))
    books = {name: arrays[name] for name in ("time_ms", "price", "size", "mark")}
    arrays["features"] = row_features(**books, track=np.stack([starts, lengths], axis=1))
    session_starts = np.cumsum(positions) - positions
    arrays["rhythm"], _ = rhythm_of(session_times, np.stack([session_starts, positions], axis=1))
    entries = (arrays[name] for name in ("entry_row", "entry_size", "entry_traded"))
    arrays["entry_stop"] = queue_stops("risk_averse", *entries)
    arrays["grid"], first_cells, shifts, bisections = _grids([*tracks, *changes])
    arrays["time_ms"] = np.concatenate([arrays["time_ms"], session_times])
    track_start = np.append(starts, rows + session_starts)
    last_ms = [times[-1] for times in (*tracks, *changes)]
    track = np.stack([track_start, np.append(lengths, positions), first_cells, shifts, last_ms], axis=1)
    arrays["track"] = track.astype(np.int32)
    arrays["market_session"] = np.repeat(np.arange(len(infos), dtype=np.int32), markets)
    arrays["session_first_market"], arrays["session_markets"] = first_market, markets
    arrays |= _market_facts(infos) | _trades(trades, starts, rows)
    index = TapeIndex(infos, [ticker for info in infos for ticker in info.tickers], arrays["market_session"], skipped)
    return to_device(arrays, bisections), index


# -- writing rows and entries


def _levels(replayed: Replay) -> int:
    return len(np.unique(replayed.entries.level))


def _bucket(count: int) -> int:
    """Round up to 2**k * {1, 1.25, 1.5, 1.75}, at least 64, so that similar tapes share compiled programs."""
    count = max(count, 64)
    step = 1 << (count - 1).bit_length() - 3
    return -(-count // step) * step


def _empty_arrays(rows: int, entries: int) -> dict[str, np.ndarray]:
    """Allocate for that many rows and entries, sizes rounded up with at least one to spare."""
    rows, entries = _bucket(rows + 1), _bucket(entries + 1)
    if max(rows, entries) >= END_OF_TIME:
        raise DataError(f"{rows} rows and {entries} entries: expected fewer than 2**31; load fewer sessions at once")
    mark = np.zeros((rows, 2), np.int16)
    mark[:, 1] = DOLLAR
    time = np.full(rows, END_OF_TIME, np.int32)
    time[0] = 0
    return {
        "time_ms": time,
        "price": np.zeros((rows, 2, DEPTH), np.int16),
        "size": np.zeros((rows, 2, DEPTH), np.int32),
        "entry": np.zeros((rows, 2, DEPTH), np.int32),
        "mark": mark,
        "restart": np.full(rows, END_OF_TIME, np.int32),
        "entry_row": np.full(entries, END_OF_TIME, np.int32),
        "entry_size": np.zeros(entries, np.int32),
        "entry_traded": np.zeros(entries, np.int32),
    }


def _write_session(
    arrays: dict[str, np.ndarray], info: SessionInfo, replayed: Replay, traded: np.ndarray, row: int, entry: int
) -> None:
    """Write a session's rows, beginning at `row`, and its entries, beginning at `entry`, into the arrays."""
    time = replayed.time_ms - info.started_at_ms
    if time.max() >= END_OF_TIME:
        raise DataError(
            f"session {info.session_id} lasts {time.max()} ms: expected less than 2**31 - 1 ms (24 days); "
            "split it, or repair the times of its first and last changes"
        )
    changes = replayed.entries
    contracts = changes.size // HUNDREDTHS
    if contracts.max(initial=0) > LARGEST_SIZE:
        worst = int(contracts.argmax())
        level, bid = divmod(int(changes.level[worst]), PRICES)
        raise DataError(
            f"session {info.session_id}: market {info.tickers[level // 2]} shows {contracts[worst]} contracts at {bid / CENT} "
            f"cents: expected at most {LARGEST_SIZE}; repair or leave out that row"
        )
    begins = np.append(True, changes.level[1:] != changes.level[:-1])[: len(changes.level)]
    number = np.arange(len(changes.level))
    place = entry + number + np.cumsum(begins) - 1  # one sentinel after each level before
    arrays["entry_row"][place] = row + changes.step
    arrays["entry_size"][place] = contracts
    arrays["entry_traded"][place] = traded // HUNDREDTHS
    # by entry number counted from 1, as top_entries gives them; 0 is no level
    price = np.append(0, changes.level % PRICES).astype(np.int16)
    size = np.append(0, contracts).astype(np.int32)
    entry_place = np.append(0, place).astype(np.int32)
    for at, side, top in top_entries(replayed, DEPTH):
        for name, values in (("price", price), ("size", size), ("entry", entry_place)):
            arrays[name][row + at, side] = values[top]
    rows = slice(row, row + len(time))
    arrays["time_ms"][rows] = time
    arrays["mark"][rows] = _marks(replayed)
    arrays["restart"][rows] = _next_restarts(replayed, row)


def _marks(replayed: Replay) -> np.ndarray:
    """Give best YES bid and ask of each row, i16[R, 2]; of the market's last row with a level where both sides are empty."""
    best, number = replayed.best, np.arange(len(replayed.time_ms))
    quoted = np.maximum.accumulate(np.where((best > 0).any(axis=0), number, -1))
    begin = np.repeat(replayed.first_row[:-1], np.diff(replayed.first_row))
    mark = np.stack([best[YES], DOLLAR - best[NO]], axis=1)[quoted]
    mark[quoted < begin] = 0, DOLLAR
    return mark


def _next_restarts(replayed: Replay, row: int) -> np.ndarray:
    """Find each row's next one of its market at which the book begins anew, i32[R], END_OF_TIME if there is none."""
    count = len(replayed.restart)
    places = np.where(replayed.restart, np.arange(count), END_OF_TIME)
    following = np.append(np.minimum.accumulate(places[::-1])[::-1][1:], END_OF_TIME)[:count]
    stop = np.repeat(replayed.first_row[1:], np.diff(replayed.first_row))
    return np.where(following < stop, following + row, END_OF_TIME)


def _session_trades(replayed: Replay, traded: np.ndarray, row: int) -> np.ndarray:
    """Collect what prints explain (i64[N], 0.01 contract) of a session whose rows begin at `row`: see `_trades`."""
    entries = replayed.entries
    decrease = entries.before // HUNDREDTHS - entries.size // HUNDREDTHS
    size = np.minimum(traded // HUNDREDTHS, np.maximum(decrease, 0))
    at = np.flatnonzero(size > 0)
    book, price = np.divmod(entries.level[at], PRICES)
    table = np.stack([row + entries.step[at], book % 2, price, size[at]], axis=1)
    return table[np.lexsort((-table[:, 2], table[:, 0], book))]


def _trades_of(tape: dict[str, np.ndarray], begin: int, count: int, row: int) -> np.ndarray:
    """Collect the trades of a market of a tape (rows `begin` on, `count` of them) that moves to `row`: see `_trades`."""
    if not len(tape["trade_size"]):
        return np.zeros((0, 4), np.int64)
    counts = tape["trade_count"][begin : begin + count]
    parts = []
    for side in (YES, NO):
        first, last = int(counts[0, side]), int(counts[-1, side])  # a market's first row has no decrease, so no trade
        at = row + 1 + np.repeat(np.arange(count - 1), np.diff(counts[:, side]))
        columns = (at, np.full(last - first, side), tape["trade_price"][first:last], tape["trade_size"][first:last])
        parts.append(np.stack([column.astype(np.int64) for column in columns], axis=1))
    return np.concatenate(parts)


def _trades(table: np.ndarray, starts: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Make the trade arrays of a tape of so many rows.

    Args:
        table: i64[N_trades, 4] of row, side, price and whole contracts; by market side, in order of rows.
        starts: i64[n_markets], first rows of the markets.
        rows: of the tape.
    """
    sizes: dict[str, np.ndarray] = {
        "trade_price": table[:, 2].astype(np.int16),
        "trade_size": table[:, 3].astype(np.int32),
    }
    if not len(table):
        return {"trade_count": np.zeros((1, 2), np.int32), **sizes}
    count = np.zeros((rows, 2), np.int64)
    np.add.at(count, (table[:, 0], table[:, 1]), 1)
    stops = np.append(starts[1:], rows)
    base = 0
    for first, stop in zip(starts, stops, strict=True):
        for side in (YES, NO):
            count[first:stop, side] = base + np.cumsum(count[first:stop, side])
            base = int(count[stop - 1, side])
    return {"trade_count": count.astype(np.int32), **sizes}


def _market_facts(infos: list[SessionInfo]) -> dict[str, np.ndarray]:
    """Collect close times, results and fees of all markets on a tape."""
    markets = [(info.started_at_ms, market) for info in infos for market in info.markets]
    closes = [END_OF_TIME if m.close_ms is None else m.close_ms - start for start, m in markets]
    return {
        "market_close_ms": np.clip(closes, 0, END_OF_TIME).astype(np.int32),
        "market_result": np.array([market.result for _, market in markets], np.int32),
        "market_fee": np.array([market.fees for _, market in markets], np.int32),
    }


def _range_maxima(best: np.ndarray, longest: int) -> np.ndarray:
    """Build the sparse table i16[L, R, S] of maxima over 2**l rows; those past the tape's end are over fewer."""
    table = np.empty((longest.bit_length(), *best.shape), np.int16)
    table[0] = best
    for level in range(1, len(table)):
        half = 1 << (level - 1)
        table[level] = table[level - 1]
        np.maximum(table[level, :-half], table[level - 1, half:], out=table[level, :-half])
    return table


def _grids(tracks: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Build the tracks' time grids.

    Returns:
        grid i32[C], first cell of each track and shift of each i32[tracks], and the number of bisections that bring the
        fullest cell down to SCAN positions (an even number, so that similar tapes share compiled programs).
    """
    shifts, cells, fullest = [], [], 0
    for times in tracks:
        last, most = int(times[-1]), max(64, len(times))
        shift = (last // most).bit_length()
        before = np.searchsorted(times, np.arange((last >> shift) + 2) << shift).astype(np.int32)
        shifts.append(shift)
        cells.append(before)
        fullest = max(fullest, int(np.diff(before).max()))
    halvings = max(0, (fullest - 1).bit_length() - (SCAN - 1).bit_length())
    first = np.cumsum([0, *map(len, cells)])
    grid = np.zeros(_bucket(int(first[-1]) + 1), np.int32)
    grid[: first[-1]] = np.concatenate(cells)
    return grid, first[:-1].astype(np.int32), np.array(shifts, np.int32), (halvings + 1) // 2 * 2
