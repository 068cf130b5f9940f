"""The catalogue of sessions as people see it: a table in the terminal, and a page with plots for a browser."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from agents.pages import embed, join_sections, make_axes, style_axis, write_page
from loaders import SessionInfo
from loaders.curriculum import MODERATE_VOLATILITY, MOST_SPREAD, STABLE_VOLATILITY, Stage
from loaders.quality import UNFIT
from loaders.statistics import DEPTH_EDGES, GAP_EDGES, GAP_QUANTILES, SPANS, SPREAD_EDGES

COLORS = {Stage.STABLE: "#0b6e4f", Stage.MODERATE: "#33658a", Stage.ALL: "#c1666b"}
STAGES = {stage: stage.name.lower() for stage in Stage}
MOST_DRAWN = 60  # sessions in the plot of activity: more could not be told apart


def session_json(info: SessionInfo) -> dict[str, Any]:
    """Give all that is known of a session, with its quality, its marks and its stage of the curriculum."""
    return asdict(info) | {
        "quality": {"score": info.quality.score} | asdict(info.quality),
        "marks": info.marks,
        "stage": STAGES[info.stage],
    }


def print_sessions(console: Console, sessions: Sequence[SessionInfo]) -> None:
    """Print sessions as a table, what their marks mean, and how many they are."""
    table = Table()
    for name in ("session", "started (UTC)"):
        table.add_column(name, no_wrap=True)
    for name in ("hours", "markets (settled)", "deltas", "a second", "spread", "volatility", "gaps"):
        table.add_column(name, justify="right")
    for name in ("crossed inside/after", "dropped", "quality"):
        table.add_column(name, justify="right")
    for name in ("stage", "marks"):
        table.add_column(name)
    for info in sessions:
        report, statistics = info.report, info.statistics
        table.add_row(
            info.session_id + (" SYNTHETIC" if info.synthetic else ""),
            show_time(info.started_at_ms) if info.rows else "-",
            f"{info.seconds / 3600:.2f}",
            f"{len(info.tickers)} ({info.settled})",
            f"{info.deltas:,}",
            f"{statistics.activity:.2f}",
            _figure(statistics.spread_cents),
            _figure(statistics.volatility),
            str(report.sequence_gaps),
            f"{report.crossed_inside} / {report.crossed_after}",
            str(sum(report.dropped.values())),
            f"{info.quality.score:.2f}",
            STAGES[info.stage],
            ", ".join(info.marks),
        )
    console.print(table)
    for (mark, reason), count in _marks(sessions).items():
        console.print(f"{mark}: {reason} ({count} of the sessions)")
    console.print(f"{len(sessions)} sessions, {sum(info.deltas for info in sessions):,} deltas")


def write_catalogue(path: Path, sessions: Sequence[SessionInfo], source: str) -> Path:
    """Write the page.

    Args:
        path: of the page.
        sessions: in the order in which the table shall have them.
        source: where they come from, as the reader shall see it.

    Returns:
        `path`.
    """
    shown = [info for info in sessions if info.rows]
    sections = [
        ("Activity over time", _activity_plot(shown), _ACTIVITY_NOTE),
        ("Spreads, depths and gaps", _distribution_plot(shown), _DISTRIBUTION_NOTE),
        ("Spread and volatility", _stage_plot(shown), _STAGE_NOTE),
        ("Sessions", f'<div class="wide">{_table(sessions)}</div>', _TABLE_NOTE),
    ]
    banner = ""
    if any(info.synthetic for info in sessions):
        banner = (
            '<div class="synthetic">SYNTHETIC DATA</div><p class="note">Sessions marked synthetic come from a simulated '
            "exchange.</p>"
        )
    body = f'{banner}<p class="lead">{_summary(sessions, source)}</p>{join_sections(sections)}'
    return write_page(path, "kalshi-jax sessions", "Recorded sessions", body)


_ACTIVITY_NOTE = (
    f"Changes of the book a second, in each of {SPANS} equal parts of a session's own time; the scale is logarithmic, "
    f"white is none. Of more than {MOST_DRAWN} sessions those with the most changes are drawn."
)
_DISTRIBUTION_NOTE = (
    "All sessions together. Spread: share of the time in which both sides were quoted. Depth: whole contracts at the best "
    "bid of a side, at moments evenly spread over each market's time. Gaps: time between two changes of a session, "
    "whichever market they are of; beware of the logarithmic scale."
)
_STAGE_NOTE = (
    "Each point is a session, as large as its share of the changes; lines are the bounds of the stages of the curriculum: "
    "training begins with calm sessions of one market (stable), goes on with those of several markets (moderate), and then "
    "takes all. Volatility: root of the mid's squared changes from second to second over the time, cents per root second."
)
_TABLE_NOTE = (
    "Quality = completeness x consistency x the mean of coverage, activity and duration, each 0 to 1. Completeness: share of "
    "the rows read that could be used, halved by one gap in 10,000 rows. Consistency: 0 from one fault in 100 rows on "
    "(books left crossed, negative sizes, repairs). Coverage: share of the time with both sides quoted. Activity: one half "
    "at a change every ten seconds in each market. Duration: one half at five minutes. Spread is the mean over time, in "
    "cents; the longest gap is in seconds."
)


def _summary(sessions: Sequence[SessionInfo], source: str) -> str:
    books = [info for info in sessions if info.rows]
    markets = sum(len(info.tickers) for info in sessions)
    unfit = sum(any(mark in UNFIT for mark in info.marks) for info in sessions)
    text = (
        f"<b>{len(sessions)}</b> sessions of {html.escape(source)}: {markets} markets, "
        f"{sum(info.deltas for info in sessions):,} changes of the book, {sum(info.seconds for info in sessions) / 3600:,.1f} "
        "hours"
    )
    if books:
        first, last = min(info.started_at_ms for info in books), max(info.ended_at_ms for info in books)
        text += f", from {show_time(first)} to {show_time(last)} UTC"
    stages = Counter(info.stage for info in books)
    text += ". By stage of the curriculum: " + ", ".join(f"{stages[s]} {STAGES[s]}" for s in Stage) + "."
    return text + (f" {unfit} are marked and of no use for training." if unfit else "")


def _activity_plot(sessions: Sequence[SessionInfo]) -> str:
    if not sessions:
        return ""
    drawn = set(sorted(range(len(sessions)), key=lambda i: -sessions[i].rows)[:MOST_DRAWN])
    rows = [info for i, info in enumerate(sessions) if i in drawn]
    seconds = np.array([max(info.seconds, 1e-3) for info in rows])
    rate = np.array([info.statistics.changes_histogram for info in rows]) * SPANS / seconds[:, None]
    figure = Figure(figsize=(10.5, max(2.2, 1.3 + 0.2 * len(rows))), layout="constrained")
    axis = figure.add_subplot()
    some = rate[rate > 0]
    scale = LogNorm(max(float(some.min()), float(some.max()) / 1e4), float(some.max()) * 1.001)
    image = axis.imshow(
        np.ma.masked_equal(rate, 0), aspect="auto", norm=scale, cmap="viridis_r", extent=(0, 100, len(rows), 0)
    )
    axis.set_yticks(np.arange(len(rows)) + 0.5, [_short(info.session_id) for info in rows], fontsize=7)
    axis.set_xlabel("share of the session's time, %")
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    figure.colorbar(image, ax=axis, label="changes a second", pad=0.01, fraction=0.03)
    return embed(figure, "changes of the book a second, by session and time")


def _distribution_plot(sessions: Sequence[SessionInfo]) -> str:
    if not sessions:
        return ""
    hours = np.array([s.statistics.quoted_share * sum(m.statistics.seconds for m in s.markets) for s in sessions])
    spread = hours @ np.array([s.statistics.spread_histogram for s in sessions])
    depth = np.sum([s.statistics.depth_histogram for s in sessions], axis=0)
    gaps = np.sum([s.statistics.gap_histogram for s in sessions], axis=0)
    figure = Figure(figsize=(10.5, 3.4), layout="constrained")
    panels = (
        ("share of the time", "spread, cents", spread, [f"{edge:g}" for edge in SPREAD_EDGES[1:]], "#33658a"),
        (
            "share of moments",
            "contracts at the best bid",
            depth,
            [f"{e:,}" for e in DEPTH_EDGES[1:]] + ["more"],
            "#0b6e4f",
        ),
        ("share of gaps", "gap between changes, s", gaps, [f"{e:g}" for e in GAP_EDGES[1:]] + ["more"], "#e09f3e"),
    )
    for place, (what, label, counts, edges, color) in enumerate(panels, start=1):
        axis = style_axis(figure.add_subplot(1, 3, place), what)
        axis.bar(np.arange(len(counts)), counts / max(counts.sum(), 1e-9), 0.92, color=color)
        axis.set_xticks(np.arange(len(counts)), edges, rotation=55, fontsize=8)
        axis.set_xlabel(f"{label}, up to")
        if counts is gaps and gaps.any():
            axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    return embed(figure, "distributions of spread, depth at the best bid, and gaps")


def _stage_plot(sessions: Sequence[SessionInfo]) -> str:
    drawn = [info for info in sessions if info.statistics.spread_cents and info.statistics.volatility is not None]
    if not drawn:
        return ""
    figure, axis = make_axes("volatility, cents per root second", height=3.6)
    most = max(info.rows for info in drawn)
    for stage in Stage:
        some = [info for info in drawn if info.stage == stage]
        axis.scatter(
            [info.statistics.spread_cents for info in some],
            [info.statistics.volatility for info in some],
            [12 + 110 * info.rows / most for info in some],
            color=COLORS[stage],
            alpha=0.65,
            lw=0,
            label=f"{STAGES[stage]} ({len(some)})",
        )
    for volatility in (STABLE_VOLATILITY, MODERATE_VOLATILITY):
        axis.axhline(volatility, color="#8d99ae", lw=0.8, ls="--")
    axis.axvline(MOST_SPREAD, color="#8d99ae", lw=0.8, ls="--")
    axis.set_xscale("log")
    spreads = [float(info.statistics.spread_cents or 0) for info in drawn]
    axis.set_xlim(min(0.3, *spreads) * 0.9, max(10.0, *spreads) * 1.1)
    axis.set_ylim(bottom=0)
    axis.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axis.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if f"{x:.0e}"[0] in "235" else "")
    axis.set_xlabel("mean spread, cents")
    legend = axis.legend(frameon=False, fontsize=9)
    for handle in legend.legend_handles:
        handle.set_sizes([40])
    return embed(figure, "spread and volatility of the sessions, by stage of the curriculum")


_HEAD = (
    "session",
    "started (UTC)",
    "hours",
    "markets<small>settled</small>",
    "changes",
    "a second<small>and market</small>",
    "spread",
    "volatility",
    "longest gap",
    "quality<small>complete, consistent, covered, active, long</small>",
    "stage",
)


def _table(sessions: Sequence[SessionInfo]) -> str:
    rows = []
    for info in sessions:
        quality, statistics = info.quality, info.statistics
        marks = "".join(f"<small>{html.escape(f'{mark}: {reason}')}</small>" for mark, reason in info.marks.items())
        kind = "good" if quality.score >= 0.6 else "bad" if quality.score < 0.3 else ""
        parts = "&ensp;".join(f"{part:.2f}" for part in asdict(quality).values())
        cells = [
            show_time(info.started_at_ms) if info.rows else "-",
            f"{info.seconds / 3600:.2f}",
            f"{len(info.tickers)}<small>{info.settled}</small>",
            f"{info.deltas:,}",
            f"{statistics.activity:.2f}",
            _figure(statistics.spread_cents),
            _figure(statistics.volatility),
            f"{statistics.gap_s[GAP_QUANTILES.index(1.0)]:.1f}",
            f'<b class="{kind}">{quality.score:.2f}</b><small>{parts}</small>',
            STAGES[info.stage],
        ]
        row = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f"<tr><td>{html.escape(info.session_id)}{marks}</td>{row}</tr>")
    return f"<table><tr>{''.join(f'<th>{name}</th>' for name in _HEAD)}</tr>{''.join(rows)}</table>"


def show_time(time_ms: int) -> str:
    """Write epoch ms as a UTC time of day."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _marks(sessions: Sequence[SessionInfo]) -> Counter[tuple[str, str]]:
    return Counter(item for info in sessions for item in info.marks.items())


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _short(name: str) -> str:
    return name if len(name) <= 34 else name[:33] + "…"
