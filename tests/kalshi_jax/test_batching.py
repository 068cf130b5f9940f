"""Work for a few of many: a batch has the values of its members one by one, however many of them are chosen or go on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.batching import draw_where, first_true, while_any
from kalshi_jax.tape import BLOCK, record_at
from loaders import load_tape

SIZE = 24


@partial(draw_where, share=4, worth_it=2)
def replace_where(key, shared):
    return {"a": jax.random.randint(key, (), 0, shared), "b": jax.random.uniform(key, (3,))}


count_down = while_any(
    lambda carry, own, shared: (carry[0] < own).any(),
    lambda carry, own, shared: (jnp.where(carry[0] < own, carry[0] + shared, carry[0]), carry[1] + (carry[0] < own)),
    share=4,
    worth_it=2,
)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.booleans(), min_size=SIZE, max_size=SIZE) | st.sets(st.integers(0, SIZE - 1), max_size=7))
def test_what_is_drawn_for_a_few_is_what_each_would_draw(chosen):
    if isinstance(chosen, set):
        chosen = [i in chosen for i in range(SIZE)]
    keys = jax.random.split(jax.random.key(1), SIZE)
    old = {"a": jnp.arange(SIZE) + 1000, "b": jnp.full((SIZE, 3), -1.0)}
    seen = drawn_by_batch(jnp.array(chosen), keys, old)
    for i in range(SIZE):
        alone = drawn_alone(jnp.array(chosen[i]), keys[i], jax.tree.map(lambda x, i=i: x[i], old), jnp.int32(900))
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a, b[i]), alone, seen)


drawn_alone = jax.jit(replace_where)
drawn_by_batch = jax.jit(lambda chosen, keys, old: jax.vmap(replace_where, (0, 0, 0, None))(chosen, keys, old, 900))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 40), min_size=2, max_size=2), min_size=SIZE, max_size=SIZE), st.integers(1, 3))
def test_a_loop_whose_batch_shrinks_ends_where_each_would(targets, step):
    targets = np.array(targets)
    laps = -(-targets // step)
    at, count = counted(jnp.array(targets), jnp.int32(step))
    np.testing.assert_array_equal(at, laps * step)
    np.testing.assert_array_equal(count, laps)


@jax.jit
def counted(targets, step):
    zero = jnp.zeros_like(targets)
    return jax.vmap(count_down, (0, 0, None))((zero, zero), targets, step)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=SIZE, max_size=SIZE), min_size=2, max_size=2),
    st.sampled_from([1, 6, SIZE]),
)
def test_the_first_places_that_are_true(masks, room):
    found = np.asarray(jax.jit(jax.vmap(partial(first_true, room=room)))(jnp.array(masks)))
    for mask, places in zip(masks, found, strict=True):
        expected = np.flatnonzero(mask)[:room]
        np.testing.assert_array_equal(places, np.pad(expected, (0, room - len(expected)), constant_values=SIZE))


def test_records_are_the_same_whether_read_in_one_block_or_several():
    tape, _ = load_tape("synthetic:sessions=1,markets=2,seconds=60,rate=30,seed=3")
    shape = (BLOCK // 2 + 6, 5)  # three blocks, the last one padded
    rows = np.random.default_rng(0).integers(0, len(tape.record), shape)
    quote, words = jax.jit(jax.vmap(record_at, (None, 0)))(tape, jnp.asarray(rows))
    np.testing.assert_array_equal(words, np.asarray(tape.record)[rows])
    np.testing.assert_array_equal(quote.best, np.asarray(tape.record)[rows, :2])


def test_batches_of_batches_and_of_shared_things_have_the_same_values():
    targets = jnp.asarray(np.random.default_rng(0).integers(0, 30, (3, SIZE, 2)))
    zero = jnp.zeros_like(targets)
    inner = jax.vmap(count_down, (0, 0, None))
    twice = jax.vmap(inner, (0, 0, None))((zero, zero), targets, 2)
    own_step = jax.vmap(inner, (0, 0, 0))((zero, zero), targets, jnp.full(3, 2))
    for found in (twice, own_step):
        np.testing.assert_array_equal(found[1], -(-targets // 2))
    keys = jax.random.split(jax.random.key(0), SIZE)
    old = {"a": jnp.zeros((SIZE,), jnp.int32), "b": jnp.zeros((SIZE, 3))}
    one_for_all = jax.vmap(replace_where, (None, 0, None, None))(True, keys, jax.tree.map(lambda x: x[0], old), 900)
    np.testing.assert_array_equal(one_for_all["a"], drawn_by_batch(jnp.ones(SIZE, bool), keys, old)["a"])


@pytest.mark.slow
def test_many_episodes_step_as_each_does_alone_also_where_a_few_end():
    """More episodes than `RESTARTS`, which end at different steps: first none, then few, then many in one step."""
    tape, _ = load_tape("synthetic:sessions=1,markets=2,seconds=60,rate=30,seed=3")
    env = MarketAgnosticKalshiEnv(1, temporal_features=False, sequence_features=False)
    params = env.make_params(tape, episode_length=8, decision_interval_ms=700, queue_model="power")
    episodes, steps = 320, 9
    keys = jax.random.split(jax.random.key(0), episodes)
    _, states = jax.vmap(env.reset, (0, None))(keys, params)
    number = jnp.arange(episodes)
    states = states.replace(time=jnp.where(number < 2, 5, jnp.where(number < 100, 3, 0)))
    actions = jnp.asarray(np.random.default_rng(1).choice([0, 1, 3, 5, 5, 7, 7], (steps, episodes, 1, 1)))

    def play(step, states):
        def body(states, now):
            actions, number = now
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, number)
            _, states, *rest = step(step_keys, states, actions, params)
            return states, (states, rest)

        return jax.lax.scan(body, states, (actions, jnp.arange(steps)))[1]

    def one_by_one(*batch):
        return jax.lax.map(lambda one: env.step(*one, params), batch[:-1])

    together = jax.jit(partial(play, jax.vmap(env.step, (0, 0, 0, None))))(states)
    alone = jax.jit(partial(play, one_by_one))(states)
    ended = np.asarray(together[1][2]).sum(axis=1)
    assert ((ended > 0) & (ended <= episodes // 64)).any()
    assert (ended > episodes // 64).any()
    exact = (together[0], together[1][:3])
    jax.tree.map(np.testing.assert_array_equal, exact, (alone[0], alone[1][:3]))
