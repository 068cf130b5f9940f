"""The network knows no slot, and an illegal action is never drawn."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.networks import ActorCritic, empty_memory, entropy, forward, log_probability, sample_actions, unroll
from kalshi_jax.features import HOLDING_FEATURES, OVERALL_FEATURES, Observation

M, F, A = 4, 7, 9
PER_MARKET = len(HOLDING_FEATURES) + 3


def an_observation(seed=0, used=M):
    keys = jax.random.split(jax.random.key(seed), 4)
    inside = jnp.arange(M) < used
    mask = jax.random.bernoulli(keys[2], 0.5, (M, 1, A)) & inside[:, None, None]
    holdings = jax.random.normal(keys[1], (M, PER_MARKET)) * inside[:, None]
    overall = jax.random.normal(keys[3], (len(OVERALL_FEATURES),))
    return Observation(
        market=jax.random.normal(keys[0], (M, F)) * inside[:, None],
        portfolio=jnp.concatenate([holdings.ravel(), overall]),
        action_mask=mask.at[..., 0].set(True),
    )


@pytest.fixture(scope="module", params=[0, 5], ids=["feed-forward", "recurrent"])
def agent(request):
    network = ActorCritic(A, width=16, memory=request.param)
    return network, network.init(jax.random.key(1), an_observation(), empty_memory(network, M))


def a_memory(network, *shape):
    return jax.tree.map(lambda x: jax.random.normal(jax.random.key(7), x.shape), empty_memory(network, *shape))


def test_permuting_the_slots_permutes_logits_and_memory_and_leaves_the_value(agent):
    network, weights = agent
    observation, memory = an_observation(used=3), a_memory(network, M)
    order = jnp.array([2, 0, 3, 1])
    holdings = observation.portfolio[: M * PER_MARKET].reshape(M, PER_MARKET)
    permuted = Observation(
        market=observation.market[order],
        portfolio=jnp.concatenate([holdings[order].ravel(), observation.portfolio[M * PER_MARKET :]]),
        action_mask=observation.action_mask[order],
    )
    logits, value, after = forward(network, weights, observation, memory)
    moved, same, after_moved = forward(network, weights, permuted, jax.tree.map(lambda x: x[order], memory))
    np.testing.assert_allclose(logits[order], moved, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, same, rtol=1e-5)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[order], after), after_moved, rtol=1e-5, atol=1e-6)


def test_a_sequence_of_episodes_is_unrolled_as_each_was_played_alone():
    """The memory of an episode begins empty wherever it begins in the sequence: T = 9 steps, ends after 3 and 4 of them."""
    network = ActorCritic(A, width=16, memory=5)
    steps = [an_observation(seed) for seed in range(9)]
    sequence = jax.tree.map(lambda *x: jnp.stack(x)[:, None], *steps)  # [T, E = 1, ...]
    memory = a_memory(network, 1, M)
    weights = network.init(jax.random.key(1), steps[0], empty_memory(network, M))
    done = jnp.isin(jnp.arange(9), jnp.array([2, 6]))[:, None]
    logits, value = unroll(network, weights, sequence, memory, done)
    for begin, end, remembered in (
        (0, 3, memory[0]),
        (3, 7, empty_memory(network, M)),
        (7, 9, empty_memory(network, M)),
    ):
        for t in range(begin, end):
            alone, worth, remembered = forward(network, weights, steps[t], remembered)
            np.testing.assert_allclose(logits[t, 0], alone, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(value[t, 0], worth, rtol=1e-5, atol=1e-6)
    carried_on, _ = unroll(network, weights, sequence, memory, jnp.zeros_like(done))
    assert not np.allclose(carried_on[3:], logits[3:]), "what the memory held would have made a difference"


def test_layers_of_half_precision_keep_weights_and_results_whole(agent):
    network, weights = agent
    half = network.clone(precision="bfloat16")
    observation, memory = an_observation(), a_memory(network, M)
    exact, rounded = (forward(n, weights, observation, memory) for n in (network, half))
    assert all(
        leaf.dtype == jnp.float32
        for leaf in jax.tree.leaves((half.init(jax.random.key(0), observation, memory), rounded))
    )
    legal = np.asarray(observation.action_mask)
    assert 0 < abs(exact[1] - rounded[1]) < 0.1
    np.testing.assert_allclose(rounded[0][legal], exact[0][legal], atol=0.05)
    assert (np.asarray(rounded[0])[~legal] == np.finfo(np.float32).min).all()


def test_a_market_sees_the_other_markets(agent):
    network, weights = agent
    observation = an_observation()
    other = observation.replace(market=observation.market.at[3].add(1.0))
    assert not np.allclose(
        forward(network, weights, observation, a_memory(network, M))[0][0],
        forward(network, weights, other, a_memory(network, M))[0][0],
    )


def test_an_unused_slot_changes_nothing_for_the_others(agent):
    network, weights = agent
    observation = an_observation(used=2)
    short = Observation(
        market=observation.market[:2],
        portfolio=jnp.concatenate([observation.portfolio[: 2 * PER_MARKET], observation.portfolio[M * PER_MARKET :]]),
        action_mask=observation.action_mask[:2],
    )
    memory = a_memory(network, M)
    logits, value, _ = forward(network, weights, observation, memory)
    alone, same, _ = forward(network, weights, short, jax.tree.map(lambda x: x[:2], memory))
    np.testing.assert_allclose(logits[:2], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, same, rtol=1e-5)


def test_leading_axes_are_a_batch(agent):
    network, weights = agent
    pair = [an_observation(seed) for seed in (0, 1)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    memory = a_memory(network, 2, M)
    logits, value, _ = forward(network, weights, batch, memory)
    for i, one in enumerate(pair):
        alone, worth, _ = forward(network, weights, one, jax.tree.map(lambda x, i=i: x[i], memory))
        np.testing.assert_allclose(logits[i], alone, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[i], worth, rtol=1e-5)


def test_masked_actions_are_never_sampled_and_cost_no_gradient(agent):
    network, weights = agent
    observation = an_observation(used=3)
    logits, *_ = forward(network, weights, observation, a_memory(network, M))
    drawn, log_prob = jax.vmap(sample_actions, (0, None))(jax.random.split(jax.random.key(2), 5000), logits)
    legal = jnp.take_along_axis(observation.action_mask, drawn.transpose(1, 2, 0), axis=-1)
    assert bool(legal.all())
    assert len(np.unique(drawn[:, 0, 0])) == int(observation.action_mask[0, 0].sum()), "every legal action is drawn"
    assert (drawn[:, 3] == 0).all()
    assert np.isfinite(log_prob).all()

    def both(weights):
        logits, *_ = forward(network, weights, observation, a_memory(network, M))
        return entropy(logits) + log_probability(logits, drawn[0])

    gradient = jax.grad(both)(weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_entropy_and_log_probability_are_those_of_the_legal_actions():
    legal = 4
    logits = jnp.where(jnp.arange(A) < legal, 0.0, jnp.finfo(jnp.float32).min) * jnp.ones((M, 1, 1))
    assert float(entropy(logits)) == pytest.approx(M * np.log(legal), rel=1e-6)
    assert float(log_probability(logits, jnp.ones((M, 1), int))) == pytest.approx(-M * np.log(legal), rel=1e-6)
