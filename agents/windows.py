"""Windows: where the episodes of an evaluation begin, so that a whole tape is played."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kalshi_jax.tape import Tape

SHORTEST = 0.1  # a window that lacks more than nine tenths of its length at the end of a recording is left out


@dataclass
class Windows:
    """Beginnings of episodes, n of them."""

    markets: np.ndarray  # i32[n, M], tape markets, -1 for an unused slot
    start_ms: np.ndarray  # i32[n], ms since the session's start
    clusters: np.ndarray | None = None  # i64[n], windows of one number are one piece of evidence; None: each its own


def all_windows(tape: Tape, slots: int, episode_length: int, decision_interval_ms: int, limit: int = 0) -> Windows:
    """List beginnings so that every market of the tape is played once from its first change to its last.

    The markets of a session are taken in groups of `slots`; a group is played in windows of `episode_length` steps, one
    after another. A remainder shorter than a tenth of a window is left out. Windows of a market are one cluster; of several
    markets, windows of a session are: what moves one of its markets may move the others.

    Args:
        tape: the tape.
        slots: market slots M.
        episode_length: steps of a window.
        decision_interval_ms: 0 for the event clock.
        limit: keep at most this many windows, evenly chosen; 0 keeps all.
    """
    first, length = np.asarray(tape.track_start), np.asarray(tape.track_length)
    time_ms = np.asarray(tape.time_ms)
    begins, counts = np.asarray(tape.session_first_market), np.asarray(tape.session_markets)
    markets: list[np.ndarray] = []
    starts: list[int] = []
    clusters: list[int] = []
    for begin, count in zip(begins.tolist(), counts.tolist(), strict=True):
        for group in np.split(np.arange(begin, begin + count), np.arange(slots, count, slots)):
            times = np.unique(np.concatenate([time_ms[first[m] : first[m] + length[m]] for m in group]))
            for start in _window_starts(times, episode_length, decision_interval_ms):
                markets.append(np.pad(group, (0, slots - len(group)), constant_values=-1))
                starts.append(start)
                clusters.append(int(group[0]) if slots == 1 else begin)
    if not starts:
        raise ValueError("the tape has no market with two changes: nothing to evaluate on")
    chosen = np.arange(len(starts))
    if limit and len(starts) > limit:
        chosen = np.linspace(0, len(starts) - 1, limit).astype(int)
    return Windows(
        np.stack(markets)[chosen].astype(np.int32), np.array(starts, np.int32)[chosen], np.array(clusters)[chosen]
    )


def _window_starts(times: np.ndarray, episode_length: int, decision_interval_ms: int) -> list[int]:
    if len(times) < 2:
        return []
    if decision_interval_ms == 0:
        positions = np.arange(0, len(times) - 1, episode_length)
        whole = (len(times) - 1 - positions) / episode_length
        starts = times[positions]
    else:
        span = episode_length * decision_interval_ms
        starts = np.arange(int(times[0]), int(times[-1]), span)
        whole = (int(times[-1]) - starts) / span
    keep = whole >= SHORTEST
    keep[0] = True
    return starts[keep].tolist()
