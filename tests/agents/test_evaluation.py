"""Evaluation plays every market and window once, repeatably, and summarises honestly."""

from collections import Counter

import jax
import numpy as np
import pytest
from toy import Toy, ToyParams

from agents import evaluation, play
from agents.evaluation import Windows, all_windows, compare_seen, dollars, evaluate
from agents.networks import ActorCritic
from agents.play import replay
from kalshi_jax import Action
from loaders import load_tape

ENV = Toy(max_markets=1)
PARAMS = ToyParams(episode_length=20, crash=0.02)
NETWORK = ActorCritic(ENV.num_actions, width=8)
WINDOWS = Windows(np.zeros((7, 1), np.int32), np.arange(7, dtype=np.int32), np.array([0, 0, 0, 1, 1, 2, 2]))


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
    monkeypatch.setattr(play, "CHUNK", 3)  # 7 windows: chunks of 3, 3 and 1 with two that only fill it
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


def test_the_parts_of_an_episode_add_up_to_its_return(outcomes):
    earned = next(o for o in outcomes if o.policy == "always take").metrics
    assert earned["total_return"].max() > 1
    np.testing.assert_allclose(sum(earned[name] for name in evaluation.COMPONENTS), earned["total_return"], atol=0.005)


def test_conditions_count_every_decision_and_all_that_was_made(outcomes):
    for outcome in outcomes:
        assert set(outcome.conditions) == {"spread", "time to close"}, "the toy shows no pace"
        for found in outcome.conditions.values():
            np.testing.assert_array_equal(found.decisions.sum(axis=1), outcome.metrics["steps"].sum(axis=0))
            made = outcome.metrics["total_return"].sum(axis=0)
            np.testing.assert_allclose(found.pnl.sum(axis=1), made, atol=0.005)
    spread = next(o for o in outcomes if o.policy == "always take").breakdown()["spread"]
    widest = spread["above 5 cents"]
    assert widest["share"] == 1
    assert 300 < widest["low"] <= widest["mean"] <= widest["high"] < 600, "a coin for two sides, one in five forbidden"
    assert spread["up to 1 cent"]["share"] == 0
    assert np.isnan(spread["up to 1 cent"]["mean"])


def test_an_episode_played_again_is_the_same(weights, monkeypatch):
    monkeypatch.setattr(play, "CHUNK", 3)
    steps = evaluate(ENV, NETWORK, weights, PARAMS, WINDOWS, ["agent"], seeds=2)[0].metrics["steps"]
    shown = set()
    for seed, window in ((0, 0), (1, 4), (1, 6)):
        trace = replay(ENV, NETWORK, weights, PARAMS, WINDOWS, "agent", seed, window)
        assert len(trace.bid) == steps[seed, window]
        shown |= set(((trace.bid + trace.ask) / 2).ravel())
        assert (trace.ask - trace.bid == 100).all()
    assert shown == {-100, 100}, "the toy shows its signal as the mid"
    other = replay(ENV, NETWORK, weights, PARAMS, WINDOWS, "agent", 0, 5)
    assert len(other.bid) != len(trace.bid) or (other.bid != trace.bid).any()


def test_seen_and_unseen_are_compared_by_policy(outcomes):
    kept = compare_seen(outcomes, outcomes[2:5])
    assert list(kept) == ["random", "hold", "always take"]
    assert kept["always take"].ratio == 1
    assert kept["always take"].low < 1 < kept["always take"].high
    assert kept["hold"].reason


def test_intervals_are_by_cluster(outcomes):
    outcome = next(o for o in outcomes if o.policy == "always take")
    by_cluster, alone = outcome.summary()["total_return"], evaluation.interval(outcome.metrics["total_return"])
    assert by_cluster["mean"] == pytest.approx(alone["mean"])
    assert by_cluster["low"] != alone["low"]


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
    if slots == 1:
        np.testing.assert_array_equal(windows.clusters, windows.markets[:, 0])
    else:
        in_session = np.asarray(tape.market_session)[windows.markets[:, 0]]
        assert len(set(zip(windows.clusters.tolist(), in_session.tolist(), strict=True))) == 2
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


def test_money_is_written_with_its_sign_first():
    assert [dollars(x) for x in (-1234.5, 0.0, -0.001, 2.0)] == ["-$1,234.50", "$0.00", "$0.00", "$2.00"]
