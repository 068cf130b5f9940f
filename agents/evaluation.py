"""Evaluation: every market and window of a source, played by the agent and by policies that learn nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np

from agents.conditions import CONDITIONS
from agents.intervals import Retention, interval, ratio_interval, retention
from agents.networks import ActorCritic
from agents.play import POLICIES, Record, Sums, play_all
from agents.windows import Windows, all_windows
from kalshi_jax.metrics import episode_metrics
from kalshi_jax.tape import DOLLAR

__all__ = [
    "COMPONENTS",
    "METRICS",
    "POLICIES",
    "REPEATABLE",
    "SEEDS",
    "Breakdown",
    "Outcome",
    "Windows",
    "all_windows",
    "compare_seen",
    "dollars",
    "evaluate",
]
REPEATABLE = ("greedy agent", "hold", "momentum", "market maker")  # the same with every seed
SEEDS = 5

METRICS = {  # name -> what it says, for tables
    "total_return": "return $",
    "return_percent": "return %",
    "sharpe_per_step": "Sharpe per step",
    "sharpe_assumed": "Sharpe at assumed volatility",
    "max_drawdown": "max drawdown $",
    "trades_per_step": "trades per step",
    "contracts": "contracts",
    "turnover": "turnover",
    "fees": "fees $",
    "maker_share": "maker share",
    "steps": "steps",
}

COMPONENTS = {  # of the return, a PART of its attribution each -> what it says, for tables
    "pnl_spread_captured": "spread captured $",
    "pnl_adverse_selection": "adverse selection $",
    "pnl_spread_paid": "spread paid $",
    "pnl_holding": "price moves $",
    "pnl_settlement": "settlement $",
    "pnl_fees": "fees $",
}


@dataclass
class Breakdown:
    """Decisions of n windows and what they made, over all seeds, by the classes of a condition."""

    decisions: np.ndarray  # i64[n, classes]
    pnl: np.ndarray  # f64[n, classes], $


@dataclass
class Outcome:
    """One policy on n windows with several seeds."""

    policy: str
    metrics: dict[str, np.ndarray]  # of METRICS and COMPONENTS -> f[seeds, n]
    value: np.ndarray  # f32[T + 1, seeds * n], $
    actions: np.ndarray  # i64[A], how often each was chosen
    taker: float  # contracts per episode
    maker: float  # contracts per episode
    clusters: np.ndarray | None = None  # i64[n], see Windows
    conditions: dict[str, Breakdown] = field(default_factory=dict)  # by CONDITIONS

    def summary(self) -> dict[str, dict[str, float]]:
        """Mean over windows with a bootstrap 95% interval by clusters, per metric."""
        return self._summary

    @cached_property
    def _summary(self) -> dict[str, dict[str, float]]:
        return {name: interval(x, self.clusters) for name, x in self.metrics.items()}

    def breakdown(self) -> dict[str, dict[str, dict[str, float]]]:
        """Share of decisions, and $ per 1,000 of them with a 95% interval, by condition and class."""
        return {
            name: {
                label: {"share": float(decisions.sum() / max(found.decisions.sum(), 1))}
                | ratio_interval(1000 * pnl, decisions, self.clusters)
                for label, decisions, pnl in zip(CONDITIONS[name], found.decisions.T, found.pnl.T, strict=True)
            }
            for name, found in self.conditions.items()
        }


def evaluate(
    env: Any,
    network: ActorCritic,
    weights: Any,
    env_params: Any,
    windows: Windows,
    policies: Sequence[str] = POLICIES,
    seeds: int = SEEDS,
) -> list[Outcome]:
    """Play every window with every policy; equal arguments give equal outcomes.

    Args:
        env: the environment.
        network: of the agent.
        weights: of the network.
        env_params: the parameters, with the tape.
        windows: where episodes begin.
        policies: names out of POLICIES.
        seeds: episodes per window, for policies that draw.
    """
    unknown = set(policies) - set(POLICIES)
    if unknown:
        raise ValueError(f"policies {sorted(unknown)} are not known: choose from {', '.join(POLICIES)}")
    outcomes = []
    for name in policies:
        repeats = 1 if name in REPEATABLE else seeds
        played = play_all(env, network, weights, env_params, windows, POLICIES.index(name), repeats)
        outcomes.append(_outcome(name, *played, windows, float(env_params.initial_cash) / DOLLAR))
    return outcomes


def compare_seen(unseen: Sequence[Outcome], seen: Sequence[Outcome]) -> dict[str, Retention]:
    """Tell how much of its return each policy that is in both keeps on the unseen markets, by policy."""
    before = {outcome.policy: outcome for outcome in seen}
    pairs = [(now, before[now.policy]) for now in unseen if now.policy in before]
    return {
        now.policy: retention(now.metrics["total_return"], then.metrics["total_return"], now.clusters, then.clusters)
        for now, then in pairs
    }


def _outcome(policy: str, record: Record, sums: Sums, actions: np.ndarray, windows: Windows, capital: float) -> Outcome:
    value = jnp.concatenate([jnp.full((1, record.value.shape[1]), capital), record.value])
    figures = episode_metrics(value, record.lived, record.trades, record.taker, record.maker, record.fees)
    figures |= {f"pnl_{name}": x / DOLLAR for name, x in sums.parts.items()}
    count = len(windows.start_ms)

    def by_window(x: Any) -> np.ndarray:
        return np.asarray(x).reshape(-1, count, x.shape[-1]).sum(axis=0, dtype=np.int64)

    return Outcome(
        policy=policy,
        metrics={name: np.asarray(x).reshape(-1, count) for name, x in figures.items()},
        value=np.asarray(value),
        actions=actions,
        taker=float(record.taker.sum(axis=0).mean()),
        maker=float(record.maker.sum(axis=0).mean()),
        clusters=windows.clusters,
        conditions={
            name: Breakdown(by_window(x), by_window(sums.pnl[name]) / DOLLAR) for name, x in sums.decisions.items()
        },
    )


def dollars(amount: float) -> str:
    """Write an amount of money: -$1,234.50."""
    return f"{'-' if round(amount, 2) < 0 else ''}${abs(amount):,.2f}"
