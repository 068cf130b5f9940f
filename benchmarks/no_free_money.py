"""Is there free money? Hard-coded policies and a trained agent on simulated sessions without drift, and with a planted edge.

Every session has one market and is played once, by one episode, so that episodes are independent. Without an edge the fair
value is a martingale that nobody outside knows, and fees and spreads are all that a policy can lose or save: none may end above
its start. That holds where nobody gives money away. With `--noise` some cross the spread for no reason, and makers who answer
every change of the book at no cost (`--interval-ms 0`) earn of it what makers earn. With `--stale` makers follow the fair value
late, the books show how late, and the agent has to find it.

What came out is in benchmarks/results/no_free_money.md.

    python benchmarks/no_free_money.py                # the policies only
    python benchmarks/no_free_money.py --train-steps 10_000_000
    python benchmarks/no_free_money.py --train-steps 10_000_000 --interval-ms 0
    python benchmarks/no_free_money.py --train-steps 10_000_000 --stale 20
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from flax import struct

from agents.networks import forward
from agents.runs import RunFolder, TrainConfig, make_environment
from agents.training import train
from kalshi_jax import Action, EnvParams, MarketAgnosticKalshiEnv
from kalshi_jax.features import Observation
from loaders import load_tape
from loaders.exchange_sim import SimConfig

CHANGES_PER_S = 5  # below the changes that a market sees, so that nearly no episode meets its close
SURE = 2.576  # standard errors of a 99% interval
MOST = 100  # contracts that a policy means to hold
ORDERS = 2  # a step: enough to quote both sides
UNSEEN = 1_000_000  # added to the seed of the sessions that nobody trains on
Rule = Callable[["View", jax.Array], jax.Array]  # what is seen and a key -> actions i32[N, ORDERS]


@dataclass(frozen=True)
class Config:
    """Play hard-coded policies, and perhaps a trained agent, on simulated sessions and see whether any earns money."""

    sessions: int = 400
    """Sessions to judge on, one episode each."""
    seconds: int = 300
    """Length of a session; an episode takes all of it but the last steps."""
    interval_ms: int = 1000
    """Time between decisions; 0 decides at every change of the book."""
    stale: float = 0.0
    """Seconds by which makers lag the fair value; 0 plants no edge."""
    noise: float = 0.0
    """Share of orders that cross the spread for no reason: money given away, which makers who react at once may have."""
    train_steps: int = 0
    """Environment steps to train an agent for, on other sessions; 0 trains none."""
    train_sessions: int = 400
    """Sessions to train on."""
    seed: int = 0
    """Of the exchange and of the training."""
    out: Path | None = None
    """Folder of the training run; a temporary one by default."""
    json: bool = False
    """Print the result as JSON."""

    @property
    def exchange(self) -> SimConfig:
        """The sessions to judge on."""
        return SimConfig(self.sessions, 1, self.seconds, self.seed + UNSEEN, stale=self.stale, noise=self.noise)

    @property
    def steps(self) -> int:
        """Decisions of an episode: all but those of the last ten seconds, where the market closes."""
        if self.interval_ms == 0:
            return int(self.seconds * CHANGES_PER_S)
        return (self.seconds - 10) * 1000 // self.interval_ms


@struct.dataclass
class View:
    """What N policies see, by name."""

    features: Any  # name -> f32[N]
    mask: jax.Array  # bool[N, ORDERS, A]
    observation: Observation  # of one market

    @property
    def contracts(self) -> jax.Array:
        """Holding, +YES, -NO: f32[N]."""
        return 100 * jnp.arctanh(jnp.clip(self.features["market_0_position"], -0.999999, 0.999999))


# -- policies


def take(view: View, direction: jax.Array) -> jax.Array:
    """Buy YES (+1) or NO (-1) at the ask, up to MOST contracts of it; 0 holds."""
    wanted = jnp.where(view.contracts * direction < MOST, jnp.sign(direction), 0)
    action = jnp.where(wanted > 0, Action.BUY_YES_NOW, jnp.where(wanted < 0, Action.BUY_NO_NOW, Action.HOLD))
    return jnp.stack([action, jnp.zeros_like(action)], axis=-1)


def everywhere(view: View, *actions: int) -> jax.Array:
    return jnp.broadcast_to(jnp.array(actions), (len(view.mask), ORDERS))


def beyond(signal: jax.Array, threshold: float) -> jax.Array:
    return jnp.where(jnp.abs(signal) > threshold, jnp.sign(signal), 0)


def make(view: View, yes: jax.Array | bool = True, no: jax.Array | bool = True) -> jax.Array:
    """Join the best bids of YES and NO where wanted, up to MOST contracts of each."""
    quotes = ((yes, view.contracts, Action.BUY_YES_WAIT), (no, -view.contracts, Action.BUY_NO_WAIT))
    return jnp.stack([jnp.where(wanted & (held < MOST), bid, Action.HOLD) for wanted, held, bid in quotes], axis=-1)


def take_then_rest(view: View, key: jax.Array) -> jax.Array:
    held = jnp.abs(view.contracts) > 0.5
    return jnp.stack([jnp.where(held, Action.SELL_YES_WAIT, Action.BUY_YES_NOW), jnp.where(held, 0, 0)], axis=-1)


def random_legal(view: View, key: jax.Array) -> jax.Array:
    return jax.random.categorical(key, jnp.where(view.mask, 0.0, -1e9))


POLICIES: dict[str, Rule] = {
    "hold": lambda view, key: everywhere(view, Action.HOLD, Action.HOLD),
    "random legal": random_legal,
    "buy YES": lambda view, key: everywhere(view, Action.BUY_YES_NOW, Action.HOLD),
    "buy NO": lambda view, key: everywhere(view, Action.BUY_NO_NOW, Action.HOLD),
    "buy both sides": lambda view, key: everywhere(view, Action.BUY_YES_NOW, Action.BUY_NO_NOW),
    "buy the cheap side": lambda view, key: take(view, jnp.sign(0.5 - view.features["yes_mid"])),
    "buy the dear side": lambda view, key: take(view, jnp.sign(view.features["yes_mid"] - 0.5)),
    "follow momentum": lambda view, key: take(view, beyond(view.features["momentum_10s"], 0.2)),
    "bet on reversal": lambda view, key: take(view, -beyond(view.features["momentum_10s"], 0.2)),
    "follow the imbalance": lambda view, key: take(view, beyond(view.features["imbalance_5"], 0.3)),
    "take, then rest to close": take_then_rest,
    "quote both sides": lambda view, key: make(view),
    "quote the heavy side": lambda view, key: make(
        view, view.features["imbalance_1"] > 0.3, view.features["imbalance_1"] < -0.3
    ),
}


# -- play


def look(env: MarketAgnosticKalshiEnv, observation: Observation) -> View:
    """Name what N episodes of one market see."""
    market = dict(zip(env.feature_names, jnp.moveaxis(observation.market[:, 0], -1, 0), strict=True))
    portfolio = dict(zip(env.portfolio_names, jnp.moveaxis(observation.portfolio, -1, 0), strict=True))
    return View(market | portfolio, observation.action_mask[:, 0], observation)


@partial(jax.jit, static_argnames=("env", "rules", "steps"))
def play(
    env: MarketAgnosticKalshiEnv, rules: tuple[Any, ...], steps: int, params: EnvParams, rule: jax.Array, key: jax.Array
) -> dict[str, jax.Array]:
    """Play one episode in every market of the tape from its first moment by rule number `rule`.

    Returns:
        per market f32[N]: `change` of the portfolio's value in $, `fees` in $, contracts `taken` and `made`.
    """
    markets = jnp.arange(params.tape.num_markets)[:, None]

    def step(carry: tuple[Any, Any, dict[str, jax.Array]], key: jax.Array) -> tuple[Any, None]:
        state, alive, total = carry
        view = look(env, jax.vmap(env.observation, (0, None))(state, params))
        wanted = jax.lax.switch(rule, [lambda v, k, r=r: r(v, k).astype(jnp.int32) for r in rules], view, key)
        legal = jnp.take_along_axis(view.mask, wanted[..., None], axis=-1)[..., 0]
        action = jnp.where(legal & alive[:, None], wanted, Action.HOLD)[:, None]
        after, _, terminated, truncated, info = jax.vmap(env.transition, (0, 0, None))(state, action, params)
        state = jax.tree.map(lambda new, old: jax.vmap(jnp.where)(alive, new, old), after, state)
        found = {"fees": info["fees"], "taken": info["taker_contracts"], "made": info["maker_contracts"]}
        total = {name: total[name] + jnp.where(alive, found[name], 0) for name in found}
        return (state, alive & ~terminated & ~truncated, total), None

    _, state = jax.vmap(env.start, (None, 0, None))(params, markets, jnp.int32(0))
    count = len(markets)
    begin = (state, jnp.ones(count, bool), {name: jnp.zeros(count) for name in ("fees", "taken", "made")})
    (state, _, total), _ = jax.lax.scan(step, begin, jax.random.split(key, steps))
    return total | {"change": (state.value - params.initial_cash) / 10_000.0}


def judge(
    env: MarketAgnosticKalshiEnv, params: EnvParams, steps: int, policies: dict[str, Any], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Play every policy in every market of the tape: name -> mean change of value per episode, its 99% interval, and costs."""
    outcomes = {}
    for i, name in enumerate(policies):
        played = play(env, tuple(policies.values()), steps, params, jnp.int32(i), jax.random.key(seed))
        change = np.asarray(played["change"], np.float64)
        error = change.std(ddof=1) / np.sqrt(len(change))
        outcomes[name] = {
            "mean": float(change.mean()),
            "low": float(change.mean() - SURE * error),
            "high": float(change.mean() + SURE * error),
            **{cost: float(np.mean(played[cost])) for cost in ("fees", "taken", "made")},
        }
    return outcomes


# -- the trained agent


def train_agent(config: Config, folder: Path) -> dict[str, Any]:
    """Train on sessions of their own and give the agent as two more policies."""
    source = replace(config.exchange, sessions=config.train_sessions, seed=config.seed).spec
    settings = TrainConfig(
        source=(source,),
        out=folder,
        total_steps=config.train_steps,
        orders_per_market=ORDERS,
        episode_length=config.steps,
        decision_interval_ms=config.interval_ms,
        seed=config.seed,
        num_envs=512,
        rollout_length=64,
        epochs=4,
        minibatches=8,
        learning_rate=1e-3,
        evaluate_every=10**6,
        checkpoint_every=10**6,
        devices=1,
    )
    train(settings)
    tape, _ = load_tape(replace(config.exchange, sessions=1).spec)
    _, _, network = make_environment(settings, tape)
    weights = RunFolder(folder).restore_weights()

    def logits(view: View) -> jax.Array:
        return forward(network, weights, view.observation, ())[0][:, 0]

    return {
        "PPO": lambda view, key: jax.random.categorical(key, logits(view)),
        "PPO, greedy": lambda view, key: jnp.argmax(logits(view), axis=-1),
    }


def run(config: Config) -> dict[str, dict[str, float]]:
    """Judge the policies, and the agent if one is trained."""
    policies = dict(POLICIES)
    if config.train_steps:
        with tempfile.TemporaryDirectory() as folder:
            policies |= train_agent(config, config.out or Path(folder) / "run")
    tape, _ = load_tape(config.exchange.spec)
    env = MarketAgnosticKalshiEnv(max_markets=1, orders_per_market=ORDERS, sequence_features=config.train_steps > 0)
    params = env.make_params(tape, episode_length=config.steps, decision_interval_ms=config.interval_ms)
    return judge(env, params, config.steps, policies, config.seed)


def main(arguments: Sequence[str] | None = None) -> int:
    config = tyro.cli(Config, args=arguments, description=__doc__)
    outcomes = run(config)
    if config.json:
        print(json.dumps({"exchange": config.exchange.spec, "policies": outcomes}, indent=2))
        return 0
    print(f"{config.exchange.spec}: change of value per episode of {config.steps} steps in $, 99% interval")
    print(f"{'policy':<26}{'mean':>9}{'low':>9}{'high':>9}{'fees':>9}{'taken':>9}{'made':>9}")
    for name, outcome in outcomes.items():
        print(f"{name:<26}" + "".join(f"{x:>9.2f}" for x in outcome.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
