"""Example episodes of an evaluation, step by step, for a report: not chosen by hand but by where their return lies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.evaluation import Outcome
from agents.networks import ActorCritic
from agents.play import replay
from agents.windows import Windows

CHOSEN = {"a typical episode": 0.5, "a good episode": 0.9, "a bad episode": 0.1}  # title -> quantile of the return


@dataclass(frozen=True)
class Example:
    """One market in one episode of T steps."""

    title: str
    market: int  # of the tape
    start_ms: int  # ms since the session's start
    bid: np.ndarray  # f32[T], of YES at each decision, cents
    ask: np.ndarray  # f32[T]
    position: np.ndarray  # i32[T], contracts at each decision, +YES, -NO
    taker: np.ndarray  # i32[T], contracts that NOW orders brought from there to the next decision, +YES, -NO
    maker: np.ndarray  # i32[T], contracts that resting orders brought
    profit: np.ndarray  # f32[T + 1], $, of the whole episode


def choose_examples(
    outcome: Outcome, env: Any, network: ActorCritic, weights: Any, env_params: Any, windows: Windows
) -> list[Example]:
    """Play the episodes again whose returns are nearest to the quantiles of CHOSEN; of each, the market traded most.

    Episodes without a trade show nothing and are passed over, and so is the shorter half of the others; there are fewer
    examples where too few are left.
    """
    returns, contracts, steps = (outcome.metrics[name].ravel() for name in ("total_return", "contracts", "steps"))
    traded = contracts > 0
    left = np.flatnonzero(traded & (steps >= np.median(steps[traded]))) if traded.any() else np.array([], int)
    examples: list[Example] = []
    wanted = {title: np.quantile(returns[left], share) for title, share in CHOSEN.items()} if len(left) else {}
    for title, target in wanted.items():
        if not len(left):
            break
        episode = int(left[np.argmin(np.abs(returns[left] - target))])
        left = left[left != episode]
        seed, window = divmod(episode, len(windows.start_ms))
        trace = replay(env, network, weights, env_params, windows, outcome.policy, seed, window)
        slot = int(np.argmax(np.abs(trace.taker).sum(axis=0) + np.abs(trace.maker).sum(axis=0)))
        examples.append(
            Example(
                title=title,
                market=int(windows.markets[window, slot]),
                start_ms=int(windows.start_ms[window]),
                bid=np.asarray(trace.bid)[:, slot],
                ask=np.asarray(trace.ask)[:, slot],
                position=np.asarray(trace.position)[:, slot],
                taker=np.asarray(trace.taker)[:, slot],
                maker=np.asarray(trace.maker)[:, slot],
                profit=(outcome.value[:, episode] - outcome.value[0, episode])[: len(trace.bid) + 1],
            )
        )
    return examples
