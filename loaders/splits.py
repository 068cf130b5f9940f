"""Splits: which markets are for training, for validation and for the test, so that evaluation is on unseen markets.

By time, training lies before validation and validation before the test. By series, whole series are held out. Markets are
what is divided, since one session may record many series; `loaders.tapes.select_markets` makes the tape of a part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from loaders.events import DataError
from loaders.index import SessionInfo, TapeIndex
from loaders.metadata import series_of

TRAIN, VALIDATION, TEST = PARTS = ("train", "validation", "test")
Markets = dict[str, list[str]]  # session id -> tickers of that session


@dataclass(frozen=True)
class Split:
    """A division of the markets of a tape. It goes through JSON by `dataclasses.asdict` and `from_json`."""

    train: Markets
    validation: Markets
    test: Markets
    left_out: Markets  # in no part: they would cross from one to another
    boundaries_ms: tuple[int, int] | None  # epoch ms at which validation and test begin; None: not divided by time
    held_out: tuple[tuple[str, ...], tuple[str, ...]] | None  # series of validation and test; None: not by series

    @property
    def parts(self) -> dict[str, Markets]:
        """The three parts by name."""
        return {TRAIN: self.train, VALIDATION: self.validation, TEST: self.test}

    @staticmethod
    def from_json(values: dict[str, Any]) -> Split:
        """Make it of what `dataclasses.asdict` gave, after a way through JSON."""
        bounds, held_out = values["boundaries_ms"], values["held_out"]
        return Split(
            **{name: values[name] for name in (*PARTS, "left_out")},
            boundaries_ms=None if bounds is None else (int(bounds[0]), int(bounds[1])),
            held_out=None if held_out is None else (tuple(held_out[0]), tuple(held_out[1])),
        )


def split_sessions(
    index: TapeIndex,
    by: Literal["time", "series", "both"] = "time",
    *,
    validation: float = 0.15,
    test: float = 0.15,
    series: tuple[Sequence[str], Sequence[str]] | None = None,
    seed: int = 0,
) -> Split:
    """Divide the markets of a tape.

    By time, the boundaries are those starts of sessions that bring the shares of the parts closest to what is asked for;
    a session under way at a boundary is left out. By series, series are drawn for validation and test, as many as fit into
    their shares, and never the largest one. By both, validation and test are of held-out series, after their boundary,
    and training of the other series, before both. A market that several sessions recorded stays in the part in which it has
    most rows; elsewhere it is left out.

    Args:
        index: of the tape.
        by: "time", "series" or "both".
        validation, test: their shares of the rows.
        series: names of series to hold out for validation and for the test; None: draw them.
        seed: of the draw.

    Raises:
        DataError: shares that make no sense, an unknown series, or a part that would be empty.
    """
    if by not in ("time", "series", "both"):
        raise DataError(f"by {by!r}: expected time, series or both")
    if not (validation > 0 and test > 0 and validation + test < 1):
        raise DataError(
            f"validation {validation} and test {test}: expected shares above 0 that leave some for training"
        )
    if by == "time" and series is not None:
        raise DataError(f"series {series}: a split by time holds out none; ask for by='series' or by='both'")
    held_out = _held_out(index, series, validation, test, seed) if by != "time" else None
    boundaries = _boundaries(index.sessions, validation, test) if by != "series" else None

    def part_of(info: SessionInfo, ticker: str) -> str | None:
        judges = [_part_by_time(info, boundaries)] if boundaries else []
        judges += [_part_by_series(ticker, held_out)] if held_out else []
        return judges[0] if len(set(judges)) == 1 else None

    parts, left_out = _divide(index.sessions, part_of)
    split = Split(**parts, left_out=left_out, boundaries_ms=boundaries, held_out=held_out)
    for name, markets in split.parts.items():
        if not markets:
            raise DataError(
                f"split by {by}: no market is left for {name} of {len(index.tickers)} in {len(index.sessions)} sessions; load "
                "more sessions, ask for other shares or series, or split by time or by series alone"
            )
    check_split(split, index)
    return split


def check_split(split: Split, index: TapeIndex) -> None:
    """Make sure that nothing crosses from one part to another.

    Raises:
        DataError: a market or a held-out series is in two parts, parts overlap in time, or the split is of other
            sessions; the market or series, the sessions and the times are named.
    """
    sessions = {info.session_id: info for info in index.sessions}
    seen: dict[str, tuple[str, str]] = {}  # ticker -> part and session
    owner = {
        name: part for part, names in zip((VALIDATION, TEST), split.held_out or (), strict=False) for name in names
    }
    for part, markets in split.parts.items():
        for name, tickers in markets.items():
            if name not in sessions:
                raise DataError(f"the {part} part has session {name}, which is not on this tape: split again")
            for ticker in tickers:
                if ticker not in sessions[name].tickers:
                    raise DataError(f"the {part} part has market {ticker}, which session {name} has not: split again")
                other, where = seen.setdefault(ticker, (part, name))
                if other != part:
                    raise DataError(
                        f"market {ticker} crosses: it is in the {other} part (session {where}) and in the {part} part "
                        f"(session {name}); leave it out of one"
                    )
                if split.held_out and owner.get(series_of(ticker), TRAIN) != part:
                    raise DataError(
                        f"series {series_of(ticker)} crosses: it belongs to the {owner.get(series_of(ticker), TRAIN)} part, "
                        f"but the {part} part has its market {ticker} (session {name}); leave that out"
                    )
    if split.boundaries_ms:
        shown = [(part, [sessions[name] for name in markets]) for part, markets in split.parts.items() if markets]
        for (earlier, before), (later, after) in pairwise(shown):
            last = max(before, key=lambda info: info.ended_at_ms)
            first = min(after, key=lambda info: info.started_at_ms)
            if last.ended_at_ms >= first.started_at_ms:
                raise DataError(
                    f"times cross: session {last.session_id} of the {earlier} part runs until {last.ended_at_ms}, session "
                    f"{first.session_id} of the {later} part begins at {first.started_at_ms} (epoch ms); leave out one"
                )


def _boundaries(sessions: Sequence[SessionInfo], validation: float, test: float) -> tuple[int, int]:
    """Choose the starts of sessions at which validation and test begin."""
    starts = np.array([info.started_at_ms for info in sessions])
    rows = np.array([info.rows for info in sessions])
    candidates = np.unique(starts)
    if len(candidates) < 3:
        raise DataError(
            f"split by time: {len(candidates)} different starts of sessions: expected at least 3, one for each part; load more "
            "sessions or split by series"
        )
    after = np.array([rows[starts >= start].sum() for start in candidates]) / rows.sum()  # share from each start on
    test_at = 2 + int(np.abs(after[2:] - test).argmin())
    validation_at = 1 + int(np.abs(after[1:test_at] - after[test_at] - validation).argmin())
    return int(candidates[validation_at]), int(candidates[test_at])


def _part_by_time(info: SessionInfo, boundaries: tuple[int, int]) -> str | None:
    """Tell the part of a session's time; None if it is under way at a boundary."""
    first, last = (int(np.searchsorted(boundaries, ms, side="right")) for ms in (info.started_at_ms, info.ended_at_ms))
    return PARTS[first] if first == last else None


def _held_out(
    index: TapeIndex, chosen: tuple[Sequence[str], Sequence[str]] | None, validation: float, test: float, seed: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give the series of validation and test: those chosen, or drawn ones that fit into the shares."""
    rows: Counter[str] = Counter()
    for info in index.sessions:
        for ticker, market in zip(info.tickers, info.markets, strict=True):
            rows[series_of(ticker)] += market.statistics.rows
    if chosen is not None:
        named = [*chosen[0], *chosen[1]]
        for name in named:
            if name not in rows or named.count(name) > 1:
                fault = "is named twice" if name in rows else "is on no market of this tape"
                raise DataError(f"series {name!r} {fault}: expected different ones of {', '.join(sorted(rows))}")
        return tuple(chosen[0]), tuple(chosen[1])
    if len(rows) < 3:
        raise DataError(
            f"split by series: {len(rows)} series on this tape ({', '.join(sorted(rows))}): expected at least 3, one for each "
            "part; load more sessions or split by time"
        )
    drawable = sorted(rows, key=lambda name: (-rows[name], name))[1:]
    parts: tuple[list[str], list[str]] = ([], [])
    shares, room = (validation, test), [1.0, 1.0]  # room: the part of each share that is not filled yet
    for name in np.random.default_rng(seed).permutation(drawable).tolist():
        roomier = int(room[1] >= room[0])
        filled = rows[name] / rows.total() / shares[roomier]
        if filled <= room[roomier]:
            parts[roomier].append(name)
            room[roomier] -= filled
    for part, other in ((parts[1], parts[0]), (parts[0], parts[1])):
        if not part:  # nothing fits: the smallest series that is free, or else one of the other part
            free = [name for name in drawable if name not in other]
            part.append(free[-1] if free else other.pop())
    return tuple(sorted(parts[0])), tuple(sorted(parts[1]))


def _part_by_series(ticker: str, held_out: tuple[Sequence[str], Sequence[str]]) -> str:
    series = series_of(ticker)
    return VALIDATION if series in held_out[0] else TEST if series in held_out[1] else TRAIN


def _divide(
    sessions: Sequence[SessionInfo], part_of: Callable[[SessionInfo, str], str | None]
) -> tuple[dict[str, Markets], Markets]:
    """Put every market of every session into its part, or where it would cross, into what is left out."""
    rows: dict[str, Counter[str]] = {}  # of each ticker, by part
    for info in sessions:
        for ticker, market in zip(info.tickers, info.markets, strict=True):
            part = part_of(info, ticker)
            if part is not None:
                rows.setdefault(ticker, Counter())[part] += market.statistics.rows
    home = {ticker: max(PARTS, key=lambda part: of_part[part]) for ticker, of_part in rows.items()}
    parts: dict[str, Markets] = {name: {} for name in PARTS}
    left_out: Markets = {}
    for info in sessions:
        for ticker in info.tickers:
            part = part_of(info, ticker)
            target = left_out if part is None or part != home[ticker] else parts[part]
            target.setdefault(info.session_id, []).append(ticker)
    return parts, left_out
