"""The report of an evaluation: one HTML page that needs nothing else, written for a trader."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.conditions import CONDITIONS
from agents.evaluation import COMPONENTS, METRICS, Outcome, dollars
from agents.judgement import Judgement, describe_retention, format_figure
from agents.pages import fact_list, join_sections, write_page
from agents.plots import (
    plot_actions,
    plot_components,
    plot_equity,
    plot_example,
    plot_fills,
    plot_learning,
    plot_returns,
)

MODELS = {  # queue model -> its name and what it means, for a trader
    "risk_averse": ("cautious", "an order that leaves our level stood behind us, whenever it can have"),
    "power": ("shared", "an order that leaves our level stood behind us with a chance that grows with the queue there"),
    "log": ("shared, mild", "as shared, and less sure about it"),
    "optimistic": ("hopeful", "an order that leaves our level stood in front of us"),
}


def write_report(
    path: Path,
    judgement: Judgement,
    settings: dict[str, Any],
    trained_on: dict[str, Any],
    records: Sequence[dict[str, Any]],
) -> Path:
    """Write the page.

    Args:
        path: of the page.
        judgement: what was found.
        settings: of the run, name to value.
        trained_on: `describe_data` of the training data.
        records: of the run's metrics.jsonl.

    Returns:
        `path`.
    """
    seconds = settings["decision_interval_ms"] / 1000
    evaluated_on = judgement.evaluated_on
    outcomes = next(iter(judgement.outcomes.values()))
    kept = "".join(
        f"<p><b>{html.escape(policy)}</b>, {MODELS[model][0]} queue: {html.escape(describe_retention(figures))}.</p>"
        for model, by_policy in judgement.retention.items()
        for policy, figures in by_policy.items()
    )
    tables = "".join(
        f"<h3>{MODELS[model][0].capitalize()} queue</h3>{_wide(table_of(found, METRICS))}"
        for model, found in judgement.outcomes.items()
    )
    examples = "".join(
        f"<h3>{example.title.capitalize()}: {html.escape(name)}</h3>{plot_example(example, seconds)}"
        for example, name in zip(judgement.examples, judgement.names, strict=True)
    )
    sections = [
        ("Profit and drawdown", plot_equity(outcomes, seconds), _EQUITY_NOTE),
        ("Queue models side by side", _wide(side_by_side(judgement.outcomes)), _models_note(judgement)),
        ("Seen and unseen markets", kept, _RETENTION_NOTE),
        ("Where the money came from", _components(outcomes), _COMPONENT_NOTE),
        ("Examples", examples, _EXAMPLE_NOTE),
        ("Under which conditions", _conditions(outcomes), _CONDITION_NOTE),
        ("All figures", tables, _TABLE_NOTE + (_ONE_MARKET_NOTE if _of_one_market(outcomes[0]) else "")),
        ("Returns per episode", plot_returns(outcomes), _RETURN_NOTE),
        ("What the policies did", plot_actions(outcomes, settings["order_sizes"]), _ACTION_NOTE),
        ("Fills", plot_fills(outcomes), _FILL_NOTE),
        ("How the agent learned", plot_learning(records), _LEARNING_NOTE),
        ("Data", fact_list(_data_facts(trained_on, evaluated_on, judgement.seen_on)), ""),
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
    body = f'{banner}<p class="lead">{_verdict(judgement.outcomes)}</p>{join_sections(sections)}'
    return write_page(path, "kalshi-jax report", "Trading report", body)


_EQUITY_NOTE = (
    "Above, what an episode has made since its start; below, how far it has fallen from its best so far. Line: the median "
    "over episodes. Band: from the 10th to the 90th percentile above, the worst tenth below. An episode that ended early "
    "keeps its last value."
)
_RETENTION_NOTE = (
    "Mean return on the markets of this report, as a share of the mean return on markets that the agent was trained on. The "
    "interval draws markets of both anew."
)
_COMPONENT_NOTE = (
    "Everything is measured against the middle of the book. <b>Spread captured</b>: resting orders filled at a better price "
    "than the middle at the decision. <b>Adverse selection</b>: how far the middle had moved against those fills by the "
    "next decision. <b>Spread paid</b>: orders that took from the book, against the middle at the decision. <b>Price "
    "moves</b>: moves of the middle on what was held. <b>Settlement</b>: what markets paid at their close, against the "
    "last middle. The six add up to the return to the cent."
)
_EXAMPLE_NOTE = (
    "Not chosen by hand: of the agent's longer episodes with a trade, those whose returns are nearest to the middle and to the "
    "best and the worst tenth. Triangles up bought YES or sold NO, triangles down the reverse; filled ones took from the "
    "book, hollow ones had rested in it. Green: YES held. Red: NO held."
)
_CONDITION_NOTE = (
    "Dollars per 1,000 decisions taken under a condition, made from each decision to the next, fees included, with 95% "
    "intervals. Share: of all decisions of the first policy. What is held earns and loses too, so a policy need not have "
    "traded under a condition to have a figure there."
)
_TABLE_NOTE = (
    "Mean per episode and, below it, its 95% bootstrap interval. Windows of one market are no independent evidence, so "
    "markets (with several markets traded at once: sessions) are drawn anew, each with all its windows. Sharpe per step is "
    "measured: mean over standard deviation of the changes of portfolio value from step to step, not annualised. Turnover "
    "is contracts traded, each worth at most $1, over the starting capital. Maker share is the share of contracts that "
    "resting orders got. Fees and spread are in the return."
)
_ONE_MARKET_NOTE = (
    " <b>All windows here are of one market (or session)</b>: the intervals are over its windows, "
    "and say nothing of others."
)
_ACTION_NOTE = (
    "Share of decisions. NOW takes what the book shows, WAIT joins the best bid and rests. HOLD leaves nothing in "
    "the book."
)
_FILL_NOTE = "Contracts per episode."
_RETURN_NOTE = (
    "What an episode left in the account, against the starting capital; half of the episodes lie in the box. The scale "
    "is even up to $10 and logarithmic beyond."
)
_LEARNING_NOTE = "Evaluations during the run (same windows, same seed), and the randomness of the policy."


def _models_note(judgement: Judgement) -> str:
    told = " ".join(f"<b>{MODELS[m][0].capitalize()}</b>: {MODELS[m][1]}." for m in judgement.outcomes)
    what = (
        "The difference is how far the figures can be trusted."
        if judgement.trade_prints
        else "<b>These recordings have no trade prints.</b> Without them a resting order fills only when the other side comes to "
        "its price, whatever the model: late and dear. The figures then differ only as far as the agent looks at the queue."
    )
    return (
        f"A recording does not show who stood where in the queue, so what a resting order gets is a guess. {told} {what} "
        "Policies that only take from the book fare the same under all. Below each mean its 95% interval. All plots, and the "
        f"tables of one model, are under the {MODELS[next(iter(judgement.outcomes))][0]} one."
    )


def _of_one_market(outcome: Outcome) -> bool:
    return outcome.clusters is not None and len(np.unique(outcome.clusters)) == 1


def _wide(table: str) -> str:
    return f'<div class="wide">{table}</div>'


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Make a table of a head and rows (name, cells); the head is HTML already, and cells are whole elements."""
    top = "".join(f"<th>{label}</th>" for label in head)
    below = "".join(f"<tr><td>{html.escape(name)}</td>{''.join(cells)}</tr>" for name, cells in rows)
    return f"<table><tr>{top}</tr>{below}</table>"


def _cell(name: str, figures: dict[str, float], signed: bool) -> str:
    """Make the cell of a mean and its interval; where it is signed, gains are green and losses red."""
    mean, low, high = (format_figure(name, figures[x]) for x in ("mean", "low", "high"))
    sign = ("bad" if figures["mean"] < 0 else "good") if signed and mean.strip("-0.,") else ""
    below = "" if mean == low == high else f"<small>{low} … {high}</small>"
    return f'<td class="{sign}">{mean}{below}</td>'


def table_of(outcomes: Sequence[Outcome], labels: dict[str, str]) -> str:
    """Make the HTML table of metrics, a row for each, a column for each policy."""
    summaries = [outcome.summary() for outcome in outcomes]
    rows = [
        (label, [_cell(name, summary[name], "return" in name or name in COMPONENTS) for summary in summaries])
        for name, label in labels.items()
    ]
    return _table(["per episode", *(outcome.policy for outcome in outcomes)], rows)


def side_by_side(by_model: dict[str, list[Outcome]]) -> str:
    """Make the HTML table of the main figures, a row for each policy, under every queue model."""
    names = ("total_return", "max_drawdown", "pnl_spread_captured")
    head = ["policy", *(f"{(METRICS | COMPONENTS)[n]}<small>{MODELS[m][0]}</small>" for n in names for m in by_model)]
    rows = []
    for found in zip(*by_model.values(), strict=True):
        summaries = [outcome.summary() for outcome in found]
        cells = [_cell(name, summary[name], name == "total_return") for name in names for summary in summaries]
        rows.append((found[0].policy, cells))
    return _table(head, rows)


def _components(outcomes: Sequence[Outcome]) -> str:
    return plot_components(outcomes) + _wide(table_of(outcomes, COMPONENTS | {"total_return": "return $"}))


def _conditions(outcomes: Sequence[Outcome]) -> str:
    """Make a table for each condition: a row for each class, a column for each policy that traded."""
    traders = [outcome for outcome in outcomes if outcome.metrics["contracts"].any()]
    broken = {outcome.policy: outcome.breakdown() for outcome in traders or outcomes[:1]}
    first = next(iter(broken.values()))
    tables = []
    for condition, labels in CONDITIONS.items():
        if condition not in first:
            tables.append(f'<p class="note">No {condition}: this agent does not see the rhythm of the market.</p>')
            continue
        rows = [
            (label, [f"<td>{share:.1%}</td>", *(_cell("", found[condition][label], True) for found in broken.values())])
            for label in labels
            if (share := first[condition][label]["share"]) > 0
        ]
        tables.append(_wide(_table([condition, "share", *broken], rows)))
    return "".join(tables)


def _verdict(by_model: dict[str, list[Outcome]]) -> str:
    """Say in a few sentences how the first policy did, whatever the sign."""
    (model, outcomes), *other_models = by_model.items()
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
    under = "".join(
        f" Under the {MODELS[name][0]} queue model: <b>{dollars(again['mean'])}</b> "
        f"({dollars(again['low'])} to {dollars(again['high'])})."
        for name, found in other_models
        for again in [found[0].summary()["total_return"]]
    )
    return (
        f"Over {windows} windows with {seeds} seeds each, the <b>{html.escape(first.policy)}</b> {doing} "
        f"<b>{dollars(abs(summary['mean']))}</b> per episode on average under the {MODELS[model][0]} queue model, fees and "
        f"spread included (95% interval {dollars(summary['low'])} to {dollars(summary['high'])}).{under} "
        + (f"Mean return {html.escape(compared)}." if compared else "")
    )


def _data_facts(
    trained_on: dict[str, Any], evaluated_on: dict[str, Any], seen_on: dict[str, Any] | None
) -> dict[str, str]:
    def describe(data: dict[str, Any]) -> str:
        kind = "SYNTHETIC (simulated exchange)" if data["synthetic"] else "recorded order books"
        shown = ", ".join(data["session_ids"][:6]) + (", …" if data["sessions"] > 6 else "")
        return f"{kind}: {data['sessions']} sessions ({shown}), {data['markets']} markets, {data['changes']:,} changes"

    both = set(trained_on["session_ids"]) & set(evaluated_on["session_ids"])
    seen = f"{len(both)} of the evaluated sessions were trained on" if both else "no evaluated session was trained on"
    facts = {"trained on": describe(trained_on), "evaluated on": describe(evaluated_on), "overlap": seen}
    return facts | ({"compared with seen markets": describe(seen_on)} if seen_on else {})


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(item)}" for name, item in value.items() if item) or "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
