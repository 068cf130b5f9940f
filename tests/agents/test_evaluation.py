"""Evaluation plays every market and window once, repeatably, and summarises honestly."""

from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import Toy, ToyParams

from agents import evaluation
from agents.baselines import always_take, hold, random_legal
from agents.evaluation import Windows, all_windows, dollars, evaluate, interval
from agents.networks import ActorCritic
from kalshi_jax import Action
from loaders import load_tape

ENV = Toy(max_markets=1)
PARAMS = ToyParams(episode_length=20, crash=0.02)
NETWORK = ActorCritic(ENV.num_actions, width=8)
WINDOWS = Windows(np.zeros((7, 1), np.int32), np.arange(7, dtype=np.int32))


@pytest.fixture(scope="module")
def weights():
    state = ENV.initial_state(jax.random.key(0), PARAMS)
    return NETWORK.init(jax.random.key(1), ENV.observation(state, PARAMS))


@pytest.fixture(scope="module")
def outcomes(weights):
    return evaluate(ENV, NETWORK, weights, PARAMS, WINDOWS, seeds=2)


def test_equal_arguments_give_equal_outcomes(weights, outcomes):
    for first, second in zip(outcomes, evaluate(ENV, NETWORK, weights, PARAMS, WINDOWS, seeds=2), strict=True):
        for name, values in first.metrics.items():
            np.testing.assert_array_equal(values, second.metrics[name])
        np.testing.assert_array_equal(first.value, second.value)
        np.testing.assert_array_equal(first.actions, second.actions)


def test_chunks_change_nothing_for_policies_that_do_not_draw(weights, outcomes, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK", 3)  # 7 windows: chunks of 3, 3 and 1 with two that only fill it
    for outcome in evaluate(ENV, NETWORK, weights, PARAMS, WINDOWS, policies=evaluation.REPEATABLE):
        whole = next(o for o in outcomes if o.policy == outcome.policy)
        np.testing.assert_array_equal(outcome.value, whole.value)
        np.testing.assert_array_equal(outcome.actions, whole.actions)


def test_policies_do_what_they_say(outcomes):
    by_name = {outcome.policy: outcome for outcome in outcomes}
    assert set(by_name) == set(evaluation.POLICIES)
    held = by_name["hold"]
    assert held.actions[1:].sum() == 0
    assert (held.value == 100).all()
    assert held.metrics["steps"].shape == (1, 7)
    assert by_name["random"].metrics["steps"].shape == (2, 7)
    assert by_name["random"].actions.min() > 0
    taken = by_name["always take"].actions
    assert taken[[Action.BUY_YES_NOW, Action.BUY_NO_NOW]].sum() == taken.sum() > 0


def test_an_ended_episode_keeps_its_value_and_trades_no_more(outcomes):
    outcome = next(o for o in outcomes if o.policy == "always take")
    steps = outcome.metrics["steps"].ravel()
    assert steps.min() < 20, "some episodes crash"
    for episode, lived in enumerate(steps):
        assert (outcome.value[lived:, episode] == outcome.value[lived, episode]).all()
    assert outcome.actions.sum() == steps.sum()
    np.testing.assert_array_equal(outcome.metrics["contracts"].ravel(), 10 * steps)


def test_an_unknown_policy_is_named(weights):
    with pytest.raises(ValueError, match="clairvoyant"):
        evaluate(ENV, NETWORK, weights, PARAMS, WINDOWS, policies=["clairvoyant"])


@pytest.fixture(scope="module")
def tape():
    return load_tape("synthetic:sessions=2,markets=3,seconds=90")[0]


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_windows_cover_every_market_once_and_in_order(tape, slots):
    windows = all_windows(tape, slots, episode_length=20, decision_interval_ms=1000)
    starts = {}
    for markets, start in zip(windows.markets, windows.start_ms, strict=True):
        starts.setdefault(tuple(markets), []).append(int(start))
    groups = Counter(m for group in starts for m in group if m >= 0)
    assert groups == Counter(range(6)), "every market is in one group"
    session = np.asarray(tape.market_session)
    for group, begins in starts.items():
        assert len({session[m] for m in group if m >= 0}) == 1, "a group is of one session"
        first = min(int(tape.time_ms[tape.track_start[m]]) for m in group if m >= 0)
        assert begins == [first + 20_000 * i for i in range(len(begins))]
        assert len(begins) >= 4


def test_windows_of_the_event_clock_begin_at_changes(tape):
    windows = all_windows(tape, 1, episode_length=50, decision_interval_ms=0)
    market = windows.markets[:, 0] == 0
    rows = np.asarray(tape.time_ms)[int(tape.track_start[0]) :][: int(tape.track_length[0])]
    np.testing.assert_array_equal(windows.start_ms[market], rows[: len(rows) - 1 : 50][: market.sum()])
    assert all_windows(tape, 1, 50, 0, limit=3).start_ms.shape == (3,)


def test_baselines_only_do_what_is_legal():
    mask = jax.random.bernoulli(jax.random.key(0), 0.4, (500, 2, 1, 17)).at[..., 0].set(True)
    for policy in (random_legal, hold, always_take):
        action = policy(jax.random.key(1), mask)
        assert action.shape == (500, 2, 1)
        assert bool(jnp.take_along_axis(mask, action[..., None], -1).all())
    taken = np.unique(always_take(jax.random.key(1), mask))
    assert set(taken) == {0, 1, 3, 9, 11}, "HOLD, and BUY NOW of both sides and both sizes"


def test_intervals_are_over_windows_not_over_seeds():
    values = np.array([[1.0, 2.0, 3.0]] * 2) + np.array([[-0.5], [0.5]])
    figures = interval(values)
    assert figures["mean"] == pytest.approx(2.0)
    assert figures["low"] == pytest.approx(1.0, abs=0.4)
    assert figures["low"] < 2 < figures["high"]
    assert interval(np.repeat(values, 50, axis=0)) == pytest.approx(figures), "more seeds alone make nothing surer"
    assert interval(np.array([[np.nan, 4.0]]))["mean"] == 4.0
    assert np.isnan(interval(np.array([[np.nan]]))["mean"])


def test_money_is_written_with_its_sign_first():
    assert [dollars(x) for x in (-1234.5, 0.0, -0.001, 2.0)] == ["-$1,234.50", "$0.00", "$0.00", "$2.00"]
