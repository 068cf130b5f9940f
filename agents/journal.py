"""What a run tells: metrics.jsonl, TensorBoard, the terminal; and what it makes of figures that should worry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jax
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

from agents.evaluation import dollars
from agents.runs import RunFolder, TrainConfig
from kalshi_jax.actions import action_names

LITTLE_ENTROPY = 0.02  # of what it was in the first update: the policy hardly draws any more
ONE_ACTION = 0.95  # of all decisions
FINITE = ("observation", "reward", "value", "gradient", "weights")  # what is looked at first, first


class Journal:
    """Records of one agent's run, in its folder and on TensorBoard."""

    def __init__(self, folder: RunFolder, config: TrainConfig, done: int, console: Console, name: str = "") -> None:
        """Open the files; `done` updates are kept, and `name` is put before what the console shows."""
        self._known = folder.records() if folder.metrics_file.exists() else []
        self._file = folder.metrics_file.open("a")
        self._board = SummaryWriter(str(folder.path / "tensorboard"), purge_step=done + 1)
        self._actions, self._console, self._name = action_names(config.order_sizes), console, name

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._board.close()

    def update(self, update: int, steps: int, speed: float, figures: dict[str, Any]) -> None:
        """Record one update, and what should worry about it."""
        memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use")  # a CPU does not say
        record = {"kind": "update", "update": update, "steps": steps, "steps_per_second": speed, **figures}
        if memory is not None:
            record["device_memory_bytes"] = memory
        self._write(record)
        for name, value in record.items():
            if name not in ("kind", "update", "steps", "actions"):
                self._board.add_scalar(f"train/{name}", value, update)
        for name, share in zip(self._actions, figures["actions"], strict=True):
            self._board.add_scalar(f"actions/{name}", share, update)
        first = next(r for r in self._known if r["kind"] == "update")
        told = {r["about"] for r in self._known if r["kind"] == "warning"}
        for about, message in worries(first, record, self._actions).items():
            if about not in told:
                self._write({"kind": "warning", "update": update, "about": about, "message": message})
                self._console.print(f"[bold]Warning[/bold]{self._name}, update {update}: {message}")

    def evaluation(self, kind: str, update: int, steps: int, metrics: dict[str, dict[str, float]]) -> None:
        """Record an evaluation on the training data ("evaluation") or on markets held out ("validation")."""
        self._write({"kind": kind, "update": update, "steps": steps, "metrics": metrics})
        for name, value in metrics.items():
            self._board.add_scalar(f"{kind}/{name}", value["mean"], update)
        mean, low, high = (dollars(metrics["total_return"][x]) for x in ("mean", "low", "high"))
        self._console.print(
            f"{kind.capitalize()}{self._name} after {steps:,} steps: return per episode {mean} (95% {low} to {high}), "
            f"{metrics['trades_per_step']['mean']:.3f} trades per step"
        )

    def _write(self, record: dict[str, Any]) -> None:
        self._known.append(record)
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()


def worries(first: dict[str, Any], now: dict[str, Any], actions: Sequence[str]) -> dict[str, str]:
    """Find what is wrong with a policy that still trains: subject -> what, why it matters and what to do.

    Args:
        first: record of the run's first update.
        now: record of the present one.
        actions: their names.
    """
    found = {}
    if now["entropy"] < LITTLE_ENTROPY * first["entropy"]:
        found["entropy"] = (
            f"entropy has collapsed to {now['entropy']:.4f} nats ({first['entropy']:.2f} at first): the policy hardly tries "
            "anything else any more and learns no further; if it earns nothing, begin again with a larger --entropy-weight"
        )
    share = max(now["actions"])
    if share > ONE_ACTION:
        name = actions[now["actions"].index(share)]
        found["action"] = (
            f"{share:.0%} of all decisions are {name}: "
            + (
                "the agent has found nothing that pays its fees and spreads, or has not looked: "
                if name == "HOLD"
                else "it does the same whatever it sees: "
            )
            + "compare it with hold, and try a larger --entropy-weight or other data"
        )
    return found


def check_figures(figures: dict[str, Any], update: int) -> None:
    """Stop the run where its figures stopped being meaningful, and say what failed first.

    Takes those out that only serve this, and turns sums over ended episodes into means.

    Raises:
        FloatingPointError: something is not finite.
        ValueError: episodes ended in the rollout for whose last states there was no place.
    """
    broken = [name for name in FINITE if figures.pop(f"finite_{name}") < 1]
    if broken:
        raise FloatingPointError(
            f"update {update}: not finite: {', '.join(broken)} (loss {figures['loss']}, gradient norm "
            f"{figures['gradient_norm']}); the newest checkpoint is from before. If the observation or the reward is "
            "in the list, the data or the environment is at fault; otherwise try a lower --learning-rate"
        )
    if figures.pop("lost_truncations"):
        raise ValueError(f"update {update}: episodes were shorter than the rollout: choose a smaller --rollout-length")
    for name in ("episode_return", "final_value"):
        total = figures.pop(name)
        if figures["episodes_per_env"]:
            figures[name] = total / figures["episodes_per_env"]


def progress_bar(console: Console) -> Progress:
    """Make the bar of a run: a task has a field `figures`."""
    return Progress(
        TextColumn("update {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )
