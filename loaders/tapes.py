"""Tapes: replayed sessions packed into the arrays of one `kalshi_jax.tape.Tape`.

Arrays are allocated once, at padded sizes, and each session is written into its place.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import numpy as np
from numpy.typing import DTypeLike

from kalshi_jax.features import ROW_FEATURES, rhythm_of, row_features
from kalshi_jax.queues import is_fall, next_lower, queue_falls
from kalshi_jax.tape import (
    CENT,
    DOLLAR,
    END_OF_TIME,
    ENTRY,
    FALL,
    FEATURES,
    LOWER,
    MARK,
    NO,
    PRICE,
    RESTART,
    ROW,
    SCAN,
    SIZE,
    TRADED,
    YES,
    Tape,
)
from loaders.catalogue import SessionFilter
from loaders.closes import close_markets
from loaders.events import HUNDREDTHS, DataError, Events
from loaders.index import SessionInfo, TapeIndex, describe
from loaders.prints import match_prints
from loaders.replay import BATCH, PRICES, Replay, replay, split_counts, top_entries
from loaders.strict import refuse_repairs

DEPTH = 10  # book levels K of a row
LARGEST_SIZE = 2**31 - 1  # whole contracts
ALIGNMENT = 64  # bytes: XLA's own
Progress = Callable[[int, int, str], None]  # sessions done, sessions in all (0: unknown), the last one's id


def build_tape(
    sessions: Iterable[Events],
    progress: Progress | None = None,
    total: int = 0,
    wanted: SessionFilter = SessionFilter(),  # noqa: B008 - it is frozen
    strict: bool = False,
) -> tuple[Tape, TapeIndex]:
    """Build the tape of some sessions.

    Args:
        sessions: their events; each session's are freed once replayed.
        progress: told after each session.
        total: number of sessions, for progress; 0: unknown.
        wanted: conditions; sessions that do not meet them are left out, and those skipped for their marks are listed so.
        strict: refuse a session that meets the conditions and needed a repair: see `refuse_repairs`.

    Raises:
        DataError: no session has a market with a book and is wanted, two sessions have one id, a session is too long, a
            size too large or a repair refused.
    """
    infos, skipped, replays = _replay_sessions(sessions, progress, total, wanted, strict)
    rows = np.cumsum([1, *(len(r.time_ms) for r, _ in replays)])
    entries = np.cumsum([1, *(len(r.entries.level) + _levels(r) for r, _ in replays)])
    arrays = _empty_arrays(int(rows[-1]), int(entries[-1]))
    lengths = np.concatenate([np.diff(r.first_row) for r, _ in replays])
    replays.reverse()
    trades = [
        _write_session(arrays, info, *replays.pop(), int(row), int(entry))  # freed once it is written
        for info, row, entry in zip(infos, rows, entries, strict=False)
    ]
    return _finish(arrays, infos, skipped, lengths, np.concatenate(trades))


def _replay_sessions(
    sessions: Iterable[Events], progress: Progress | None, total: int, wanted: SessionFilter, strict: bool
) -> tuple[list[SessionInfo], list[SessionInfo], list[tuple[Replay, np.ndarray]]]:
    """Replay sessions: those of the tape, those skipped, and of the first their replay and what prints explain of its entries."""
    unwanted = 0
    infos: list[SessionInfo] = []
    skipped: list[SessionInfo] = []
    replays: list[tuple[Replay, np.ndarray]] = []
    numbers = itertools.count(1)  # enumerate would keep a session while the next is read
    for recorded in sessions:
        info, replayed, traded = replay_session(recorded)
        if info.session_id in {other.session_id for other in [*infos, *skipped]}:
            raise DataError(f"session {info.session_id} occurs twice in the source: give each session once")
        meets = wanted.meets(info)
        if meets and strict:
            refuse_repairs(info.session_id, info.report)
        if not meets:
            unwanted += 1
        elif info.tickers and not wanted.skips(info):
            infos.append(info)
            replays.append((replayed, traded))
        else:
            skipped.append(info)
        if progress:
            progress(next(numbers), total, info.session_id)
        del recorded, replayed, traded  # likewise
    if not replays:
        found = [f"{i.session_id} ({', '.join(i.marks)}; dropped {i.report.dropped or 'nothing'})" for i in skipped]
        found += [f"{unwanted} that do not meet {wanted}"] * bool(unwanted)
        said = ", ".join(found) or "no session at all" + (f" that meets {wanted}" if wanted != SessionFilter() else "")
        raise DataError(f"nothing to load: expected a session with a market that shows a book; found {said}")
    return infos, skipped, replays


def replay_session(recorded: Events) -> tuple[SessionInfo, Replay, np.ndarray]:
    """Replay a session up to the closes of its markets: what it is, its replay, and what prints explain of its entries."""
    events = close_markets(recorded)
    replayed = replay(events)
    traded, events.report.prints_unmatched = match_prints(replayed, events.trades)
    return describe(events, replayed), replayed, traded


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
    infos = [index.sessions[known[name]] for name in wanted if known[name] < len(index.sessions)]
    skipped = [info for info in index.skipped if info.session_id in wanted]
    if not infos:
        left = [f"{info.session_id} is not on this tape ({', '.join(info.marks)})" for info in skipped]
        raise DataError(f"nothing to load: session {', '.join(left)}; choose others")
    return _select(tape, index, infos, skipped)


def select_markets(tape: Tape, index: TapeIndex, chosen: Mapping[str, Sequence[str]]) -> tuple[Tape, TapeIndex]:
    """Make a tape of some markets of a tape: of a part of a split, say, whose sessions hold markets of other parts too.

    Times still count from the start of the whole session, and statistics are of all its markets; what the session's rhythm
    is (a feature) follows from the chosen ones alone.

    Args:
        tape, index: to choose from.
        chosen: tickers by session id.

    Raises:
        DataError: the tape has no such session or no such market of it, or nothing is chosen.
    """
    sessions = {info.session_id: info for info in index.sessions}
    infos = []
    for name, tickers in chosen.items():
        if name not in sessions:
            raise DataError(f"no session {name} on this tape: expected one of {', '.join(sessions)}")
        infos.append(sessions[name].narrow(tickers))
    if not infos:
        raise DataError("nothing to load: no market is chosen; name at least one")
    return _select(tape, index, infos, [])


def _select(
    tape: Tape, index: TapeIndex, infos: list[SessionInfo], skipped: list[SessionInfo]
) -> tuple[Tape, TapeIndex]:
    """Make a tape of the markets of `infos`, sessions of the tape with all or some of their tickers."""
    host = {name: np.asarray(getattr(tape, name)) for name in Tape.array_names()}
    ids = [index.sessions[session].session_id for session in index.session_of_market]
    number = {place: market for market, place in enumerate(zip(ids, index.tickers, strict=True))}
    markets = np.array([number[info.session_id, ticker] for info in infos for ticker in info.tickers])
    begins, lengths = (host["track"][markets, column].astype(np.int64) for column in (0, 1))
    spans = _entry_spans(host, markets)
    falls = is_fall(host["entries"][:, ROW], host["entries"][:, SIZE])
    traded = np.zeros(len(falls), np.int32)
    traded[falls] = host["falls"][: falls.sum(), TRADED]
    arrays = _empty_arrays(1 + int(lengths.sum()), 1 + sum(span.stop - span.start for span in spans))
    row, entry, trades = 1, 1, []
    for begin, count, span in zip(begins.tolist(), lengths.tolist(), spans, strict=True):
        source, target = slice(begin, begin + count), slice(row, row + count)
        for name in ("time_ms", "levels"):
            arrays[name][target] = host[name][source]
        last = arrays["levels"][target, :, :, ENTRY]
        last += np.where(last > 0, entry - span.start, 0)
        restarts = host["record"][source, RESTART]
        arrays["begins"][restarts[restarts < END_OF_TIME] - begin + row] = True
        size = span.stop - span.start
        moved = arrays["entries"][entry : entry + size]
        moved[:] = host["entries"][span]
        moved[:, ROW] += np.where(moved[:, ROW] < END_OF_TIME, row - begin, 0)
        arrays["traded"][entry : entry + size] = traded[span]
        trades.append(_trades_of(host, begin, count, row))
        row, entry = row + count, entry + size
    return _finish(arrays, infos, skipped, lengths, np.concatenate(trades))


def _entry_spans(tape: dict[str, np.ndarray], markets: np.ndarray) -> list[slice]:
    """Find where the entries of some markets (i64[n]) lie, each with its last sentinel; a market's lie together."""
    count = len(tape["market_session"])
    rows = tape["entries"][:, ROW]
    changes = np.flatnonzero(rows < END_OF_TIME)  # market by market, as the tape has them
    owner = np.searchsorted(tape["track"][:count, 0], rows[changes], side="right") - 1
    first, stop = (np.searchsorted(owner, markets, side=side) for side in ("left", "right"))
    return [
        slice(int(changes[a]), int(changes[b - 1]) + 2) if a < b else slice(0, 0)
        for a, b in zip(first, stop, strict=True)
    ]


def to_device(arrays: dict[str, np.ndarray], bisections: int) -> Tape:
    """Make a tape of host arrays, letting go of each once it is on the device. `arrays` is emptied.

    A CPU device takes over the memory of an array that begins at a multiple of `ALIGNMENT`; it must not change any more.
    """
    on_device = {
        name: jax.block_until_ready(jax.device_put(arrays.pop(name), may_alias=True))  # so that it copies one at a time
        for name in list(arrays)
    }
    return Tape(**on_device, bisections=bisections)


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
    bisections = _add_tracks(arrays, starts, lengths, first_market, markets)
    arrays["falls"] = _add_falls(arrays["entries"], arrays.pop("traded"))
    arrays["market_session"] = np.repeat(np.arange(len(infos), dtype=np.int32), markets)
    arrays["session_first_market"], arrays["session_markets"] = first_market, markets
    arrays |= _market_facts(infos) | _trades(trades, starts, rows)
    # the largest come last: all that needs memory for a while is done by then
    arrays["best_max"] = _range_maxima(arrays["levels"][:, :, 0, PRICE], int(lengths.max()))
    arrays["record"] = _records(arrays, starts, lengths)
    index = TapeIndex(infos, [ticker for info in infos for ticker in info.tickers], arrays["market_session"], skipped)
    return to_device(arrays, bisections), index


def _add_tracks(
    arrays: dict[str, np.ndarray],
    starts: np.ndarray,
    lengths: np.ndarray,
    first_market: np.ndarray,
    markets: np.ndarray,
) -> int:
    """Add the sessions' change times, their rhythm, and tracks and grids of all; returns the bisections of `_grids`."""
    rows = len(arrays["time_ms"])
    tracks = [arrays["time_ms"][start : start + length] for start, length in zip(starts, lengths, strict=True)]
    changes = [
        _distinct(np.sort(np.concatenate(tracks[first : first + count])))
        for first, count in zip(first_market, markets, strict=True)
    ]
    positions = np.array([len(times) for times in changes])
    session_times = np.full(_bucket(int(positions.sum())) + SCAN, END_OF_TIME, np.int32)
    session_times[: positions.sum()] = np.concatenate(changes)
    session_starts = np.cumsum(positions) - positions
    rhythm, _ = rhythm_of(session_times, np.stack([session_starts, positions], axis=1))
    arrays["rhythm"] = _zeros(rhythm.shape, rhythm.dtype)
    arrays["rhythm"][:] = rhythm
    arrays["grid"], first_cells, shifts, bisections = _grids([*tracks, *changes])
    arrays["time_ms"] = np.concatenate([arrays["time_ms"], session_times])
    track_start = np.append(starts, rows + session_starts)
    last_ms = [times[-1] for times in (*tracks, *changes)]
    track = np.stack([track_start, np.append(lengths, positions), first_cells, shifts, last_ms], axis=1)
    arrays["track"] = track.astype(np.int32)
    return bisections


def _add_falls(entries: np.ndarray, traded: np.ndarray) -> np.ndarray:
    """Fill in what `Tape.entries` tell of falls, and make `Tape.falls`, some levels at a time.

    Args:
        entries: of the tape.
        traded: i32[N_entries], what prints explain of the decreases.
    """
    ends = np.flatnonzero(entries[:, ROW] == END_OF_TIME)
    begins = ends[:-1][np.diff(ends) > 1] + 1  # of levels
    places = np.searchsorted(begins, np.arange(BATCH, len(entries), BATCH))
    cuts = _distinct(np.append(begins[places[places < len(begins)]], len(entries)))
    parts = [slice(a, b) for a, b in itertools.pairwise([0, *cuts.tolist()])]
    counts = [int(is_fall(entries[part, ROW], entries[part, SIZE]).sum()) for part in parts]
    every = _zeros((_bucket(sum(counts) + 1), TRADED + 1), np.int32)
    every[:, ROW] = END_OF_TIME
    for part, count, stop in zip(parts, counts, itertools.accumulate(counts), strict=True):
        columns, falls = queue_falls(entries[part, ROW], entries[part, SIZE], traded[part])
        entries[part, FALL:] = columns + (stop - count)
        falls[:, LOWER] += stop - count
        every[stop - count : stop] = falls
    return every


def _records(arrays: dict[str, np.ndarray], starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Build `Tape.record`, some markets at a time; rows that are none show an empty book. `begins` leaves the arrays."""
    begins = arrays.pop("begins")
    every = _zeros((len(begins), FEATURES + ROW_FEATURES), np.int32)
    every[:, MARK], every[:, RESTART] = (0, DOLLAR), END_OF_TIME
    features = every[:, FEATURES:].view(np.float32)
    for group in split_counts(lengths, BATCH):
        first, stop = int(starts[group[0]]) - 1, int(starts[group[-1]] + lengths[group[-1]])
        levels, record = arrays["levels"][first:stop], every[first:stop]
        bounds = np.append(starts[group], stop) - first - 1
        best = levels[1:, :, 0, PRICE]
        record[1:, :2], record[1:, MARK] = best, _marks(best, bounds)
        record[1:, RESTART] = _next_begins(begins[first + 1 : stop], bounds, first + 1)
        # the row before the first market stands for NO_ROW, which it is for the tape's first market
        part = row_features(
            arrays["time_ms"][first:stop],
            levels[..., PRICE],
            levels[..., SIZE],
            record[:, MARK],
            track=np.stack([starts[group] - first, lengths[group]], axis=1),
        )
        features[first + (first > 0) : stop] = part[int(first > 0) :]
    return every


def _marks(best: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Give best YES bid and ask of each row; of the market's last row with a level where both sides are empty.

    Args:
        best: i[R, S], best bids.
        bounds: i[markets + 1], the markets' first rows, and R.

    Returns:
        i[R, 2], in 0.01 cent.
    """
    quoted = np.maximum.accumulate(np.where((best > 0).any(axis=1), np.arange(len(best)), -1))
    mark = np.stack([best[:, YES], DOLLAR - best[:, NO]], axis=1)[quoted]
    mark[quoted < np.repeat(bounds[:-1], np.diff(bounds))] = 0, DOLLAR
    return mark


def _next_begins(begins: np.ndarray, bounds: np.ndarray, row: int) -> np.ndarray:
    """Find each row's next one of its market at which the book begins anew, i[R], END_OF_TIME if there is none.

    Args:
        begins: bool[R], of the rows that lie at `row` and after it on the tape.
        bounds: as in `_marks`.
        row: of the tape.
    """
    places = np.where(begins, np.arange(len(begins)), END_OF_TIME)
    following = np.append(np.minimum.accumulate(places[::-1])[::-1][1:], END_OF_TIME)
    return np.where(following < np.repeat(bounds[1:], np.diff(bounds)), following + row, END_OF_TIME)


# -- writing rows and entries


def _levels(replayed: Replay) -> int:
    return len(_distinct(replayed.entries.level))


def _distinct(ascending: np.ndarray) -> np.ndarray:
    """Leave out repetitions; several times as fast as np.unique."""
    return ascending[np.append(True, ascending[1:] != ascending[:-1])[: len(ascending)]]


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
    time = np.full(rows, END_OF_TIME, np.int32)
    time[0] = 0
    changes = _zeros((entries, 4), np.int32)
    changes[:, ROW] = END_OF_TIME
    return {
        "time_ms": time,
        "levels": _zeros((rows, 2, DEPTH, 3), np.int32),
        "begins": np.zeros(rows, bool),  # at which a book begins anew, or closes
        "entries": changes,
        "traded": np.zeros(entries, np.int32),  # of the decrease of an entry, by trade prints
    }


def _zeros(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray:
    """Allocate zeros where `to_device` can leave them; memory that nothing is written to is not taken."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def _write_session(
    arrays: dict[str, np.ndarray], info: SessionInfo, replayed: Replay, traded: np.ndarray, row: int, entry: int
) -> np.ndarray:
    """Write a session's rows, beginning at `row`, and its entries, beginning at `entry`, into the arrays.

    Returns:
        its trades: see `_trades`.
    """
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
    arrays["entries"][place, ROW], arrays["entries"][place, SIZE] = row + changes.step, contracts
    arrays["traded"][place] = traded // HUNDREDTHS
    # by entry number counted from 1, as top_entries gives them; 0 is no level
    columns = {PRICE: changes.level % PRICES, SIZE: contracts, ENTRY: place}
    shown = {column: np.append(0, values).astype(np.int32) for column, values in columns.items()}
    for at, side, top in top_entries(replayed, DEPTH):
        for column, values in shown.items():
            arrays["levels"][row + at, side, :, column] = values[top]
    rows = slice(row, row + len(time))
    arrays["time_ms"][rows] = time
    arrays["begins"][rows] = replayed.restart
    return _session_trades(replayed, traded, row)


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
    if not len(tape["trades"]):
        return np.zeros((0, 4), np.int64)
    counts = tape["trade_count"][begin : begin + count]
    parts = []
    for side in (YES, NO):
        first, last = int(counts[0, side]), int(counts[-1, side])  # a market's first row has no decrease, so no trade
        at = row + 1 + np.repeat(np.arange(count - 1), np.diff(counts[:, side]))
        found = tape["trades"][first:last].astype(np.int64)
        parts.append(np.stack([at, np.full(last - first, side), found[:, PRICE], found[:, SIZE]], axis=1))
    return np.concatenate(parts)


def _trades(table: np.ndarray, starts: np.ndarray, rows: int) -> dict[str, np.ndarray]:
    """Make the trade arrays of a tape of so many rows.

    Args:
        table: i64[N_trades, 4] of row, side, price and whole contracts; by market side, in order of rows.
        starts: i64[n_markets], first rows of the markets.
        rows: of the tape.
    """
    if not len(table):
        return {"trade_count": np.zeros((1, 2), np.int32), "trades": np.zeros((0, 3), np.int32)}
    count = np.zeros((rows, 2), np.int64)
    np.add.at(count, (table[:, 0], table[:, 1]), 1)
    book = np.searchsorted(starts, table[:, 0], side="right") * 2 + table[:, 1]
    lower = next_lower(table[:, 2], np.append(True, book[1:] != book[:-1]))
    stops = np.append(starts[1:], rows)
    base = 0
    for first, stop in zip(starts, stops, strict=True):
        for side in (YES, NO):
            count[first:stop, side] = base + np.cumsum(count[first:stop, side])
            base = int(count[stop - 1, side])
    trades = np.stack([table[:, 2], table[:, 3], lower], axis=1)
    return {"trade_count": count.astype(np.int32), "trades": trades.astype(np.int32)}


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
    table = _zeros((longest.bit_length(), *best.shape), np.int16)
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
