"""Check replayed books against the exchange: at every ticker frame's own time, do best prices and sizes agree?

A ticker states the book after all changes of its own `ts_ms`. Frames before their market's first book cannot be answered
and are counted apart. Sizes are compared as whole contracts, where the prices agree.

    python benchmarks/check_books.py '../shared/data/recordings/kxbtc15m-*.jsonl.gz'
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import orjson

from kalshi_jax.tape import DOLLAR, NO, YES
from loaders import load_tape
from loaders.recordings import find_recordings, session_id_of

PRICE_GOAL, SIZE_GOAL = 0.9995, 0.999


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="*", default=["../shared/data/recordings/kxbtc15m-*.jsonl.gz"])
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    rows = [check(path) for path in find_recordings(arguments.source)]
    total: Counter[str] = Counter()
    for row in rows:
        total.update({name: count for name, count in row.items() if name != "session_id"})
    agree = {name: total[name] / max(total["checked"], 1) for name in ("price", "size")}
    good = agree["price"] >= PRICE_GOAL and agree["size"] >= SIZE_GOAL
    if arguments.json:
        print(json.dumps({"sessions": rows, "total": total, "agree": agree, "good": good}, indent=2))
    else:
        for row in [*rows, {"session_id": "total"} | total]:
            counts = "".join(f"{row.get(name, 0):>9,}" for name in ("tickers", "early", "checked", "price", "size"))
            print(f"{row['session_id']:<26}{counts}")
        print(
            f"price {agree['price']:.4%} (goal {PRICE_GOAL:.2%}), price and size {agree['size']:.4%} (goal {SIZE_GOAL:.1%})"
        )
    return 0 if good else 1


def check(path: Path) -> dict[str, str | int]:
    """Count a recording's ticker frames: all, before the first book, checked, and those that agree."""
    tape, index = load_tape(path)
    price, size = np.asarray(tape.price)[:, :, 0], np.asarray(tape.size)[:, :, 0]
    asked: dict[str, list[dict]] = {}
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for line in file:
            if b'"ticker"' in line and (frame := orjson.loads(line))["type"] == "ticker":
                asked.setdefault(frame["msg"]["market_ticker"], []).append(frame["msg"])
    count = Counter(session_id=0, tickers=0, early=0, checked=0, price=0, size=0)
    for ticker, frames in asked.items():
        count["tickers"] += len(frames)
        market = index.markets_of[ticker][0]
        start, length = int(tape.track_start[market]), int(tape.track_length[market])
        times = np.array([msg["ts_ms"] for msg in frames]) - index.sessions[0].started_at_ms
        row = start + np.searchsorted(np.asarray(tape.time_ms)[start : start + length], times, side="right") - 1
        said = {name: np.array([float(msg[name]) for msg in frames]) for name in PRICES + SIZES}
        bid, ask = (np.rint(said[name] * DOLLAR) for name in PRICES)
        known = row >= start
        prices_agree = known & (price[row, YES] == bid) & (price[row, NO] == DOLLAR - ask)
        whole = [np.floor(said[name]) for name in SIZES]
        agree = prices_agree & (size[row, YES] == whole[0]) & (size[row, NO] == whole[1])
        count.update(
            early=int((~known).sum()), checked=int(known.sum()), price=int(prices_agree.sum()), size=int(agree.sum())
        )
    return {**count, "session_id": session_id_of(path)}


PRICES = ["yes_bid_dollars", "yes_ask_dollars"]
SIZES = ["yes_bid_size_fp", "yes_ask_size_fp"]

if __name__ == "__main__":
    sys.exit(main())
