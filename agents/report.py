"""The report of an evaluation: one HTML page that needs nothing else, written for a trader."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from agents.evaluation import METRICS, Outcome, all_windows, dollars, evaluate
from agents.pages import MONEY, embed, fact_list, join_sections, make_axes, style_axis, write_page
from agents.runs import RunFolder, describe_data, load_run, make_environment, settings_of
from kalshi_jax.actions import action_names
from loaders import SessionConfig, SessionFilter, load_tape

COLORS = {
    "agent": "#0b6e4f",
    "greedy agent": "#6bbf59",
    "random": "#c1666b",
    "hold": "#8d99ae",
    "always take": "#e09f3e",
    "momentum": "#7b4b94",
    "market maker": "#33658a",
}


def evaluate_run(
    run: Path,
    source: Sequence[str],
    sessions: Sequence[str] = (),
    seeds: int = 3,
    page: Path | None = None,
    metadata: str | None = None,
) -> tuple[list[Outcome], Path]:
    """Play a run's newest agent and the baselines on a source and write the report.

    Args:
        run: folder of the run.
        source: to play on.
        sessions: of the source; if empty, all that are not marked empty or test.
        seeds: episodes per window, for policies that draw.
        page: of the report; `run`/report.html by default.
        metadata: a file of close times, results and fees of the source's markets.

    Returns:
        the outcomes, the agent's first, and the page.
    """
    config, trained_on = load_run(run)
    folder = RunFolder(run)
    weights = folder.restore_weights()
    unmarked = SessionFilter(skip_marked=True)
    tape, index = load_tape(
        list(source), SessionConfig(session_pool=tuple(sessions), metadata=metadata, filter=unmarked)
    )
    env, params, network = make_environment(config, tape)
    windows = all_windows(tape, config.max_markets, config.episode_length, config.decision_interval_ms)
    outcomes = evaluate(env, network, weights, params, windows, seeds=seeds)
    data = describe_data(tape, index)
    page = page or run / "report.html"
    return outcomes, write_report(page, outcomes, settings_of(config), trained_on, data, folder.records())


def print_outcomes(console: Console, outcomes: Sequence[Outcome]) -> None:
    """Print the metrics of all policies as a table, a row per metric: mean and 95% interval."""
    table = Table("per episode", *(outcome.policy for outcome in outcomes))
    for column in table.columns[1:]:
        column.justify = "right"
    summaries = [outcome.summary() for outcome in outcomes]
    for name, label in METRICS.items():
        cells = []
        for summary in summaries:
            mean, low, high = (format_figure(name, summary[name][x]) for x in ("mean", "low", "high"))
            cells.append(mean if mean == low == high else f"{mean}\n[dim]{low} .. {high}[/dim]")
        table.add_row(label, *cells)
    console.print(table)


def write_report(
    path: Path,
    outcomes: Sequence[Outcome],
    settings: dict[str, Any],
    trained_on: dict[str, Any],
    evaluated_on: dict[str, Any],
    records: Sequence[dict[str, Any]],
) -> Path:
    """Write the page.

    Args:
        path: of the page.
        outcomes: of `evaluate`, the agent's first.
        settings: of the run, name to value.
        trained_on: `describe_data` of the training data.
        evaluated_on: `describe_data` of the data of the outcomes.
        records: of the run's metrics.jsonl.

    Returns:
        `path`.
    """
    seconds = settings["decision_interval_ms"] / 1000
    sections = [
        ("Portfolio value over time", _value_plot(outcomes, seconds), _VALUE_NOTE),
        ("Results", f'<div class="wide">{results_table(outcomes)}</div>', _TABLE_NOTE),
        ("What the policies did", _action_plot(outcomes, settings["order_sizes"]), _ACTION_NOTE),
        ("Fills", _fill_plot(outcomes), _FILL_NOTE),
        ("Returns per episode", _return_plot(outcomes), _RETURN_NOTE),
        ("How the agent learned", _learning_plot(records), _LEARNING_NOTE),
        ("Data", fact_list(_data_facts(trained_on, evaluated_on)), ""),
        ("Configuration", fact_list({name: _show(value) for name, value in settings.items()}), ""),
    ]
    synthetic = trained_on["synthetic"] or evaluated_on["synthetic"]
    banner = '<div class="synthetic">SYNTHETIC DATA</div>' if synthetic else ""
    if synthetic:
        which = [name for name, data in (("training", trained_on), ("evaluation", evaluated_on)) if data["synthetic"]]
        banner += (
            f'<p class="note">The order books of {" and ".join(which)} come from a simulated exchange. Nothing here says '
            "how the agent would do on the real one.</p>"
        )
    body = f'{banner}<p class="lead">{_verdict(outcomes)}</p>{join_sections(sections)}'
    return write_page(path, "kalshi-jax report", "Trading report", body)


_VALUE_NOTE = (
    "Line: the median over episodes. Band: from the 10th to the 90th percentile. An episode that ended early keeps "
    "its last value."
)
_TABLE_NOTE = (
    "Mean per episode and, below it, its 95% bootstrap interval over windows. Sharpe per step is measured: mean over "
    "standard deviation of the changes of portfolio value from step to step, not annualised. Turnover is contracts "
    "traded, each worth at most $1, over the starting capital. Maker share is the share of contracts that resting "
    "orders got. Fees and spread are in the return."
)
_ACTION_NOTE = (
    "Share of decisions. NOW takes what the book shows, WAIT joins the best bid and rests. HOLD leaves nothing in "
    "the book."
)
_FILL_NOTE = (
    "Contracts per episode. Resting orders fill only when the other side of the recording reaches their price: a "
    "cautious rule, so a real account would get some more of them."
)
_RETURN_NOTE = (
    "What an episode left in the account, against the starting capital; half of the episodes lie in the box. The scale "
    "is even up to $10 and logarithmic beyond."
)
_LEARNING_NOTE = (
    "Evaluations on the training recordings during the run (same windows, same seed), and the randomness of the policy."
)


def results_table(outcomes: Sequence[Outcome]) -> str:
    """Make the HTML table of all metrics, one row a policy."""
    head = "".join(f"<th>{label}</th>" for label in METRICS.values())
    rows = []
    for outcome in outcomes:
        cells = []
        for name, figures in outcome.summary().items():
            mean, low, high = (format_figure(name, figures[x]) for x in ("mean", "low", "high"))
            sign = ("bad" if figures["mean"] < 0 else "good") if "return" in name and figures["mean"] else ""
            cells.append(f'<td class="{sign}">{mean}<small>{low} … {high}</small></td>')
        rows.append(f"<tr><td>{html.escape(outcome.policy)}</td>{''.join(cells)}</tr>")
    return f"<table><tr><th>policy</th>{head}</tr>{''.join(rows)}</table>"


def format_figure(name: str, value: float) -> str:
    """Format a metric for a table."""
    if np.isnan(value):
        return "-"
    if name == "maker_share":
        return f"{value:.0%}"
    decimals = {
        "return_percent": 3,
        "sharpe_per_step": 4,
        "sharpe_assumed": 4,
        "trades_per_step": 3,
        "turnover": 3,
        "contracts": 0,
        "steps": 0,
    }
    text = f"{value:,.{decimals.get(name, 2)}f}"
    return text[1:] if text.startswith("-") and not text.strip("-0.,") else text


def _verdict(outcomes: Sequence[Outcome]) -> str:
    """Say in two sentences how the first policy did, whatever the sign."""
    first, *others = outcomes
    summary = first.summary()["total_return"]
    seeds, windows = first.metrics["total_return"].shape
    doing = "made" if summary["mean"] > 0 else "lost"
    if round(summary["mean"], 2) == 0:
        doing = "neither made nor lost money:"
    better = [o.policy for o in others if o.summary()["total_return"]["mean"] < summary["mean"]]
    worse = [o.policy for o in others if o.policy not in better]
    compared = "; ".join(
        f"{words} {', '.join(names)}" for words, names in (("above", better), ("not above", worse)) if names
    )
    return (
        f"Over {windows} windows with {seeds} seeds each, <b>{html.escape(first.policy)}</b> {doing} "
        f"<b>{dollars(abs(summary['mean']))}</b> per episode on average, fees and spread included "
        f"(95% interval {dollars(summary['low'])} to {dollars(summary['high'])}). "
        + (f"Mean return {html.escape(compared)}." if compared else "")
    )


def _value_plot(outcomes: Sequence[Outcome], seconds: float) -> str:
    figure = Figure(figsize=(10.5, 4.2), layout="constrained")
    for place, (title, shown) in enumerate((("all policies", outcomes), ("the agent alone", outcomes[:1])), start=1):
        axis = style_axis(figure.add_subplot(1, 2, place), "portfolio value, $")
        for outcome in shown:
            steps = np.arange(len(outcome.value))
            low, middle, high = np.quantile(outcome.value, [0.1, 0.5, 0.9], axis=1)
            color = COLORS[outcome.policy]
            axis.plot(steps, middle, color=color, label=outcome.policy, lw=1.6)
            axis.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(f"step ({seconds:g} s)" if seconds else "step (one change of the book)")
        if len(shown) > 1:
            axis.legend(frameon=False, fontsize=8)
    return embed(figure, "portfolio value over time, by policy")


def _action_plot(outcomes: Sequence[Outcome], order_sizes: Sequence[int]) -> str:
    names = [name.replace("_", " ") for name in action_names(tuple(order_sizes))]
    figure, axis = make_axes("share of decisions, %", height=3.4)
    width = 0.8 / len(outcomes)
    for i, outcome in enumerate(outcomes):
        share = 100 * outcome.actions / max(outcome.actions.sum(), 1)
        axis.bar(np.arange(len(names)) + i * width, share, width, color=COLORS[outcome.policy], label=outcome.policy)
    axis.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=35, ha="right", fontsize=9)
    axis.legend(frameon=False, fontsize=9)
    return embed(figure, "action frequencies, by policy")


def _fill_plot(outcomes: Sequence[Outcome]) -> str:
    figure, axis = make_axes("contracts per episode", height=2.8)
    places = np.arange(len(outcomes))
    taker, maker = [o.taker for o in outcomes], [o.maker for o in outcomes]
    axis.bar(places, taker, 0.6, color="#33658a", label="taken from the book")
    axis.bar(places, maker, 0.6, bottom=taker, color="#f6ae2d", label="got by resting orders")
    for place, outcome in zip(places, outcomes, strict=True):
        total = outcome.taker + outcome.maker
        axis.annotate(f"{total:,.0f}", (place, total), ha="center", va="bottom", fontsize=9)
    axis.set_xticks(places, [o.policy for o in outcomes])
    axis.legend(frameon=False, fontsize=9)
    return embed(figure, "contracts filled per episode, by policy")


def _return_plot(outcomes: Sequence[Outcome]) -> str:
    figure, axis = make_axes("return per episode, $", height=3.2)
    values = [o.metrics["total_return"].ravel() for o in outcomes]
    parts = axis.boxplot(values, orientation="vertical", patch_artist=True, widths=0.5, showfliers=False)
    for box, outcome in zip(parts["boxes"], outcomes, strict=True):
        box.set_facecolor(COLORS[outcome.policy])
        box.set_alpha(0.5)
    jitter = np.random.default_rng(0)
    for i, (value, outcome) in enumerate(zip(values, outcomes, strict=True)):
        shown = value if len(value) <= 400 else jitter.choice(value, 400, replace=False)
        place = i + 1 + jitter.uniform(-0.2, 0.2, len(shown))
        axis.scatter(place, shown, s=6, alpha=0.5, color=COLORS[outcome.policy], lw=0)
    axis.axhline(0, color="#1d2433", lw=0.7)
    axis.set_yscale("symlog", linthresh=10, linscale=2)
    axis.yaxis.set_major_formatter(MONEY)
    axis.set_xticks(np.arange(len(outcomes)) + 1, [o.policy for o in outcomes])
    return embed(figure, "distribution of returns per episode, by policy")


def _learning_plot(records: Sequence[dict[str, Any]]) -> str:
    updates = [r for r in records if r["kind"] == "update"]
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    if not updates or not evaluations:
        return ""
    figure, axis = make_axes("return per episode, $", height=3.2)
    steps = [r["steps"] / 1e6 for r in evaluations]
    mean, low, high = ([r["metrics"]["total_return"][x] for r in evaluations] for x in ("mean", "low", "high"))
    axis.plot(steps, mean, marker="o", ms=4, color=COLORS["agent"], label="evaluation, mean and 95% interval")
    axis.fill_between(steps, low, high, color=COLORS["agent"], alpha=0.15, lw=0)
    axis.axhline(0, color="#1d2433", lw=0.7)
    axis.set_xlabel("environment steps, millions")
    second = axis.twinx()
    second.plot([r["steps"] / 1e6 for r in updates], [r["entropy"] for r in updates], color="#8d99ae", lw=1)
    second.set_ylabel("entropy, nats", color="#8d99ae")
    second.set_ylim(bottom=0)
    second.spines[["top"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    return embed(figure, "learning curve")


def _data_facts(trained_on: dict[str, Any], evaluated_on: dict[str, Any]) -> dict[str, str]:
    def describe(data: dict[str, Any]) -> str:
        kind = "SYNTHETIC (simulated exchange)" if data["synthetic"] else "recorded order books"
        shown = ", ".join(data["session_ids"][:6]) + (", …" if data["sessions"] > 6 else "")
        return f"{kind}: {data['sessions']} sessions ({shown}), {data['markets']} markets, {data['changes']:,} changes"

    both = set(trained_on["session_ids"]) & set(evaluated_on["session_ids"])
    seen = f"{len(both)} of the evaluated sessions were trained on" if both else "no evaluated session was trained on"
    return {"trained on": describe(trained_on), "evaluated on": describe(evaluated_on), "overlap": seen}


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(item)}" for name, item in value.items() if item) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
