"""Replay in plain Python, one dictionary a book: slow, obvious, and written without a look at `loaders.replay`."""

import itertools
import json
from dataclasses import dataclass, field

import numpy as np

from kalshi_jax.tape import FALL, LOWER, ROW, SIZE, TRADED, UNEXPLAINED
from loaders.events import Kind


@dataclass
class PlainMarket:
    """One market: after each row its time and its exact book, {(side, price): size in 0.01 contract}."""

    times: list = field(default_factory=list)
    books: list = field(default_factory=list)
    negative: int = 0
    crossed_inside: int = 0
    crossed_after: int = 0


def replay_events(events):
    """Replay `Events`: {ticker: PlainMarket}."""
    messages, in_snapshot = {}, {}
    for market, time, kind, side, price, size in zip(
        events.market.tolist(),
        events.time_ms.tolist(),
        events.kind.tolist(),
        events.side.tolist(),
        events.price.tolist(),
        events.size.tolist(),
        strict=True,
    ):
        mine = messages.setdefault(market, [])
        if kind == Kind.SET and in_snapshot.get(market) and mine[-1][0] == time:
            mine[-1][1].append((kind, (side, price), size))
        else:
            mine.append((time, [(kind, (side, price), size)]))
            in_snapshot[market] = kind == Kind.CLEAR
    return {events.tickers[m]: replay_messages(messages[m]) for m in sorted(messages)}


def replay_messages(messages):
    """Replay [(time, [(kind, (side, price), size)])] of one market."""
    market, book, crossed = PlainMarket(), {}, []
    for i, (time, changes) in enumerate(messages):
        for kind, level, size in changes:
            if kind == Kind.CLEAR:
                book.clear()
                continue
            after = size if kind == Kind.SET else book.get(level, 0) + size
            market.negative += after < 0
            book[level] = max(after, 0)
            if book[level] == 0:
                del book[level]
        crossed.append(is_crossed(book))
        if i + 1 == len(messages) or messages[i + 1][0] != time:
            market.times.append(time)
            market.books.append(dict(book))
            market.crossed_after += crossed[-1]
            market.crossed_inside += 0 if crossed[-1] else sum(crossed)
            crossed = []
    return market


def is_crossed(book):
    best = [max((price for at, price in book if at == side), default=None) for side in (0, 1)]
    return None not in best and sum(best) >= 10_000


def read_frames(lines):
    """Replay recorded lines whose sequence is whole: {ticker: PlainMarket}."""
    by_market = {}
    for line in lines:
        frame = json.loads(line)
        if frame["type"] in ("orderbook_snapshot", "orderbook_delta"):
            by_market.setdefault(frame["msg"]["market_ticker"], []).append(frame)
    return {ticker: replay_messages(list(_messages(frames))) for ticker, frames in by_market.items()}


def _messages(frames):
    latest = 0
    for i, frame in enumerate(frames):
        msg = frame["msg"]
        if frame["type"] == "orderbook_delta":
            time = frame_time(frame)
            level = (
                0 if msg["side"] == "yes" else 1,
                round(float(msg["price_dollars"]) * 10_000) if "price_dollars" in msg else msg["price"] * 100,
            )
            changes = [(Kind.ADD, level, round(float(msg.get("delta_fp", msg.get("delta"))) * 100))]
        else:
            following = next(
                (frame_time(f) for f in frames[i + 1 :] if f["type"] == "orderbook_delta"), frame["recv_ms"]
            )
            time = min(frame["recv_ms"], following)
            changes = [(Kind.CLEAR, None, 0)]
            for side, name in enumerate(("yes", "no")):
                new, old = msg.get(f"{name}_dollars_fp", ()), msg.get(name, ())
                changes += [(Kind.SET, (side, round(float(p) * 10_000)), round(float(q) * 100)) for p, q in new]
                changes += [(Kind.SET, (side, p * 100), q * 100) for p, q in old]
        latest = max(latest, time)
        yield latest, changes


def frame_time(frame):
    from datetime import datetime

    msg = frame["msg"]
    if "ts_ms" in msg:
        return msg["ts_ms"]
    if "ts" in msg:
        moment = datetime.fromisoformat(msg["ts"])
        return int(moment.replace(microsecond=0).timestamp()) * 1000 + moment.microsecond // 1000
    return frame["recv_ms"]


def assert_tape_shows(tape, index, session, plain):
    """Compare every row, entry and mark of one session of a tape with plain markets.

    `tape` has host arrays (`jax.tree.map(np.asarray, tape)`).
    """
    end = 2**31 - 1
    info = index.sessions[session]
    first = int(tape.session_first_market[session])
    assert info.tickers == index.tickers[first : first + int(tape.session_markets[session])] == list(plain)
    all_times = set()
    for number, market in enumerate(plain.values(), start=first):
        start, length = int(tape.track_start[number]), int(tape.track_length[number])
        assert (tape.time_ms[start : start + length].astype(np.int64) + info.started_at_ms).tolist() == market.times
        all_times |= set(market.times)
        history, mark, before = {}, [0, 10_000], {}
        for row, book in enumerate(market.books, start=start):
            for level in sorted(set(before) | set(book)):
                if before.get(level, 0) != book.get(level, 0):
                    history.setdefault(level, []).append((row, book.get(level, 0) // 100))
            before = book
            bests = [0, 0]
            for side in (0, 1):
                levels = sorted(((price, size) for (at, price), size in book.items() if at == side), reverse=True)[:10]
                shown = [(p, n // 100) for p, n in levels] + [(0, 0)] * (10 - len(levels))
                columns = (tape.price, tape.size)
                assert list(zip(*(x[row, side].tolist() for x in columns), strict=True)) == shown
                bests[side] = shown[0][0]
                entries = tape.entry[row, side]
                last = [history[side, p][-1] for p, _ in levels] + [(end, 0)] * (10 - len(levels))
                assert [tuple(e) for e in tape.entries[entries][:, [ROW, SIZE]].tolist()] == last
            if any(bests):
                mark = [bests[0], 10_000 - bests[1]]
            assert tape.mark[row].tolist() == mark
            assert tape.best_max[0, row].tolist() == bests
        # Entered from any row's best level, a level's list of changes runs to its end and stops at a sentinel.
        for (side, price), changes in history.items():
            rows = [r for r in range(start, start + length) if tape.price[r, side, 0] == price]
            if rows:
                entry = int(tape.entry[rows[0], side, 0])
                rest = [change for change in changes if change[0] >= int(tape.entries[entry, ROW])]
                stored = [tuple(tape.entries[e, [ROW, SIZE]].tolist()) for e in range(entry, entry + len(rest) + 1)]
                assert stored[:-1] == rest
                assert stored[-1][0] == end
                falls = [(*b, a[1] - b[1]) for a, b in itertools.pairwise(rest) if b[1] < a[1]]
                fall, lower = tape.entries[entry, [FALL, LOWER]].tolist()
                stored = tape.falls[fall : fall + len(falls) + 1]
                decrease = stored[:, UNEXPLAINED] + stored[:, TRADED]
                assert [
                    (*x, d) for x, d in zip(stored[:-1, [ROW, SIZE]].tolist(), decrease.tolist(), strict=False)
                ] == falls
                assert stored[-1, ROW] == end
                moves = [x[ROW] == end or x[TRADED] > 0 or x[SIZE] < rest[0][1] for x in stored]
                assert lower == fall + moves.index(True)
    track = tape.num_markets + session
    start, length = int(tape.track_start[track]), int(tape.track_length[track])
    assert (tape.time_ms[start : start + length].astype(np.int64) + info.started_at_ms).tolist() == sorted(all_times)
    assert info.report.negative_sizes == sum(market.negative for market in plain.values())
    assert info.report.crossed_inside == sum(market.crossed_inside for market in plain.values())
    assert info.report.crossed_after == sum(market.crossed_after for market in plain.values())
