"""Exchange frames for tests, in the old and in the new format, and the files that hold them."""

import gzip
import json
from pathlib import Path

START = 1_700_000_000_000  # epoch ms


def snapshot(ticker, seq, yes=(), no=(), recv_ms=START, sid=1, **extra):
    """A snapshot in the new format; levels are (cents, contracts)."""
    msg = {"market_ticker": ticker} | extra
    for key, levels in (("yes_dollars_fp", yes), ("no_dollars_fp", no)):
        if levels:
            msg[key] = [[f"{price / 100:.4f}", f"{size:.2f}"] for price, size in levels]
    return {"recv_ms": recv_ms, "type": "orderbook_snapshot", "sid": sid, "seq": seq, "msg": msg}


def delta(ticker, seq, side, price, size, ts_ms=START, sid=1, recv_ms=None, **extra):
    """A delta in the new format: price in cents, size in contracts."""
    msg = {
        "market_ticker": ticker,
        "price_dollars": f"{price / 100:.4f}",
        "delta_fp": f"{size:.2f}",
        "side": side,
        "ts_ms": ts_ms,
    }
    recv_ms = ts_ms - 250 if recv_ms is None else recv_ms
    return {"recv_ms": recv_ms, "type": "orderbook_delta", "sid": sid, "seq": seq, "msg": msg | extra}


def old_snapshot(ticker, seq, yes=(), no=(), recv_ms=START):
    msg = {"market_ticker": ticker} | {key: [list(p) for p in side] for key, side in (("yes", yes), ("no", no)) if side}
    return {"recv_ms": recv_ms, "type": "orderbook_snapshot", "sid": 1, "seq": seq, "msg": msg}


def old_delta(ticker, seq, side, price, size, recv_ms=START):
    msg = {"market_ticker": ticker, "price": price, "delta": size, "side": side}
    return {"recv_ms": recv_ms, "type": "orderbook_delta", "sid": 1, "seq": seq, "msg": msg}


def write(path: Path, frames) -> Path:
    """Write frames (or lines that are text already), gzipped if the name ends in .gz."""
    text = "".join((frame if isinstance(frame, str) else json.dumps(frame)) + "\n" for frame in frames).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path
