"""What must hold of every input, however broken.

It either is refused with a `DataError` that names it, or becomes events of which every row read is used or reported, and of which
books follow that are possible. `benchmarks/fuzz.py` feeds many thousands of inputs; test_fuzz.py feeds a few hundred.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import numpy as np

from kalshi_jax.tape import DOLLAR
from loaders import DataError, build_tape, read_metadata
from loaders.closes import close_markets
from loaders.events import Events, Kind
from loaders.index import describe
from loaders.metadata import RESULTS
from loaders.recordings import read_recording
from loaders.replay import replay
from loaders.session_rows import events_from_rows
from tests.loaders.mutations import (
    Rows,
    broken_metadata,
    broken_recording,
    broken_rows,
    sound_recordings,
    sound_rows,
)

RECORDING, DATABASE, METADATA = "recording", "database rows", "metadata file"


@dataclass
class Outcome:
    """What became of a broken input."""

    kind: str  # "refused", "used" or "used with reports"
    reasons: Counter[str]  # of a refusal, its message without names and numbers; else what was reported


@dataclass
class Fuzzer:
    """Makes broken inputs and checks what becomes of them; the same seed gives the same input."""

    folder: Path  # a place for files
    recordings: list[list[bytes]] = field(default_factory=sound_recordings)
    rows: Rows = field(default_factory=sound_rows)

    def feed(self, kind: str, seed: int) -> Outcome:
        """Check one input.

        Raises:
            AssertionError, or anything but a DataError: a defect of the loaders.
        """
        rng = Random(seed)
        if kind == DATABASE:
            return check_rows(broken_rows(rng, self.rows))
        if kind == METADATA:
            return check_metadata(broken_metadata(rng), self.folder / "broken.json")
        data, ending = broken_recording(rng, rng.choice(self.recordings))
        return check_recording(rng, data, self.folder / f"broken{ending}")


def check_recording(rng: Random, data: bytes, path: Path) -> Outcome:
    """Read a file of frames in either way and check what becomes of it; `path` is written."""
    path.write_bytes(data)
    skip = rng.random() < 0.7
    try:
        events = read_recording(path, skip_bad_rows=skip)
    except DataError as error:
        if skip:
            raise AssertionError("refused, where what is broken is to be skipped") from error
        return _refused(error, str(path))
    rows = rows_of(data)
    assert events.report.rows_read == rows, f"{events.report.rows_read} of {rows} rows were read"
    events = close_markets(events)
    assert int((events.kind == Kind.ADD).sum()) == events.report.deltas
    assert len(events.trades.market) == events.report.trades
    return _check_events(events)


def check_rows(rows: Rows) -> Outcome:
    """Read the rows of a session and check what becomes of them."""
    try:
        events = events_from_rows("broken session", rows.names, rows.deltas, rows.snapshots)
    except DataError as error:
        return _refused(error, "broken session")
    assert events.report.rows_read == len(rows.deltas.market) + len(rows.snapshots)
    assert int((events.kind == Kind.CLEAR).sum()) >= events.report.snapshots
    assert int((events.kind == Kind.SET).sum()) >= events.report.deltas
    return _check_events(events)


def check_metadata(data: bytes, path: Path) -> Outcome:
    """Read a metadata file and check what becomes of it; `path` is written."""
    path.write_bytes(data)
    try:
        metadata = read_metadata(path)
    except DataError as error:
        return _refused(error, str(path))
    for facts in [*metadata.markets.values(), *metadata.series.values()]:
        assert facts.result is None or facts.result in RESULTS.values() or 0 <= facts.result <= DOLLAR
        assert facts.close_ms is None or abs(facts.close_ms) < 2**53
        assert min(facts.taker_rate, facts.taker_flat, facts.maker_rate, facts.maker_flat) >= 0
    return Outcome("used", Counter())


def _check_events(events: Events) -> Outcome:
    report = events.report
    rows_dropped = sum(n for reason, n in report.dropped.items() if not reason.startswith("level of a snapshot"))
    used = report.snapshots + report.deltas + report.trades + report.tickers + report.other
    assert report.rows_read == used + rows_dropped, (
        f"{report.rows_read} rows read, {used} used, {rows_dropped} left out"
    )
    assert min(vars(report)[name] for name in vars(report) if name not in ("dropped", "first")) >= 0
    assert set(report.dropped) <= set(report.first), "each reason says where it was met first"

    market = np.argsort(events.market, kind="stable")
    same = np.diff(events.market[market]) == 0
    assert (np.diff(events.time_ms[market])[same] >= 0).all(), "times never run backwards in a market"
    assert (events.time_ms >= 0).all()
    level = events.kind != Kind.CLEAR
    assert ((events.price > 0) & (events.price < DOLLAR))[level].all()
    assert (events.size[events.kind == Kind.SET] >= 0).all()
    assert not len(market) or events.market.max() < len(events.tickers)

    replayed = replay(events)
    assert (replayed.entries.size >= 0).all(), "books are never negative"
    assert ((replayed.best >= 0) & (replayed.best < DOLLAR)).all()
    info = describe(events, replayed)
    try:
        tape, index = build_tape([events])
    except DataError as error:
        return _refused(error, events.session_id)
    assert index.sessions[0].rows == info.rows
    mark, times = np.asarray(tape.mark), np.asarray(tape.time_ms)
    assert ((mark >= 0) & (mark <= DOLLAR)).all()
    assert (times >= 0).all()
    assert (np.asarray(tape.size) >= 0).all()
    reported = Counter({*report.dropped, *report.first})
    return Outcome("used with reports" if reported else "used", reported)


def _refused(error: DataError, name: str) -> Outcome:
    text = str(error)
    assert name in text, f"a refusal that does not name {name}: {text}"
    assert len(text) > len(name) + 20, f"a refusal that says little: {text}"
    reason = re.split(r"[=({\['\"]", text.replace(name, ""))[0]
    return Outcome("refused", Counter([" ".join(re.findall(r"[a-zA-Z_,;-]{2,}", reason))]))


def rows_of(data: bytes) -> int:
    """Count the rows of a file by other means than the loader's: lines that are not blank; the end of a damaged one is a row."""
    damaged = False
    if data.startswith(b"\x1f\x8b"):
        text, damaged = _gunzip(data)
        data = text
    lines = data.split(b"\n")
    return sum(bool(line.strip()) for line in lines[: -1 if damaged else None]) + damaged


def _gunzip(data: bytes) -> tuple[bytes, bool]:
    """Gunzip as far as possible: the text, and whether the file is damaged or cut short."""
    text, stream = bytearray(), zlib.decompressobj(wbits=31)
    for i in range(len(data)):
        if stream.eof:
            stream = zlib.decompressobj(wbits=31)
        try:
            text += stream.decompress(data[i : i + 1])
        except zlib.error:
            return bytes(text), True
    return bytes(text), not stream.eof
