"""The plots of a report: each turns outcomes into an image that is part of the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from agents.evaluation import COMPONENTS, Outcome
from agents.examples import Example
from agents.pages import MONEY, embed, make_axes, style_axis
from kalshi_jax.actions import action_names

COLORS = {
    "agent": "#0b6e4f",
    "greedy agent": "#6bbf59",
    "random": "#c1666b",
    "hold": "#8d99ae",
    "always take": "#e09f3e",
    "momentum": "#7b4b94",
    "market maker": "#33658a",
}
PART_COLORS = dict(zip(COMPONENTS, ("#0b6e4f", "#c1666b", "#e09f3e", "#33658a", "#7b4b94", "#8d99ae"), strict=True))
INK = "#1d2433"
UP, DOWN = "#0b6e4f", "#b3261e"


def plot_equity(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Draw profit and, below it, the fall from the best so far: of all policies, and of the first alone."""
    figure = Figure(figsize=(10.5, 6.0), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, height_ratios=(2, 1))
    for column, (title, shown) in enumerate((("all policies", outcomes), (f"the {outcomes[0].policy}", outcomes[:1]))):
        above, below = axes[:, column]
        style_axis(above, "profit, $").set_title(title, fontsize=10)
        style_axis(below, "drawdown, $").set_xlabel(_steps_label(seconds))
        for outcome in shown:
            steps, color = np.arange(len(outcome.value)), COLORS[outcome.policy]
            low, middle, high = np.quantile(outcome.value - outcome.value[0], [0.1, 0.5, 0.9], axis=1)
            above.plot(steps, middle, color=color, label=outcome.policy, lw=1.6)
            fall = outcome.value - np.maximum.accumulate(outcome.value, axis=0)
            worst, usual = np.quantile(fall, [0.1, 0.5], axis=1)
            below.plot(steps, usual, color=color, lw=1.6)
            if len(shown) == 1:
                above.fill_between(steps, low, high, color=color, alpha=0.15, lw=0)
                below.fill_between(steps, worst, usual, color=color, alpha=0.15, lw=0)
        for axis in (above, below):
            axis.axhline(0, color=INK, lw=0.7)
        if len(shown) > 1:
            above.legend(frameon=False, fontsize=8)
    return embed(figure, "profit and drawdown over time, by policy")


def plot_components(outcomes: Sequence[Outcome]) -> str:
    """Stack what made the return, in cents per contract traded, a bar for each policy that traded."""
    traders = [outcome for outcome in outcomes if outcome.metrics["contracts"].any()]
    if not traders:
        return ""
    figure, axis = make_axes("cents per contract traded", height=4.2)
    places = np.arange(len(traders))
    over, under = np.zeros(len(traders)), np.zeros(len(traders))
    for name, label in COMPONENTS.items():
        cents = np.array([100 * o.metrics[name].sum() / o.metrics["contracts"].sum() for o in traders])
        axis.bar(
            places,
            cents,
            0.55,
            bottom=np.where(cents > 0, over, under),
            color=PART_COLORS[name],
            label=label.removesuffix(" $"),
        )
        over, under = over + np.maximum(cents, 0), under + np.minimum(cents, 0)
    total = over + under
    axis.scatter(places, total, marker="D", s=34, color=INK, zorder=3, label="return")
    for place, value in zip(places, total, strict=True):
        axis.annotate(f"{value:+.2f}", (place, value), xytext=(34, -3), textcoords="offset points", fontsize=9)
    axis.axhline(0, color=INK, lw=0.7)
    axis.set_xticks(places, [o.policy for o in traders])
    axis.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return embed(figure, "profit and loss by component, by policy")


def plot_example(example: Example, seconds: float) -> str:
    """Draw one episode: the price path with every fill on it, the position, and the profit."""
    figure = Figure(figsize=(10.5, 5.6), layout="constrained")
    price, held, profit = figure.subplots(3, 1, sharex=True, height_ratios=(4, 1.5, 1.5))
    unit = seconds / 60 if seconds else 1
    times = np.arange(len(example.bid)) * unit
    bid, ask = np.where(example.bid > 0, example.bid, np.nan), np.where(example.ask < 100, example.ask, np.nan)
    style_axis(price, "YES price, cents")
    price.fill_between(times, bid, ask, step="post", color="#8d99ae", alpha=0.35, lw=0, label="bid to ask")
    price.plot(times, (bid + ask) / 2, drawstyle="steps-post", color=INK, lw=0.8, label="mid")
    for way, sign, color in (("bought YES or sold NO", 1, UP), ("bought NO or sold YES", -1, DOWN)):
        for how, fills, at, face in (
            ("from the book", example.taker, (ask, bid), color),
            ("by a resting order", example.maker, (bid, ask), "white"),
        ):
            here = fills * sign > 0
            paid = at[0] if sign > 0 else at[1]
            if here.any():
                style = {
                    "marker": "^" if sign > 0 else "v",
                    "s": 26,
                    "facecolor": face,
                    "edgecolor": color,
                    "zorder": 3,
                }
                price.scatter(times[here], paid[here], label=f"{way}, {how}", **style)
    price.legend(frameon=False, fontsize=8, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    style_axis(held, "contracts")
    for sign, color in ((1, UP), (-1, DOWN)):
        side = np.where(example.position * sign > 0, example.position, 0)
        held.fill_between(times, side, step="post", color=color, alpha=0.35, lw=0)
    style_axis(profit, "profit, $").plot(np.arange(len(example.profit)) * unit, example.profit, color=INK, lw=1.2)
    for axis in (held, profit):
        axis.axhline(0, color=INK, lw=0.7)
    profit.set_xlabel("minutes" if seconds else _steps_label(seconds))
    return embed(figure, f"{example.title}: prices, fills, position and profit")


def _steps_label(seconds: float) -> str:
    return f"step ({seconds:g} s)" if seconds else "step (one change of the book)"


def plot_actions(outcomes: Sequence[Outcome], order_sizes: Sequence[int]) -> str:
    """Draw how often each action was chosen."""
    names = [name.replace("_", " ") for name in action_names(tuple(order_sizes))]
    figure, axis = make_axes("share of decisions, %", height=3.4)
    width = 0.8 / len(outcomes)
    for i, outcome in enumerate(outcomes):
        share = 100 * outcome.actions / max(outcome.actions.sum(), 1)
        axis.bar(np.arange(len(names)) + i * width, share, width, color=COLORS[outcome.policy], label=outcome.policy)
    axis.set_xticks(np.arange(len(names)) + 0.4 - width / 2, names, rotation=35, ha="right", fontsize=9)
    axis.legend(frameon=False, fontsize=9)
    return embed(figure, "action frequencies, by policy")


def plot_fills(outcomes: Sequence[Outcome]) -> str:
    """Draw the contracts filled per episode."""
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


def plot_returns(outcomes: Sequence[Outcome]) -> str:
    """Draw the distribution of returns per episode."""
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
    axis.axhline(0, color=INK, lw=0.7)
    axis.set_yscale("symlog", linthresh=10, linscale=2)
    axis.yaxis.set_major_formatter(MONEY)
    axis.set_xticks(np.arange(len(outcomes)) + 1, [o.policy for o in outcomes])
    return embed(figure, "distribution of returns per episode, by policy")


def plot_learning(records: Sequence[dict[str, Any]]) -> str:
    """Draw how the return and the randomness of the policy went during the run; nothing where there are no records."""
    updates = [r for r in records if r["kind"] == "update"]
    evaluations = [r for r in records if r["kind"] == "evaluation"]
    if not updates or not evaluations:
        return ""
    figure, axis = make_axes("return per episode, $", height=3.2)
    steps = [r["steps"] / 1e6 for r in evaluations]
    mean, low, high = ([r["metrics"]["total_return"][x] for r in evaluations] for x in ("mean", "low", "high"))
    axis.plot(steps, mean, marker="o", ms=4, color=COLORS["agent"], label="evaluation, mean and 95% interval")
    axis.fill_between(steps, low, high, color=COLORS["agent"], alpha=0.15, lw=0)
    axis.axhline(0, color=INK, lw=0.7)
    axis.set_xlabel("environment steps, millions")
    second = axis.twinx()
    second.plot([r["steps"] / 1e6 for r in updates], [r["entropy"] for r in updates], color="#8d99ae", lw=1)
    second.set_ylabel("entropy, nats", color="#8d99ae")
    second.set_ylim(bottom=0)
    second.spines[["top"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9, loc="lower right")
    return embed(figure, "learning curve")
