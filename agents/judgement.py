"""What an evaluation of a run found, and the words and tables that say so."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.evaluation import COMPONENTS, METRICS, Outcome, dollars
from agents.examples import Example
from agents.intervals import Retention


@dataclass
class Judgement:
    """What an evaluation found, for a table, a page or JSON."""

    outcomes: dict[str, list[Outcome]]  # by queue model, the agent's first
    retention: dict[str, dict[str, Retention]]  # by queue model and policy; empty if no seen markets were played
    examples: list[Example]  # of the agent, under the first queue model
    names: list[str]  # of the examples: market and time
    evaluated_on: dict[str, Any]  # describe_data
    seen_on: dict[str, Any] | None  # describe_data of the seen markets
    trade_prints: int  # of the source; without any, queue models do not decide what resting orders get

    def as_json(self) -> dict[str, Any]:
        """Give all figures: by queue model and policy, metrics, conditions and retention."""
        return {
            "queue_models": {
                model: {outcome.policy: outcome.summary() for outcome in outcomes}
                for model, outcomes in self.outcomes.items()
            },
            "conditions": {
                model: {outcome.policy: outcome.breakdown() for outcome in outcomes}
                for model, outcomes in self.outcomes.items()
            },
            "retention": {
                model: {policy: asdict(kept) for policy, kept in by_policy.items()}
                for model, by_policy in self.retention.items()
            },
        }


def print_judgement(console: Console, judgement: Judgement) -> None:
    """Print a table for each queue model, a row per metric (mean and 95% interval), and what is kept on unseen markets."""
    for model, outcomes in judgement.outcomes.items():
        table = Table("per episode", *(outcome.policy for outcome in outcomes), title=f"queue model {model}")
        for column in table.columns[1:]:
            column.justify = "right"
        summaries = [outcome.summary() for outcome in outcomes]
        for name, label in (METRICS | COMPONENTS).items():
            cells = []
            for summary in summaries:
                mean, low, high = (format_figure(name, summary[name][x]) for x in ("mean", "low", "high"))
                cells.append(mean if mean == low == high else f"{mean}\n[dim]{low} .. {high}[/dim]")
            table.add_row(label, *cells, end_section=name == list(METRICS)[-1])
        console.print(table)
    if not judgement.trade_prints and len(judgement.outcomes) > 1:
        console.print(
            "No trade prints here: resting orders fill only when the other side comes, under every queue model."
        )
    for model, kept in judgement.retention.items():
        for policy, figures in kept.items():
            console.print(f"{policy}, queue model {model}: {describe_retention(figures)}")


def describe_retention(kept: Retention) -> str:
    """Say in a sentence what a policy keeps of its return on seen markets."""
    both = f"{dollars(kept.unseen)} per episode on unseen markets, {dollars(kept.seen)} on seen ones"
    if np.isnan(kept.ratio):
        return f"{both}; no share to speak of: {kept.reason}"
    share = f"{both}: it keeps {kept.ratio:.0%}"
    return f"{share} ({kept.reason})" if kept.reason else f"{share} (95% interval {kept.low:.0%} to {kept.high:.0%})"


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
