"""Export: a run's agent becomes a policy that runs without flax, the run or this project (`agents.policy` reads it)."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

from agents.networks import ActorCritic, forward
from agents.policy import (
    DESCRIPTION,
    FORMAT,
    PROGRAM,
    VERSION,
    Policy,
    Schema,
    describe_program,
    hash_bytes,
    hash_description,
    hash_json,
    load_policy,
)
from agents.runs import RunFolder, load_run, make_agent
from kalshi_jax import MarketAgnosticKalshiEnv, Observation

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 0.02  # half precision and a GPU's short float32 round at 1e-3: more than this is no rounding
CALLS = 1000


@dataclass(frozen=True)
class ExportResult:
    """What was written and how it runs on this machine."""

    policy: Path
    size_bytes: int  # of both files
    weights: int  # numbers in the network
    largest_difference: float  # of its logits, values and memories from the network's, relative to those above 1
    platform: str  # of the next three
    compile_seconds: float  # of the first decision at batch 1
    median_ms: float  # of a decision at batch 1: checks, network and the likeliest actions back on the host
    slowest_percent_ms: float  # one decision in a hundred takes longer


def export_run(run: Path, out: Path | None = None) -> ExportResult:
    """Write a run's agent as a policy, read it back, hold it against the network, and time it.

    Args:
        run: folder of the run.
        out: folder of the policy, `run`/policy by default; a policy that is there is replaced.

    Raises:
        FileNotFoundError: no run, or one without a checkpoint.
        FloatingPointError: the policy that was written does not compute what the network does.
    """
    config, _ = load_run(run)
    env, network = make_agent(config)
    weights = jax.device_get(RunFolder(run).restore_weights())
    saved = json.loads(RunFolder(run).config_file.read_text())
    folder = write_policy(out or run / "policy", env, network, weights, saved)
    policy = load_policy(folder)
    difference = _largest_difference(policy, network, weights)
    if not difference <= TOLERANCE:
        (folder / DESCRIPTION).unlink()
        raise FloatingPointError(
            f"{folder}: differed from the network by {difference}: expected at most {TOLERANCE}; it was taken away: report this"
        )
    return ExportResult(
        policy=folder,
        size_bytes=sum((folder / name).stat().st_size for name in (PROGRAM, DESCRIPTION)),
        weights=sum(x.size for x in jax.tree.leaves(weights)),
        largest_difference=difference,
        platform=jax.default_backend(),
        **_time_decisions(policy),
    )


def write_policy(
    folder: Path, env: MarketAgnosticKalshiEnv, network: ActorCritic, weights: Any, run: dict[str, Any]
) -> Path:
    """Write an agent as a policy.

    Args:
        folder: to write to.
        env: the environment it was trained in, for the names of what it sees.
        network: of the agent.
        weights: of the network, on the host.
        run: what it has learned from, and how: anything that JSON can hold.

    Returns:
        `folder`.
    """
    schema = Schema.of(env, network.memory)

    def program(
        market: jax.Array, portfolio: jax.Array, action_mask: jax.Array, memory: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        observation = Observation(market, portfolio, action_mask)
        logits, value, after = forward(network, weights, observation, memory if network.memory else ())
        return logits, value, after if network.memory else memory

    with _untraced():
        exported = export.export(jax.jit(program), platforms=PLATFORMS)(*schema.arguments())
    description = {
        "format": FORMAT,
        "version": VERSION,
        "schema": asdict(schema),
        "units": {
            "market": "each feature is bounded by its definition (kalshi_jax.features): there is nothing else to normalise",
            "logits": "unnormalised log probabilities, one set an order slot; illegal actions at the lowest finite number",
            "value": "discounted sum of rewards to come; a reward is the change of portfolio value x 0.01 per dollar",
            "memory": "zeros when an episode begins",
        },
        "program": describe_program(exported),
        "run": run,
        "exported_by": {"jax": jax.__version__, "kalshi-jax": version("kalshi-jax")},
    }
    description = json.loads(json.dumps(description))  # tuples are lists, as they will be when it is read
    content = bytes(exported.mlir_module_serialized)
    description["sha256"] = {
        PROGRAM: hash_bytes(content),
        DESCRIPTION: hash_description(description),
        "schema": hash_json(description["schema"]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    _replace_file(folder / PROGRAM, content)
    _replace_file(folder / DESCRIPTION, json.dumps(description, indent=2).encode() + b"\n")
    return folder


@contextmanager
def _untraced() -> Iterator[None]:
    """Leave out of programs where in the code each operation comes from: the paths of this machine, and other bytes each time."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def random_observation(schema: Schema, batch: int, seed: int) -> Observation:
    """Draw an observation of a batch, bounded as real ones are; HOLD is always legal."""
    draw, shapes = np.random.default_rng(seed), schema.shapes()

    def figures(name: str) -> Any:
        return draw.uniform(-1, 1, (batch, *shapes[name])).astype(np.float32)

    mask: Any = draw.random((batch, *shapes["action_mask"])) < 0.5
    mask[..., 0] = True
    return Observation(figures("market"), figures("portfolio"), mask)


def _largest_difference(policy: Policy, network: ActorCritic, weights: Any) -> float:
    observation = random_observation(policy.schema, 16, seed=0)
    memory = np.random.default_rng(1).uniform(-1, 1, policy.empty_memory(16).shape).astype(np.float32)
    compiled = jax.jit(forward, static_argnums=0)
    expected = jax.device_get(compiled(network, weights, observation, memory if network.memory else ()))
    pairs = zip(jax.tree.leaves(expected), policy.forward(observation, memory), strict=False)
    # not Python's max: it may pass over NaN
    return float(np.max([np.max(np.abs(one - other) / np.maximum(1, np.abs(one))) for one, other in pairs if one.size]))


def _time_decisions(policy: Policy) -> dict[str, float]:
    observation, memory = random_observation(policy.schema, 1, seed=2), policy.empty_memory(1)
    seconds = np.empty(CALLS + 1)
    for i in range(CALLS + 1):
        began = time.perf_counter()
        _, memory = policy.act(observation, memory)  # on the host, so all of it is done
        seconds[i] = time.perf_counter() - began
    return {
        "compile_seconds": float(seconds[0]),
        "median_ms": float(np.median(seconds[1:]) * 1e3),
        "slowest_percent_ms": float(np.quantile(seconds[1:], 0.99) * 1e3),
    }


def _replace_file(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever reads a part of it."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_bytes(content)
    os.replace(beside, path)
