"""The window has no memory: a state is what `start` knows of a moment and the account, whatever the way to it.

The same recording, stepped with one order size and with eight, with and without jit, does the same; on the event clock a run
from the beginning and a start at any later moment meet in the same state and go on alike.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import Action, MarketAgnosticKalshiEnv
from loaders import load_tape
from tests.reference.frames import random_frames, write_recording

SIZES = (10, 1, 3, 25, 50, 100, 400, 2_000)
STEPS = 200


def make_env(sizes):
    return MarketAgnosticKalshiEnv(max_markets=2, order_sizes=sizes, remembered_levels=4)


@pytest.fixture(scope="module")
def tape(tmp_path_factory):
    path = write_recording(tmp_path_factory.mktemp("memoryless") / "r.jsonl", random_frames(21, ("A", "B", "C"), 400))
    return load_tape(path)[0]


def run(env, params, state, actions):
    """Step without reset and note what was seen before each action and what it did, [T, ...]."""

    def step(state, action):
        after, reward, terminated, truncated, info = env.transition(state, action, params)
        return after, (env.observation(state, params), after, reward, terminated, truncated, info)

    return jax.lax.scan(step, state, actions)[1]


run_jit = jax.jit(run, static_argnums=0)


@pytest.fixture(scope="module")
def whole(tape):
    """A run of one size from the beginning by random actions, with what it began with."""
    env = make_env(SIZES[:1])
    params = env.make_params(tape, episode_length=10**6, maker_rate=175)
    actions = jax.random.randint(jax.random.key(0), (STEPS, 2, 1), 0, env.num_actions)
    _, state = env.start(params, jnp.array([2, 0]), jnp.int32(0))
    return env, params, state, actions, jax.device_get(run_jit(env, params, state, actions))


def transplant(fresh, account):
    """What `start` gives for a moment, with the account of a run that came there."""
    return fresh.replace(
        time=account.time, ledger=account.ledger, orders=account.orders, taken=account.taken, value=account.value
    )


def test_a_start_at_any_moment_is_a_run_from_the_beginning(whole):
    env, params, _, _, (seen, after, *_) = whole
    assert (np.abs(after.ledger.position).sum(-1) > 0).mean() > 0.5
    obs, fresh = jax.vmap(env.start, (None, None, 0))(params, jnp.array([2, 0]), jnp.asarray(after.now_ms))
    there = transplant(fresh, after)
    jax.tree.map(np.testing.assert_array_equal, there, jax.tree.map(jnp.asarray, after))
    np.testing.assert_array_equal(obs.market[:-1], seen.market[1:], "features know the recording, not the way here")


@pytest.mark.parametrize("moment", [0, 37, 120])
def test_what_follows_a_start_is_what_followed_the_run(whole, moment):
    env, params, _, actions, record = whole
    account = jax.tree.map(lambda x: jnp.asarray(x[moment]), record[1])
    _, fresh = env.start(params, jnp.array([2, 0]), account.now_ms)
    left = STEPS - moment - 1
    # one shape, one compilation: the actions that are left, then HOLD
    padded = jnp.concatenate([actions[moment + 1 :], jnp.zeros((moment + 1, 2, 1), actions.dtype)])
    again = jax.device_get(run_jit(env, params, transplant(fresh, account), padded))
    jax.tree.map(lambda new, old: np.testing.assert_array_equal(new[:left], old[moment + 1 :]), again, record)


def test_holding_to_a_moment_is_starting_there(whole):
    """Without an order on the way not even the account needs to be carried over."""
    env, params, state, actions, _ = whole
    held = jax.device_get(run_jit(env, params, state, jnp.zeros_like(actions)))[1]
    _, fresh = jax.vmap(env.start, (None, None, 0))(params, jnp.array([2, 0]), jnp.asarray(held.now_ms))
    jax.tree.map(np.testing.assert_array_equal, fresh.replace(time=jnp.asarray(held.time)), held)


def test_eight_sizes_do_with_the_first_what_one_size_does(whole):
    env, params, state, actions, record = whole
    eight = make_env(SIZES)
    seen, *rest = jax.device_get(run_jit(eight, params, state, actions))
    jax.tree.map(np.testing.assert_array_equal, tuple(rest), tuple(record[1:]))
    np.testing.assert_array_equal(seen.market, record[0].market)
    np.testing.assert_array_equal(seen.portfolio, record[0].portfolio)
    np.testing.assert_array_equal(seen.action_mask[..., : env.num_actions], record[0].action_mask)


def test_steps_without_jit_do_what_compiled_ones_do(whole):
    """States to the last bit; the reward to a few units, because a compiled program fuses its operations."""
    _, params, _, actions, record = whole
    env, moment = make_env(SIZES), 60
    state = jax.tree.map(lambda x: jnp.asarray(x[moment]), record[1])
    with jax.disable_jit():
        for i in range(moment + 1, moment + 3):
            state, reward, terminated, truncated, info = env.transition(state, actions[i], params)
            _, *expected = jax.tree.map(lambda x, i=i: x[i], record)
            jax.tree.map(np.testing.assert_array_equal, state, jax.tree.map(jnp.asarray, expected[0]))
            np.testing.assert_allclose(reward, expected[1], rtol=1e-5)
            assert (bool(terminated), bool(truncated)) == (bool(expected[2]), bool(expected[3]))
            assert int(info["trades"]) == int(expected[4]["trades"])


@pytest.mark.parametrize("queue_model", ["risk_averse", "power"])
def test_a_resting_order_meets_the_same_changes_in_one_step_and_in_eight(queue_model):
    """What a resting order gets does not depend on how often one looks: the same fills, queue, cash and fees to the last unit."""
    tape, _ = load_tape("synthetic:sessions=2,markets=2,seconds=120,seed=5")
    env = MarketAgnosticKalshiEnv(1, temporal_features=False, sequence_features=False, remembered_levels=4)
    settings = {"queue_model": queue_model, "hold_cancels": False, "maker_rate": 175}
    starts, steps = np.arange(2_000, 80_000, 400), 40

    def rest(params, market, start_ms, wait):
        _, state = env.start(params, market[None], start_ms)
        actions = jnp.zeros((steps, 1, 1), jnp.int32).at[0].set(wait)
        return jax.lax.scan(lambda s, a: (env.transition(s, a, params)[0],) * 2, state, actions)[1]

    n = np.arange(len(starts))
    together = jax.jit(jax.vmap(rest, (None, 0, 0, 0)))
    often, seldom = (
        together(
            env.make_params(tape, decision_interval_ms=ms, **settings),
            jnp.asarray(n % tape.num_markets, jnp.int32),
            jnp.asarray(starts, jnp.int32),
            jnp.where(n % 2 == 0, Action.BUY_YES_WAIT, Action.BUY_NO_WAIT),
        )
        for ms in (100, 800)
    )
    often, seldom = (
        state.replace(orders=jax.tree.map(lambda x, o=state.orders: jnp.where(o.price > 0, x, o.filled), state.orders))
        for state in (often, seldom)
    )  # of an order that no longer rests only what it got counts
    filled = np.asarray(seldom.orders.filled[:, 4])
    assert (filled > 0).any()
    assert (filled == 0).any()
    for name in ("now_ms", "row", "ledger", "orders", "value"):
        jax.tree.map(
            lambda one, eight: np.testing.assert_array_equal(one[:, :5], eight[:, 7::8]),
            getattr(seldom, name),
            getattr(often, name),
        )
