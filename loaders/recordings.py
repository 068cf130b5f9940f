"""Recordings: files of exchange frames, one JSON object a line, become Events.

Lines are parsed in blocks and turned into columns in bulk; no Python statement runs per book change. Sequence numbers
decide what is known of a book: after a gap, nothing until the market's next snapshot.
"""

from __future__ import annotations

import glob
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from loaders import frames as fr
from loaders.events import DataError, Events, Kind, MarketFacts, Report, Trades, forward_times
from loaders.metadata import facts_of_lifecycle

BLOCK = 1 << 19  # bytes of text parsed at once: what they become stays in the cache
NEVER = np.iinfo(np.int64).max
BAD_LINE = "line is not a JSON object"
CUT_SHORT = "gzip stream ends early or is damaged"
Columns = dict[str, np.ndarray]


def find_recordings(source: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the recordings that a path, a folder, a glob pattern or a list of these names, in order and once each."""
    paths: dict[Path, None] = {}
    for pattern in [source] if isinstance(source, str | Path) else source:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
        else:
            found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(str(pattern)))
        if not found:
            raise FileNotFoundError(
                f"{pattern}: no recording there: expected a .jsonl or .jsonl.gz file, a folder or a glob"
            )
        paths.update(dict.fromkeys(found))
    return list(paths)


def session_id_of(path: Path) -> str:
    """Name the session of a recording: its file name without .jsonl or .jsonl.gz."""
    return re.sub(r"\.jsonl(\.gz)?$", "", path.name)


def read_recordings(paths: Sequence[Path], skip_bad_rows: bool = False) -> Iterator[Events]:
    """Read recordings one by one, each a session named by `session_id_of` its path.

    A frame that is JSON but makes no sense (an unknown side, a price of 0) is left out and counted in
    `Events.report.dropped`; a line that is not a JSON object, or a gzip file that is cut short, means that the file
    itself is broken.

    Args:
        paths: files of frames, plain or gzipped.
        skip_bad_rows: leave out and count what is broken in a file too.

    Raises:
        DataError: a file is broken, unless that is to be skipped.
    """
    for path in paths:
        yield read_recording(path, skip_bad_rows)


def read_recording(path: Path, skip_bad_rows: bool = False) -> Events:
    """Read one recording. See `read_recordings`."""
    report, tickers = Report(), dict[str, int]()
    blocks = [fr.frame_columns([], tickers) | {"line": np.zeros(0, np.int64)}]
    trades, off_book = [fr.read_trades([], blocks[0])[0]], 0
    levels: dict[int, np.ndarray | None] = {}
    facts: dict[str, MarketFacts] = {}
    first = 0
    for frames, lines in _frames(path, report, skip_bad_rows):
        columns = fr.frame_columns(frames, tickers) | {"line": lines}
        some_trades, block_trade = fr.read_trades(frames, columns)
        for i in np.flatnonzero((columns["type"] == fr.SNAPSHOT) & (columns["fault"] == 0)).tolist():
            levels[first + i] = fr.snapshot_levels(fr.message_of(frames[i]))
        for i in np.flatnonzero(columns["type"] == fr.OTHER).tolist():
            message, name = fr.message_of(frames[i]), fr.message_of(frames[i]).get("market_ticker")
            if frames[i]["type"] == fr.LIFECYCLE and isinstance(name, str):
                facts[name] = facts_of_lifecycle(message, facts.get(name, MarketFacts()))
        blocks.append(columns)
        trades.append(some_trades)
        off_book += int(block_trade.sum())
        first += len(frames)
    columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    for i in [i for i, rows in levels.items() if rows is None]:
        columns["fault"][i] = fr.BAD_LEVELS
    _judge(columns, report)
    kinds = Counter(columns["type"][columns["fault"] == 0].tolist())
    report.snapshots, report.deltas, report.tickers = kinds[fr.SNAPSHOT], kinds[fr.DELTA], kinds[fr.TICKER]
    report.trades, report.other = kinds[fr.TRADE] - off_book, kinds[fr.OTHER] + off_book
    for fault, count in Counter(columns["fault"][columns["fault"] > 0].tolist()).items():
        report.drop(fr.REASONS[fault], _line(columns, columns["fault"] == fault), count)
    events = _to_events(session_id_of(path), list(tickers), columns, levels, _join(trades), report)
    return replace(events, facts={name: facts[name] for name in tickers if name in facts})


# -- lines


def _frames(path: Path, report: Report, skip: bool) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Parse a file block by block into frames and their line numbers; a line that is no JSON object is counted, or an error."""
    before = 0
    for lines in _lines(path, report, skip):
        try:
            frames = orjson.loads(b"[" + b",".join(lines) + b"]")
            whole = len(frames) == len(lines) and all(type(frame) is dict for frame in frames)
        except orjson.JSONDecodeError:
            whole = False
        numbers = np.arange(before + 1, before + 1 + len(lines))
        if not whole:
            frames, numbers = _frames_one_by_one(path, lines, before, report, skip)
        before += len(lines)
        report.rows_read += len(frames)
        yield frames, numbers


def _frames_one_by_one(
    path: Path, lines: list[bytes], before: int, report: Report, skip: bool
) -> tuple[list[dict], np.ndarray]:
    frames, numbers = [], []
    for number, line in enumerate(lines, start=before + 1):
        if not line.strip():
            continue
        try:
            frame = orjson.loads(line)
        except orjson.JSONDecodeError:
            frame = None
        if isinstance(frame, dict):
            frames.append(frame)
            numbers.append(number)
        elif skip:
            report.rows_read += 1
            report.drop(BAD_LINE, f"line {number}")
        else:
            raise DataError(
                f"{path}:{number}: {BAD_LINE}: {line[:60]!r}: expected one exchange frame a line, such as "
                '{"recv_ms": 1, "type": "orderbook_delta", "sid": 1, "seq": 2, "msg": {...}}; repair the line, or load '
                "with skip_bad_rows=True (--skip-bad-rows) to leave it out and count it"
            )
    return frames, np.array(numbers, np.int64)


def _lines(path: Path, report: Report, skip: bool) -> Iterator[list[bytes]]:
    """Read a file, gunzipped if it is gzipped, as blocks of whole lines."""
    rest, count = b"", 0
    try:
        for text in _text(path):
            *lines, rest = (rest + text).split(b"\n")
            count += len(lines)
            if lines:
                yield lines
    except (EOFError, zlib.error) as error:
        if not skip:
            raise DataError(
                f"{path}:{count + 1}: {CUT_SHORT} ({error}): expected a complete gzip file; copy it again, or load with "
                f"skip_bad_rows=True (--skip-bad-rows) to use the {count} whole lines before"
            ) from error
        report.rows_read += 1
        report.drop(CUT_SHORT, f"line {count + 1}")
        return
    if rest:
        yield [rest]


def _text(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        block = file.read(BLOCK)
        if not block.startswith(b"\x1f\x8b"):
            while block:
                yield block
                block = file.read(BLOCK)
            return
        stream = zlib.decompressobj(wbits=31)
        while block:
            before = stream.copy()
            try:
                yield stream.decompress(block, BLOCK)
            except zlib.error:
                yield from _undamaged(before, block)
            block = stream.unconsumed_tail
            if stream.eof:  # a gzip file may hold several streams, one after the other
                block = stream.unused_data or file.read(BLOCK)
                stream = zlib.decompressobj(wbits=31) if block else stream
            elif not block:
                block = file.read(BLOCK)
        if not stream.eof:
            raise EOFError("the end-of-stream marker is missing")


def _undamaged(stream: Any, block: bytes) -> Iterator[bytes]:
    """Gunzip a block byte by byte, up to the place where the stream is damaged, and raise there as zlib does."""
    text = bytearray()
    try:
        for i in range(len(block)):
            text += stream.decompress(block[i : i + 1])
    finally:
        yield bytes(text)


def _line(frame: Columns, marked: np.ndarray) -> str:
    """Name the first of the marked frames, of which there is one."""
    return f"line {frame['line'][marked.argmax()]}"


def _join(parts: list[Trades]) -> Trades:
    names = ("market", "time_ms", "yes_price", "size", "taker_side")
    return Trades(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


# -- what is known of a book, and when


def _judge(frame: Columns, report: Report) -> None:
    """Settle each frame's time and find the deltas whose book is not known.

    A snapshot carries only the recorder's clock, which runs behind: it is no later than the next delta of its market.
    Writes `time_ms` and `fault`, adds `breaks` (bool[n], a sequence that does not go on) and counts gaps and epochs.
    """
    market, kind = frame["market"], frame["type"]
    time = np.where(frame["time_ms"] >= 0, frame["time_ms"], frame["recv_ms"])
    snapshot = (kind == fr.SNAPSHOT) & (market >= 0)
    delta = (kind == fr.DELTA) & (frame["fault"] == 0)
    following = len(time) - 1 - _latest(market[::-1], delta[::-1])[::-1]  # n: no delta follows
    ceiling = np.append(time, NEVER)[following]
    own = np.where(frame["time_ms"] >= 0, frame["time_ms"], np.where(frame["recv_ms"] >= 0, frame["recv_ms"], NEVER))
    time[snapshot] = np.minimum(own, ceiling)[snapshot]
    frame["fault"][snapshot & (frame["fault"] == 0) & (time == NEVER)] = fr.NO_TIME
    frame["time_ms"] = np.where(time == NEVER, -1, time)

    gap, restart, report.epochs = _sequence_breaks(frame)
    report.sequence_gaps = int(gap.sum())
    if report.sequence_gaps:
        report.first["sequence_gaps"] = _line(frame, gap)
    frame["breaks"] = gap | restart
    _, subscription = np.unique(frame["sid"], return_inverse=True)
    shown, broken = _latest(market, snapshot), _latest(subscription, frame["breaks"])
    readable = (shown >= 0) & (np.append(frame["fault"], 0)[shown] == 0)
    frame["fault"][delta & ~readable] = fr.NO_BOOK
    frame["fault"][delta & readable & (shown < broken)] = fr.AFTER_GAP


def _sequence_breaks(frame: Columns) -> tuple[np.ndarray, np.ndarray, int]:
    """Find where a subscription's numbers do not go on: bool[n] of gaps, bool[n] of restarts at 1, number of epochs."""
    numbered = np.flatnonzero(np.isfinite(frame["seq"]))
    order = numbered[np.argsort(frame["sid"][numbered], kind="stable")]
    sid, seq = frame["sid"][order], frame["seq"][order]
    same = sid[1:] == sid[:-1]
    jump = same & (seq[1:] != seq[:-1] + 1)
    again = jump & (seq[1:] == 1) & (frame["type"][order][1:] != fr.DELTA)
    gap, restart = np.zeros(len(frame["seq"]), bool), np.zeros(len(frame["seq"]), bool)
    gap[order[1:][jump & ~again]] = True
    restart[order[1:][again]] = True
    return gap, restart, int(len(order) > 0) + int((~same).sum()) + int(again.sum())


def _latest(group: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Find, for each position, the last marked position of its group at or before it: i64[n], -1 if there is none."""
    order = np.argsort(group, kind="stable")
    _, rank = np.unique(group[order], return_inverse=True)
    base = rank * (len(group) + 1)  # each group counts above the one before it, so one running maximum serves all
    latest = np.empty(len(group), np.int64)
    latest[order] = np.maximum.accumulate(base + np.where(marked[order], order + 1, 0)) - base - 1
    return latest


# -- events


def _to_events(
    session_id: str,
    tickers: list[str],
    frame: Columns,
    levels: dict[int, np.ndarray | None],
    trades: Trades,
    report: Report,
) -> Events:
    used = np.flatnonzero((frame["type"] == fr.DELTA) & (frame["fault"] == 0))
    columns = [frame[name][used] for name in ("side", "price", "size")]
    parts = [np.stack([used, np.full(len(used), Kind.ADD), frame["market"][used], *columns], axis=1)]
    parts += [np.array([[at, Kind.CLEAR, market, 0, 0, 0]]) for at, market in _endings(frame)]
    for at, rows in levels.items():
        if rows is not None and frame["fault"][at] == 0:
            head = np.broadcast_to([at, Kind.SET, frame["market"][at]], (len(rows) + 1, 3))
            part = np.concatenate([head, np.concatenate([np.zeros((1, 3), np.int64), rows])], axis=1)
            part[0, 1] = Kind.CLEAR
            parts.append(part)
    rows = np.concatenate(parts)
    at, kind, market, side, price, size = rows[np.argsort(rows[:, 0], kind="stable")].T
    time, late = forward_times(market, frame["time_ms"][at])
    raised = at[late & (kind == Kind.ADD)]
    report.times_repaired = len(raised)
    if len(raised):
        report.first["times_repaired"] = f"line {frame['line'][raised[0]]}"
    return Events(
        session_id=session_id,
        tickers=tickers,
        market=market.astype(np.int32),
        time_ms=time,
        kind=kind.astype(np.int8),
        side=side.astype(np.int8),
        price=price.astype(np.int32),
        size=size.copy(),
        trades=trades,
        report=report,
    )


def _endings(frame: Columns) -> list[tuple[int, int]]:
    """Find where a known book stops being known: (frame, market) of unreadable snapshots and of sequence breaks."""
    shown = np.flatnonzero((frame["type"] == fr.SNAPSHOT) & (frame["market"] >= 0))
    shown = shown[np.argsort(frame["market"][shown], kind="stable")]
    broken = np.flatnonzero(frame["breaks"])
    breaks_of = {sid: broken[frame["sid"][broken] == sid] for sid in np.unique(frame["sid"][broken]).tolist()}
    endings = []
    for start, stop in zip(shown, [*shown[1:], -1], strict=False):
        market = frame["market"][start]
        last = stop if stop >= 0 and frame["market"][stop] == market else len(frame["market"])
        breaks = breaks_of.get(frame["sid"][start], broken[:0])
        first_break = np.append(breaks, len(frame["market"]))[np.searchsorted(breaks, start, side="right")]
        if frame["fault"][start] == 0 and first_break < last:
            endings.append((int(first_break), int(market)))
        elif frame["fault"][start] == 0 and last == stop and frame["fault"][stop]:
            endings.append((int(stop), int(market)))
    return endings
