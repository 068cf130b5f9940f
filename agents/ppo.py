"""Proximal policy optimisation: rollout, advantages and update in one function of arrays.

`make_update` returns a pure function of (learner, hyper-parameters, environment parameters); the caller compiles it.
Hyper-parameters are leaves, so changing or vmapping them compiles nothing anew; what shapes arrays is in `Layout`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from agents.networks import (
    ActorCritic,
    Memory,
    empty_memory,
    entropy,
    forget,
    forward,
    log_probability,
    sample_actions,
    unroll,
)

ENVS = "envs"  # the mesh axis over which environments are divided
Metrics = dict[str, jax.Array]  # name -> f32[], but `actions`
TOO_FAR = 1.5  # an update ends where its policy has come so many times `target_kl` away from the one that played


@struct.dataclass
class HyperParameters:
    """Numbers of the algorithm, all scalars."""

    learning_rate: jax.Array | float = 5e-4  # of Adam at the first update
    final_learning_rate: jax.Array | float = 0.0  # after `anneal_updates`
    anneal_updates: jax.Array | float = (
        0.0  # updates over which rates and weights go linearly to their final ones; 0: never
    )
    discount: jax.Array | float = 0.99  # per step
    gae_lambda: jax.Array | float = 0.95
    clip: jax.Array | float = 0.2  # of the probability ratio
    entropy_weight: jax.Array | float = 0.01  # at the first update
    final_entropy_weight: jax.Array | float = 0.01
    value_weight: jax.Array | float = 0.5
    max_grad_norm: jax.Array | float = 0.5  # global norm
    target_kl: jax.Array | float = (
        0.0  # nats from the policy that played; see `TOO_FAR`. 0: an update always goes on to its end
    )


@dataclass(frozen=True)
class Layout:
    """What gives arrays their shapes and the program its form."""

    num_envs: int = 1024  # E
    rollout_length: int = 32  # T
    epochs: int = 2
    minibatches: int = 4  # equal parts of the environment axis
    final_slots: int = 1  # N, places per environment for states in which a rollout truncated an episode

    def __post_init__(self) -> None:
        if min(self.num_envs, self.rollout_length, self.epochs, self.minibatches, self.final_slots) < 1:
            raise ValueError(f"{self}: all counts must be at least 1")
        if self.num_envs % self.minibatches:
            raise ValueError(f"num_envs {self.num_envs} must be a multiple of minibatches {self.minibatches}")

    @property
    def steps(self) -> int:
        """Environment steps per update."""
        return self.num_envs * self.rollout_length


@struct.dataclass
class Learner:
    """All that changes during training; equal learners train on equally, bit by bit."""

    weights: Any  # of the network
    optimizer: Any  # state of Adam
    env_states: Any  # [E, ...]
    memory: Memory  # of the network, [E, ...]
    episode_return: jax.Array  # f32[E], reward since the reset
    discounted_return: jax.Array  # f32[E], reward since the reset, each step's discounted by its age
    return_power: jax.Array  # f32[], running mean square of discounted_return: its root is the agent's unit of reward
    key: jax.Array  # typed PRNG key
    updates: jax.Array  # i32[], done so far


@struct.dataclass
class Rollout:
    """What the agent saw and did: [T, E, ...]. The mask is inside the observation, as it was when it acted."""

    observation: Any
    action: jax.Array  # i32[T, E, M, O]
    log_prob: jax.Array  # f32[T, E]
    value: jax.Array  # f32[T, E]
    reward: jax.Array  # f32[T, E], as the environment pays it
    terminated: jax.Array  # bool[T, E]
    truncated: jax.Array  # bool[T, E]
    episode_return: jax.Array  # f32[T, E], of the episode so far, this step included
    portfolio_value: jax.Array  # f32[T, E], $
    trades: jax.Array  # i32[T, E], orders filled
    fees: jax.Array  # f32[T, E], $


def init_learner(env: Any, network: ActorCritic, layout: Layout, key: jax.Array, env_params: Any) -> Learner:
    """Make the learner a run begins with; the key is consumed.

    The first episodes begin somewhere in their middle. If all began together, all would end together, and every update
    would see one stage of the episode only.
    """
    key, weights_key, reset_key, stagger_key = jax.random.split(key, 4)
    keys = jax.random.split(reset_key, layout.num_envs)
    length = jnp.asarray(env_params.episode_length, jnp.int32)
    left = jax.random.randint(stagger_key, (layout.num_envs,), 1, length + 1)

    def begin(key: jax.Array, left: jax.Array) -> Any:
        return env.initial_state(key, env_params.replace(episode_length=left)).replace(time=length - left)

    env_states = jax.vmap(begin)(keys, left)
    observation = env.observation(jax.tree.map(lambda x: x[0], env_states), env_params)
    slots = observation.market.shape[0]
    weights = network.init(weights_key, observation, empty_memory(network, slots))
    return Learner(
        weights=weights,
        optimizer=_adam().init(weights),
        env_states=env_states,
        memory=empty_memory(network, layout.num_envs, slots),
        episode_return=jnp.zeros(layout.num_envs),
        discounted_return=jnp.zeros(layout.num_envs),
        return_power=jnp.float32(0.0),
        key=key,
        updates=jnp.int32(0),
    )


def learner_sharding(mesh: Mesh, *before: None) -> Any:
    """Say how the parts of a `Learner` lie on devices: environments are divided among them, the rest is on each.

    With `before`, one None for each axis that comes before those of a learner.
    """
    whole, divided = NamedSharding(mesh, P()), NamedSharding(mesh, P(*before, ENVS))
    parts: list[Any] = [whole, whole, divided, divided, divided, divided, whole, whole, whole]
    return Learner(*parts)


Update = Callable[[Learner, HyperParameters, Any], tuple[Learner, Metrics]]


def make_update(env: Any, network: ActorCritic, layout: Layout, mesh: Mesh) -> Update:
    """Build the training step: one rollout of T steps in E environments, then epochs of minibatch updates.

    Every device of the mesh (one axis, ENVS) plays its part of the environments and shuffles minibatches among them; only
    gradients and figures are averaged over devices.

    States in which an episode is truncated are kept, `layout.final_slots` per environment, and evaluated together after
    the rollout: far cheaper than a second look at every step. One is enough where episodes are no shorter than the
    rollout, `1 + (T - 1) // shortest` in general; the metric `lost_truncations` tells of any that found no place.
    """
    update = _update_of_part(env, network, layout, mesh)
    specs = jax.tree.map(lambda sharding: sharding.spec, learner_sharding(mesh))
    return jax.shard_map(update, mesh=mesh, in_specs=(specs, P(), P()), out_specs=(specs, P()), check_vma=False)


def make_updates(env: Any, network: ActorCritic, layout: Layout, mesh: Mesh) -> Update:
    """Build the training step of several learners, stacked along a first axis S; so are their metrics.

    A CPU takes one after the other, for it is busy with one; other devices take all at once.
    """
    update = _update_of_part(env, network, layout, mesh)
    specs = jax.tree.map(lambda sharding: sharding.spec, learner_sharding(mesh, None))

    def together(learners: Learner, hyper: HyperParameters, env_params: Any) -> tuple[Learner, Metrics]:
        def one(learner: Learner) -> tuple[Learner, Metrics]:
            return update(learner, hyper, env_params)

        return jax.lax.map(one, learners) if jax.default_backend() == "cpu" else jax.vmap(one)(learners)

    return jax.shard_map(together, mesh=mesh, in_specs=(specs, P(), P()), out_specs=(specs, P()), check_vma=False)


def _update_of_part(env: Any, network: ActorCritic, layout: Layout, mesh: Mesh) -> Update:
    """Build what one device does in a training step."""
    if layout.num_envs % (mesh.size * layout.minibatches):
        raise ValueError(
            f"num_envs {layout.num_envs} must be a multiple of minibatches {layout.minibatches} x {mesh.size} devices"
        )
    part = replace(layout, num_envs=layout.num_envs // mesh.size)

    def update(learner: Learner, hyper: HyperParameters, env_params: Any) -> tuple[Learner, Metrics]:
        key, here = jax.random.split(learner.key)
        act_key, shuffle_key = jax.random.split(jax.random.fold_in(here, jax.lax.axis_index(ENVS)))
        remembered = learner.memory
        learner, rollout, next_value = collect(env, network, part, learner, env_params, act_key)
        done = rollout.terminated | rollout.truncated
        learner = _measure_rewards(learner, rollout.reward, done, hyper.discount)
        reward = rollout.reward / jnp.maximum(jnp.sqrt(learner.return_power), 1e-6)
        advantage = advantages(
            reward, rollout.value, next_value, rollout.terminated, done, hyper.discount, hyper.gae_lambda
        )
        target = advantage + rollout.value
        learner, losses = improve(network, part, learner, hyper, rollout, remembered, advantage, target, shuffle_key)
        figures = jax.lax.pmean(losses | _summarise(rollout, target, part, env.num_actions), ENVS)
        return replace(learner, key=key, updates=learner.updates + 1), figures

    return update


def collect(
    env: Any, network: ActorCritic, layout: Layout, learner: Learner, env_params: Any, key: jax.Array
) -> tuple[Learner, Rollout, jax.Array]:
    """Act for T steps in E environments; the key is consumed.

    Returns:
        the learner with its environments advanced, the rollout, and f32[T, E]: the value of the observation that
        followed each step in its own episode.
    """
    observe = jax.vmap(env.observation, (0, None))
    transition = jax.vmap(env.transition, (0, 0, None))
    restart = jax.vmap(env.restart, (0, 0, 0, None))

    def act(carry: tuple[Any, ...], keys: tuple[jax.Array, jax.Array]) -> tuple[tuple[Any, ...], Rollout]:
        states, memory, finals, kept, episode_return = carry
        observation = observe(states, env_params)
        logits, value, memory = forward(network, learner.weights, observation, memory)
        action, log_prob = sample_actions(keys[0], logits)
        states, reward, terminated, truncated, info = transition(states, action, env_params)
        done = terminated | truncated
        episode_return = episode_return + reward
        place = jnp.where(truncated, kept, layout.final_slots)  # beyond the last one: dropped
        now = (states, memory)
        finals = jax.tree.map(lambda all, new: all.at[place, every].set(new, mode="drop"), finals, now)
        step = Rollout(
            observation=observation,
            action=action,
            log_prob=log_prob,
            value=value,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            episode_return=episode_return,
            portfolio_value=info["portfolio_value"],
            trades=info["trades"],
            fees=info["fees"],
        )
        states = restart(done, jax.random.split(keys[1], layout.num_envs), states, env_params)
        return (states, forget(memory, done), finals, kept + truncated, jnp.where(done, 0.0, episode_return)), step

    act_key, reset_key = jax.random.split(key)
    keys = (jax.random.split(act_key, layout.rollout_length), jax.random.split(reset_key, layout.rollout_length))
    slots, every = layout.final_slots, jnp.arange(layout.num_envs)
    before = (learner.env_states, learner.memory)
    finals = jax.tree.map(lambda x: jnp.broadcast_to(x, (slots, *x.shape)), before)
    begin = (*before, finals, jnp.zeros_like(every), learner.episode_return)
    (states, memory, finals, _, episode_return), rollout = jax.lax.scan(act, begin, keys)

    after, recalled = jax.tree.map(
        lambda last, all: jnp.concatenate([last[None], all]).reshape(-1, *last.shape[1:]), (states, memory), finals
    )
    value = forward(network, learner.weights, observe(after, env_params), recalled)[1].reshape(1 + slots, -1)
    following = jnp.concatenate([rollout.value[1:], value[:1]])
    earlier = jnp.cumsum(rollout.truncated, axis=0) - rollout.truncated
    final_value = value[1 + jnp.minimum(earlier, slots - 1), every]
    next_value = jnp.where(rollout.truncated, final_value, following)
    learner = replace(learner, env_states=states, memory=memory, episode_return=episode_return)
    return learner, rollout, next_value


def advantages(
    reward: jax.Array,
    value: jax.Array,
    next_value: jax.Array,
    terminated: jax.Array,
    done: jax.Array,
    discount: jax.Array | float,
    gae_lambda: jax.Array | float,
) -> jax.Array:
    """Generalised advantage estimates (Schulman et al. 2016), with ends told apart.

    delta_t = r_t + discount * next_value_t * (1 - terminated_t) - value_t
    A_t = delta_t + discount * lambda * (1 - done_t) * A_{t+1}

    Two value arrays are needed: after a truncation the step that follows in the array belongs to another episode, so
    `value[t + 1]` is not what followed step t, while the episode itself would have gone on and is worth
    `next_value[t]`. After a termination nothing follows and the value is zero.

    Args:
        reward: f32[T, E], of step t.
        value: f32[T, E], of the observation before step t.
        next_value: f32[T, E], of the observation after step t in the same episode.
        terminated: bool[T, E], the episode ended by itself.
        done: bool[T, E], terminated or truncated: the next row is another episode.
        discount: per step.
        gae_lambda: 0 (one-step) to 1 (whole return).

    Returns:
        f32[T, E].
    """
    delta = reward + discount * jnp.where(terminated, 0.0, next_value) - value
    carry_on = discount * gae_lambda * jnp.where(done, 0.0, 1.0)

    def backwards(later: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        advantage = now[0] + now[1] * later
        return advantage, advantage

    return jax.lax.scan(backwards, jnp.zeros_like(delta[0]), (delta, carry_on), reverse=True)[1]


def improve(
    network: ActorCritic,
    layout: Layout,
    learner: Learner,
    hyper: HyperParameters,
    rollout: Rollout,
    memory: Memory,
    advantage: jax.Array,
    target: jax.Array,
    key: jax.Array,
) -> tuple[Learner, Metrics]:
    """Take `epochs * minibatches` steps of Adam on the clipped objective; the metrics are means over them.

    Minibatches are parts of the shuffled environment axis: whole columns are moved, which is cheaper than shuffling
    single steps, and keeps the sequences that a memory (`memory`, before the rollout) goes through. Once a minibatch finds
    the policy further than `TOO_FAR * target_kl` from the one that played, it and those after it change nothing. The key is
    consumed. Runs under a mesh axis ENVS.
    """
    passed = learner.updates / jnp.maximum(hyper.anneal_updates, 1.0)
    passed = jnp.where(hyper.anneal_updates > 0, jnp.minimum(passed, 1.0), 0.0)
    rate = hyper.learning_rate + passed * (hyper.final_learning_rate - hyper.learning_rate)
    entropy_weight = hyper.entropy_weight + passed * (hyper.final_entropy_weight - hyper.entropy_weight)
    hyper = replace(hyper, entropy_weight=entropy_weight)
    done = rollout.terminated | rollout.truncated
    columns = (rollout.observation, rollout.action, rollout.log_prob, advantage, target, done)

    def minibatch(carry: tuple[Any, ...], batch: tuple[Any, ...]) -> tuple[tuple[Any, ...], Metrics]:
        weights, optimizer, goes_on = carry
        gradient, metrics = jax.grad(_loss, has_aux=True)(weights, network, hyper, *batch)
        gradient, kl = jax.lax.pmean((gradient, metrics["kl"]), ENVS)
        goes_on &= (hyper.target_kl <= 0) | (kl <= TOO_FAR * hyper.target_kl)
        norm = optax.global_norm(gradient)
        scale = jnp.minimum(1.0, hyper.max_grad_norm / jnp.maximum(norm, 1e-12))
        gradient = jax.tree.map(lambda g: g * scale, gradient)
        change, moments = _adam().update(gradient, optimizer)
        moved = optax.apply_updates(weights, jax.tree.map(lambda c: -rate * c, change))
        weights, optimizer = jax.tree.map(
            lambda new, old: jnp.where(goes_on, new, old), (moved, moments), (weights, optimizer)
        )
        more = {"gradient_norm": norm, "finite_gradient": _all_finite(gradient), "minibatches_used": 1.0 * goes_on}
        return (weights, optimizer, goes_on), metrics | more

    def epoch(carry: tuple[Any, ...], key: jax.Array) -> tuple[tuple[Any, ...], Metrics]:
        order = jax.random.permutation(key, layout.num_envs).reshape(layout.minibatches, -1)

        def take(carry: tuple[Any, ...], chosen: jax.Array) -> tuple[tuple[Any, ...], Metrics]:
            batch = jax.tree.map(lambda x: x[:, chosen], columns)
            return minibatch(carry, (jax.tree.map(lambda x: x[chosen], memory), *batch))

        return jax.lax.scan(take, carry, order)

    start = (learner.weights, learner.optimizer, jnp.bool_(True))
    (weights, optimizer, _), metrics = jax.lax.scan(epoch, start, jax.random.split(key, layout.epochs))
    metrics = {name: jnp.mean(x) for name, x in metrics.items()}
    metrics |= {"learning_rate": rate, "entropy_weight": entropy_weight}
    metrics["finite_weights"] = _all_finite(weights)
    return replace(learner, weights=weights, optimizer=optimizer), metrics


def _loss(
    weights: Any,
    network: ActorCritic,
    hyper: HyperParameters,
    memory: Memory,
    observation: Any,
    action: jax.Array,
    old_log_prob: jax.Array,
    advantage: jax.Array,
    target: jax.Array,
    done: jax.Array,
) -> tuple[jax.Array, Metrics]:
    logits, value = unroll(network, weights, observation, memory, done)
    log_ratio = log_probability(logits, action) - old_log_prob
    ratio = jnp.exp(log_ratio)
    advantage = (advantage - jnp.mean(advantage)) / (jnp.std(advantage) + 1e-8)
    clipped = jnp.clip(ratio, 1 - hyper.clip, 1 + hyper.clip)
    policy_loss = -jnp.mean(jnp.minimum(ratio * advantage, clipped * advantage))
    value_loss = 0.5 * jnp.mean((value - target) ** 2)
    spread = jnp.mean(entropy(logits))
    loss = policy_loss + hyper.value_weight * value_loss - hyper.entropy_weight * spread
    return loss, {
        "loss": loss,
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": spread,
        "kl": jnp.mean(ratio - 1 - log_ratio),
        "clip_fraction": jnp.mean(jnp.abs(ratio - 1) > hyper.clip),
    }


def _measure_rewards(learner: Learner, reward: jax.Array, done: jax.Array, discount: jax.Array | float) -> Learner:
    """Keep the unit of reward: the root mean square of discounted returns, over all updates at first, then the last 100.

    Books differ in liquidity and prices by orders of magnitude; in this unit the value is about 1 on all of them.
    """

    def forwards(so_far: jax.Array, now: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        so_far = discount * so_far + now[0]
        return jnp.where(now[1], 0.0, so_far), so_far**2

    discounted_return, power = jax.lax.scan(forwards, learner.discounted_return, (reward, done))
    weight = jnp.maximum(1.0 / (learner.updates + 1), 0.01)
    return_power = learner.return_power + weight * (jax.lax.pmean(jnp.mean(power), ENVS) - learner.return_power)
    return replace(learner, discounted_return=discounted_return, return_power=return_power)


def _summarise(rollout: Rollout, target: jax.Array, layout: Layout, num_actions: int) -> Metrics:
    """Figures of a rollout. Those that count or sum over ended episodes are per environment, so that devices average.

    `actions`, f32[A], says how often each action was chosen where there was a choice.
    """
    done = rollout.terminated | rollout.truncated
    choice = rollout.observation.action_mask.sum(-1) > 1
    chosen = [jnp.sum((rollout.action == a) & choice) for a in range(num_actions)]
    lost = jnp.maximum(jnp.sum(rollout.truncated, axis=0) - layout.final_slots, 0)

    def per_env(x: jax.Array) -> jax.Array:
        return jnp.sum(x) / layout.num_envs

    return {
        "reward": jnp.mean(rollout.reward),
        "trades_per_step": jnp.mean(rollout.trades),
        "fees_per_step": jnp.mean(rollout.fees),
        "episodes_per_env": per_env(done),
        "terminations_per_env": per_env(rollout.terminated),
        "episode_return": per_env(jnp.where(done, rollout.episode_return, 0.0)),
        "final_value": per_env(jnp.where(done, rollout.portfolio_value, 0.0)),
        "explained_variance": 1 - jnp.var(target - rollout.value) / jnp.maximum(jnp.var(target), 1e-12),
        "lost_truncations": per_env(lost),
        "actions": jnp.stack(chosen) / jnp.maximum(jnp.sum(choice), 1),
        "finite_observation": _all_finite((rollout.observation.market, rollout.observation.portfolio)),
        "finite_reward": _all_finite(rollout.reward),
        "finite_value": _all_finite(rollout.value),
    }


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(eps=1e-5)


def _all_finite(tree: Any) -> jax.Array:
    """Give 1 if every number is finite, else 0: the mean over minibatches and devices is 1 only if all are."""
    return jnp.array([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all().astype(jnp.float32)
