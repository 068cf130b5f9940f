"""The network knows no slot, and an illegal action is never drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.networks import ActorCritic, entropy, log_probability, sample_actions
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


@pytest.fixture(scope="module")
def agent():
    network = ActorCritic(A, width=16)
    return network, network.init(jax.random.key(1), an_observation())


def test_permuting_the_slots_permutes_the_logits_and_leaves_the_value(agent):
    network, weights = agent
    observation = an_observation(used=3)
    order = jnp.array([2, 0, 3, 1])
    holdings = observation.portfolio[: M * PER_MARKET].reshape(M, PER_MARKET)
    permuted = Observation(
        market=observation.market[order],
        portfolio=jnp.concatenate([holdings[order].ravel(), observation.portfolio[M * PER_MARKET :]]),
        action_mask=observation.action_mask[order],
    )
    logits, value = network.apply(weights, observation)
    moved, same = network.apply(weights, permuted)
    np.testing.assert_allclose(logits[order], moved, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, same, rtol=1e-5)


def test_a_market_sees_the_other_markets(agent):
    network, weights = agent
    observation = an_observation()
    other = observation.replace(market=observation.market.at[3].add(1.0))
    assert not np.allclose(network.apply(weights, observation)[0][0], network.apply(weights, other)[0][0])


def test_an_unused_slot_changes_nothing_for_the_others(agent):
    network, weights = agent
    observation = an_observation(used=2)
    short = Observation(
        market=observation.market[:2],
        portfolio=jnp.concatenate([observation.portfolio[: 2 * PER_MARKET], observation.portfolio[M * PER_MARKET :]]),
        action_mask=observation.action_mask[:2],
    )
    logits, value = network.apply(weights, observation)
    alone, same = network.apply(weights, short)
    np.testing.assert_allclose(logits[:2], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(value, same, rtol=1e-5)


def test_leading_axes_are_a_batch(agent):
    network, weights = agent
    pair = [an_observation(seed) for seed in (0, 1)]
    batch = jax.tree.map(lambda *x: jnp.stack(x), *pair)
    logits, value = network.apply(weights, batch)
    for i, one in enumerate(pair):
        np.testing.assert_allclose(logits[i], network.apply(weights, one)[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(value[i], network.apply(weights, one)[1], rtol=1e-5)


def test_masked_actions_are_never_sampled_and_cost_no_gradient(agent):
    network, weights = agent
    observation = an_observation(used=3)
    logits, _ = network.apply(weights, observation)
    drawn, log_prob = jax.vmap(sample_actions, (0, None))(jax.random.split(jax.random.key(2), 5000), logits)
    legal = jnp.take_along_axis(observation.action_mask, drawn.transpose(1, 2, 0), axis=-1)
    assert bool(legal.all())
    assert len(np.unique(drawn[:, 0, 0])) == int(observation.action_mask[0, 0].sum()), "every legal action is drawn"
    assert (drawn[:, 3] == 0).all()
    assert np.isfinite(log_prob).all()

    def both(weights):
        logits, _ = network.apply(weights, observation)
        return entropy(logits) + log_probability(logits, drawn[0])

    gradient = jax.grad(both)(weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_entropy_and_log_probability_are_those_of_the_legal_actions():
    legal = 4
    logits = jnp.where(jnp.arange(A) < legal, 0.0, jnp.finfo(jnp.float32).min) * jnp.ones((M, 1, 1))
    assert float(entropy(logits)) == pytest.approx(M * np.log(legal), rel=1e-6)
    assert float(log_probability(logits, jnp.ones((M, 1), int))) == pytest.approx(-M * np.log(legal), rel=1e-6)
