"""Broken inputs, made from sound ones by small accidents. What must hold of every one of them is in verdicts.py."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import numpy as np

from loaders.events import Kind
from loaders.exchange_sim import SimConfig, simulate_session
from loaders.session_rows import NULL, UNITS, DeltaRows, SnapshotRow, level_sizes
from loaders.sim_frames import write_frames

CONFIG = SimConfig(sessions=1, markets=2, seconds=10, rate=2.0)
STRANGE = [
    *(None, True, False, [], {}, "", " ", "nan", "inf", "-inf", "abc", "1e400", "1_0", "0x1", "½", "\ud800", [1], {"a": 1}, [[]]),
    *(0, -1, 1, 100, 0.5, -0.5, 1e-9, 1e15, 1e308, 2**31 - 1, 2**31, 2**52, 2**53 + 1, 2**62, 2**63, 2**64, -(2**63), 10**30),
    *("0", "0.0000", "1.0000", "-0.10", "0.00001", "1e30", "99999999999999999999"),
    *("2023-11-14T22:13:21Z", "0001-01-01", "9999-12-31"),
    *("yes", "no", "YES", "orderbook_delta", "orderbook_snapshot", "trade", "ticker", "market_lifecycle_v2"),
    *([["0.5", "1"]], [["0.5", "-1"]], [["0", "1"]], [["1.0", "1"]]),
    *([["0.5", "1"], ["0.5", "2"]], [[50, 3]], [["0.5"]], [[None, 1]]),
    float("nan"),
]  # fmt: skip
SHIFTS = [-1, 1, -1000, 1000, -(10**7), 10**7, 2**31, -(2**31), 2**40, 2**52]
NUMBERS = [NULL, 0, -1, 1, 100 * UNITS, UNITS, 50 * UNITS + 1, 2**31, 2**40, 2**52, 2**61, 2**63 - 1, -(2**63), 10**16]


# -- recordings


def sound_recordings() -> list[list[bytes]]:
    """Make recordings of both generations of the format, as lines."""
    with TemporaryDirectory(prefix="kalshi-jax-") as folder:
        path = Path(folder) / "a.jsonl.gz"
        write_frames(CONFIG, path)
        new = gzip.decompress(path.read_bytes()).splitlines()
    return [new, [json.dumps(_old(json.loads(line))).encode() for line in new]]


def _old(frame: dict) -> dict:
    """Say the same in integer cents and contracts; the simulated exchange trades in these anyway."""
    message = dict(frame["msg"])
    for new, old, unit in (
        ("price_dollars", "price", 100),
        ("yes_price_dollars", "yes_price", 100),
        ("delta_fp", "delta", 1),
    ):
        if new in message:
            message[old] = round(float(message.pop(new)) * unit)
    for side in ("yes", "no"):
        if levels := message.pop(f"{side}_dollars_fp", None):
            message[side] = [[round(float(price) * 100), round(float(size))] for price, size in levels]
    if frame["type"] == "orderbook_delta":
        del message["ts_ms"]
    return frame | {"msg": message}


def broken_recording(rng: Random, lines: list[bytes]) -> tuple[bytes, str]:
    """Break a recording by up to three accidents, and damage to its bytes; gives the bytes of a file and the end of its name."""
    lines = list(lines)
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        rng.choice(LINE_ACCIDENTS)(rng, lines)
    data = b"\n".join(lines) + rng.choice([b"\n", b"", b"\n\n"])
    if rng.random() < 0.2:
        data = _damage(rng, data)
    if rng.random() < 0.5:
        return data, ".jsonl"
    packed = gzip.compress(data, 1)
    return (_damage(rng, packed) if rng.random() < 0.5 else packed), ".jsonl.gz"


def _damage(rng: Random, data: bytes) -> bytes:
    """Damage bytes: cut off, flipped, overwritten, left out, added."""
    at = rng.randrange(len(data) + 1)
    some = rng.randbytes(rng.choice([1, 1, 4, 40]))
    before, after = data[:at], data[at:]
    flipped = bytearray(data)
    if flipped:
        flipped[at - 1] ^= 1 << rng.randrange(8)
    rest = after[len(some) :]
    return rng.choice([before, bytes(flipped), before + rest, before + some + rest, before + some + after, data + some])


def _remove(rng: Random, lines: list[bytes]) -> None:
    if lines:
        at = rng.randrange(len(lines))
        del lines[at : at + rng.choice([1, 1, 1, 5, 10_000])]


def _repeat(rng: Random, lines: list[bytes]) -> None:
    if lines:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))


def _swap(rng: Random, lines: list[bytes]) -> None:
    if lines:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]


def _insert_junk(rng: Random, lines: list[bytes]) -> None:
    junk = [
        b"",
        b" \t",
        b"{}",
        b"[]",
        b"7",
        b"null",
        b'"x"',
        b"{",
        b"}",
        b"\x00",
        b"\xff\xfe",
        b'{"type": "surprise"}',
        b"[" * 5000,
    ]
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(junk))


def _halve(rng: Random, lines: list[bytes]) -> None:
    if lines:
        at = rng.randrange(len(lines))
        lines[at] = lines[at][: rng.randrange(len(lines[at]) + 1)]


def _join(rng: Random, lines: list[bytes]) -> None:
    if len(lines) > 1:
        at = rng.randrange(len(lines) - 1)
        lines[at : at + 2] = [lines[at] + rng.choice([b"", b",", b" "]) + lines[at + 1]]


def _change_frame(change: Callable[[Random, dict], None]) -> Callable[[Random, list[bytes]], None]:
    def accident(rng: Random, lines: list[bytes]) -> None:
        at = rng.randrange(len(lines) + 1) - 1
        try:
            frame = json.loads(lines[at])
            change(rng, frame)
        except (ValueError, TypeError, AttributeError, LookupError):
            return  # the line was broken before
        lines[at] = json.dumps(frame).encode("utf-8", "surrogatepass")

    return accident


def _put_strange_value(rng: Random, frame: dict) -> None:
    part = frame["msg"] if rng.random() < 0.7 else frame
    name = rng.choice([*part, "ts", "ts_ms", "yes", "no", "price", "delta", "close_ts", "result", "is_block_trade"])
    part[name] = rng.choice(STRANGE)


def _forget_field(rng: Random, frame: dict) -> None:
    part = frame["msg"] if rng.random() < 0.7 else frame
    del part[rng.choice(list(part))]


def _shift_number(rng: Random, frame: dict) -> None:
    name = rng.choice(["seq", "sid", "recv_ms", "ts_ms"])
    part = frame["msg"] if name == "ts_ms" else frame
    part[name] += rng.choice(SHIFTS)


def _change_level(rng: Random, frame: dict) -> None:
    levels = frame["msg"][rng.choice([name for name, value in frame["msg"].items() if isinstance(value, list)])]
    if rng.random() < 0.5:
        rng.choice(levels)[rng.randrange(2)] = rng.choice(STRANGE)
    else:
        levels.append(rng.choice([*levels, *STRANGE]))


LINE_ACCIDENTS = [
    *(_remove, _repeat, _swap, _insert_junk, _halve, _join),
    *[_change_frame(_put_strange_value)] * 4,
    *[_change_frame(_shift_number)] * 2,
    *(_change_frame(_forget_field), _change_frame(_change_level)),
]


# -- database rows


@dataclass
class Rows:
    """The rows of a session of the database."""

    names: list[str]
    deltas: DeltaRows
    snapshots: list[SnapshotRow]


def sound_rows() -> Rows:
    """Make the rows that a recorder would have written of a simulated session."""
    events = simulate_session(CONFIG, 0).events
    before, after = level_sizes(events)
    message = np.cumsum(events.kind != Kind.SET)
    add = events.kind == Kind.ADD
    snapshots = []
    for at in np.flatnonzero(events.kind == Kind.CLEAR):
        books: list[dict[str, int]] = [{}, {}]
        for i in np.flatnonzero((message == message[at]) & (events.kind == Kind.SET)):
            books[events.side[i]][str(events.price[i] // 100)] = int(events.size[i] // 100)
        yes, no = books
        asks = [json.dumps({str(100 - int(price)): size for price, size in book.items()}) for book in (no, yes)]
        ticker, time_ms, sequence = events.tickers[events.market[at]], int(events.time_ms[at]), int(message[at])
        snapshots.append(SnapshotRow(ticker, time_ms, sequence, json.dumps(yes), asks[0], json.dumps(no), asks[1]))
    deltas = DeltaRows(
        market=events.market[add],
        time_ms=events.time_ms[add],
        sequence=message[add].astype(np.int64),
        side=events.side[add],
        price=events.price[add].astype(np.int64) * 100,
        old_size=before[add] * 100,
        new_size=after[add] * 100,
    )
    return Rows(events.tickers, deltas, snapshots)


def broken_rows(rng: Random, rows: Rows) -> Rows:
    """Break the rows of a session by one to four accidents."""
    deltas = replace(rows.deltas, **{name: column.copy() for name, column in vars(rows.deltas).items()})
    snapshots = [replace(row) for row in rows.snapshots]
    for _ in range(rng.choice([1, 1, 2, 4])):
        count = len(deltas.market)
        if rng.random() < 0.4 and snapshots:
            _break_snapshots(rng, snapshots)
        elif count:
            at, accident = rng.randrange(count), rng.randrange(8)
            order = np.arange(count)
            if accident == 0:
                order = np.delete(order, slice(at, at + rng.choice([1, 1, 5, count])))
            elif accident == 1:
                order = np.insert(order, rng.randrange(count + 1), order[at : at + rng.choice([1, 5, count])])
            elif accident == 2:
                order[[at, rng.randrange(count)]] = order[[rng.randrange(count), at]]
            elif accident == 3:
                column = getattr(deltas, rng.choice(["time_ms", "sequence"]))
                column[at : at + rng.choice([1, 1, count])] += rng.choice(SHIFTS)
            elif accident == 4:
                deltas.sequence[at:] = np.arange(count - at) + rng.choice([0, 1, 3])  # a reconnection
            else:
                column = getattr(deltas, rng.choice(list(vars(deltas))))
                column[at] = rng.choice(NUMBERS if column.dtype == np.int64 else [-1, 0, 1])
            deltas = DeltaRows(**{name: column[order] for name, column in vars(deltas).items()})
    return Rows(rows.names, deltas, snapshots)


def _break_snapshots(rng: Random, snapshots: list[SnapshotRow]) -> None:
    at, accident = rng.randrange(len(snapshots)), rng.randrange(6)
    row = snapshots[at]
    if accident == 0:
        del snapshots[at]
    elif accident == 1:
        snapshots.insert(rng.randrange(len(snapshots) + 1), replace(row))
    elif accident == 2:
        row.time_ms = rng.choice(
            [None, 0, -1, 2**52, 2**63 - 1, -(2**63), *((row.time_ms or 0) + shift for shift in SHIFTS)]
        )
    elif accident == 3:
        row.sequence = rng.choice(
            [None, 0, -1, 2**40, 2**63 - 1, -(2**63), *((row.sequence or 0) + shift for shift in SHIFTS)]
        )
    elif accident == 4:
        row.ticker = rng.choice([None, "", "NEW", *(other.ticker for other in snapshots)])
    else:
        name = rng.choice(["yes_bids", "yes_asks", "no_bids", "no_asks"])
        key = rng.choice(["45", "45.5", "0", "100", "-3", "45.001", "nan", "x", "", "1e400"])
        book = rng.choice(
            [{key: rng.choice(STRANGE)}, rng.choice(STRANGE), {"45": 1, "45.0": 2, "60": 3, "90": 10**13}]
        )
        text = json.dumps(book)
        setattr(row, name, rng.choice([None, "", "{", text, text[:-1]]))


# -- metadata files


def broken_metadata(rng: Random) -> bytes:
    """Break a metadata file; the bytes of the file."""
    record = {
        "ticker": "A",
        "close_time": "2026-05-11T05:45:00Z",
        "result": "scalar",
        "settlement_value_dollars": "0.5",
    }
    record |= {"fee_type": "quadratic", "fee_multiplier": 1}
    series = {"ticker": "S", "fee_type": "flat", "fee_multiplier": 2}
    content: dict = rng.choice([{"A": record}, {"markets": [record], "series": [series]}, {"markets": {"A": record}}])
    for _ in range(rng.choice([0, 1, 2, 3])):
        part = rng.choice([content, record, record, series])
        part[rng.choice([*part, "settlement_value"])] = rng.choice(STRANGE)
    data = json.dumps(content).encode("utf-8", "surrogatepass")
    return _damage(rng, data) if rng.random() < 0.3 else data
