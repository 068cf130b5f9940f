"""Closing and settlement, latency, fee schedules of the markets, and the reward's optional parts, in the compiled environment."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import Action, MarketAgnosticKalshiEnv
from kalshi_jax.tape import DOLLAR
from loaders import SessionConfig, load_tape
from tests.reference.frames import delta, snapshot, write_recording

FRAMES = [
    snapshot(0, {40: 100}, {55: 100}),
    snapshot(0, {40: 100}, {55: 100}, "B"),
    *(delta(t, "yes", 1, 1, ticker) for t in range(100, 1000, 100) for ticker in "AB"),
    delta(2000, "yes", 1, 1, "B"),
]
YES, NO = 10 * 4_500, 10 * 6_000  # what ten of them cost at the ask


@pytest.fixture(scope="module")
def env():
    return MarketAgnosticKalshiEnv(max_markets=2, temporal_features=False, sequence_features=False, remembered_levels=4)


@pytest.fixture(scope="module")
def make(env, tmp_path_factory):
    """Gives parameters for closes of A at 500 ms and B at 800 ms with these results; all of one shape, so one compile."""
    folder = tmp_path_factory.mktemp("closes")
    recording = write_recording(folder / "two.jsonl", FRAMES)

    def params_for(a, b, **settings):
        closes = {
            ticker: {"close_time": f"1970-01-01T00:00:00.{ms}Z", "settlement_value_dollars": "0.2500", **result}
            for ticker, ms, result in (("A", 500, a), ("B", 800, b))
        }
        (folder / "m.json").write_text(json.dumps(closes))
        tape, _ = load_tape(recording, SessionConfig(metadata=folder / "m.json"))
        return env.make_params(tape, **{"decision_interval_ms": 100, "taker_rate": 0} | settings)

    return params_for


def play(env, params, *actions):
    """Play from the beginning; the state, flags and info after each of the actions (one per market)."""
    _, state = env.start(params, jnp.array([0, 1]), jnp.int32(0))
    seen = []
    for action in actions:
        state, _, terminated, truncated, info = jax.jit(env.transition)(state, jnp.array(action)[:, None], params)
        seen.append((state, bool(terminated), bool(truncated), {name: np.asarray(x) for name, x in info.items()}))
    return seen


HOLD = (Action.HOLD, Action.HOLD)
BOTH = (Action.BUY_YES_NOW, Action.BUY_NO_NOW)


@pytest.mark.parametrize(
    ("a", "b", "proceeds"),
    [
        ("yes", "yes", (10 * DOLLAR, 0)),
        ("no", "no", (0, 10 * DOLLAR)),
        ("scalar", "scalar", (25_000, 75_000)),
        ("void", "void", (YES, NO)),
    ],
)
def test_every_result_pays_yes_and_no_to_the_last_hundredth_of_a_cent(env, make, a, b, proceeds):
    params = make({"result": a}, {"result": b})
    seen = play(env, params, BOTH, *[HOLD] * 7)
    cash = int(params.initial_cash) - YES - NO
    for step, (state, terminated, truncated, info) in enumerate(seen, start=1):
        paid = [step >= 5, step >= 8]
        assert int(state.ledger.cash) == cash + sum(p for p, done in zip(proceeds, paid, strict=True) if done)
        assert state.ledger.position.tolist() == [0 if paid[0] else 10, 0 if paid[1] else -10]
        assert state.ledger.realized_pnl.tolist() == [
            p - c if done else 0 for p, c, done in zip(proceeds, (YES, NO), paid, strict=True)
        ]
        assert (terminated, truncated) == (all(paid), False), "terminated once every market has settled"
        assert (int(info["settled"]), int(info["unsettled"])) == (sum(paid), 0)
    assert int(seen[-1][0].value) == int(seen[-1][0].ledger.cash)


def test_an_unknown_result_leaves_the_holding_at_its_last_mark_and_the_episode_is_truncated(env, make):
    *_, (state, terminated, truncated, info) = play(
        env, make({"result": None}, {"result": "yes"}), (Action.BUY_YES_NOW, Action.HOLD), *[HOLD] * 7
    )
    assert (terminated, truncated) == (False, True)
    assert (int(info["settled"]), int(info["unsettled"])) == (1, 1)
    assert state.ledger.position.tolist() == [10, 0]
    assert int(state.value) == int(state.ledger.cash) + 10 * 4_250, "the mid of the last quoted book"


def test_orders_to_a_closed_market_are_refused_and_only_hold_is_legal(env, make):
    params = make({"result": "no"}, {"result": "no"})
    *_, (state, *_) = play(env, params, *[HOLD] * 5)
    mask = env.observation(state, params).action_mask[:, 0]
    assert mask[0].tolist() == [True] + [False] * 8
    assert bool(mask[1, Action.BUY_YES_NOW])
    for action in range(1, 9):
        after, _, _, _, info = jax.jit(env.transition)(state, jnp.array([[action], [0]]), params)
        assert (int(info["refused"]), int(info["trades"]), int(info["resting"])) == (1, 0, 0)
        assert int(after.ledger.cash) == int(state.ledger.cash)


def test_a_resting_order_is_cancelled_at_the_close(env, make):
    params = make({"result": "yes"}, {"result": "yes"}, hold_cancels=False)
    seen = play(env, params, (Action.BUY_YES_WAIT, Action.BUY_YES_WAIT), *[HOLD] * 5)
    assert [int(info["resting"]) for *_, info in seen] == [2, 2, 2, 2, 1, 1]


def test_time_to_close_is_seen_where_it_is_known(env, make):
    params = make({"result": "yes"}, {"close_time": None, "result": None})
    place = [env.portfolio_names.index(f"market_{m}_time_to_close") for m in (0, 1)]
    obs, _ = env.start(params, jnp.array([0, 1]), jnp.int32(100))
    np.testing.assert_allclose(obs.portfolio[jnp.array(place)], [np.log1p(0.4) / 14, 1.0], rtol=1e-6)


def test_what_is_decided_arrives_later_and_at_the_prices_that_were_decided(env, make):
    """Each market changes every 100 ms; with 50 ms on the way an order meets the book of the decision, with 100 the next."""
    params = make({"result": "no"}, {"result": "no"}, latency_ms=50)
    (state, *_, info), *_ = play(env, params, BOTH)
    assert (state.ledger.position.tolist(), int(state.now_ms)) == ([10, -10], 100)
    late = make({"result": "no"}, {"result": "no"}, latency_ms=100)
    seen = play(env, late, *[HOLD] * 4, BOTH)
    state, _, _, info = seen[-1]
    assert state.ledger.position.tolist() == [0, -10], "the order for A would have arrived as A closed"
    assert int(info["refused"]) == 1
    with pytest.raises(ValueError, match="latency_ms=101: expected 0 to 100 ms"):
        make({}, {}, latency_ms=101)


def test_fees_are_the_markets_own_unless_asked_otherwise(env, make):
    flat, none = {"fee_type": "flat"}, {"fee_type": "none"}
    (state, *_), *_ = play(env, make(flat, none, taker_rate=None), BOTH)
    assert state.ledger.fees_paid.tolist() == [700, 0]
    (state, *_), *_ = play(env, make(flat, none, taker_rate=700, taker_flat_cents=0.0), BOTH)
    assert state.ledger.fees_paid.tolist() == [1_800, 1_700], "0.07 * 10 * 0.45 * 0.55, and * 0.4 * 0.6: 17.33 and 16.8"


@pytest.mark.slow
def test_the_parts_of_the_reward_add_up_and_are_nothing_unless_weighted(env, make):
    plain = play(env, make({}, {}), BOTH, HOLD)
    assert all(float(info[f"reward_{part}"]) == 0 for *_, info in plain for part in ("risk", "timing", "discovery"))
    params = make({}, {}, risk_weight=0.5, timing_weight=2.0, discovery_weight=1.0, mark="exit")
    for *_, info in play(env, params, BOTH, HOLD, (Action.BUY_NO_NOW, Action.BUY_NO_WAIT), HOLD):
        parts = [float(info[f"reward_{part}"]) for part in ("base", "penalty", "risk", "timing", "discovery")]
        assert np.isfinite(parts).all()
    discovered = [float(info["reward_discovery"]) * 27 * 2 for *_, info in play(env, params, BOTH, BOTH, HOLD, HOLD)]
    np.testing.assert_allclose(discovered, [2, 2, 2, 0], atol=1e-5)
    with pytest.raises(ValueError, match="reward weights"):
        make({}, {}, risk_weight=float("nan"))


def test_timing_is_what_marks_did_to_the_steps_own_trades(tmp_path):
    frames = [snapshot(0, {40: 100}, {50: 100}), delta(100, "yes", 44, 5), delta(200, "yes", 46, 5)]
    tape, _ = load_tape(write_recording(tmp_path / "up.jsonl", frames))
    env = MarketAgnosticKalshiEnv(max_markets=1, temporal_features=False, sequence_features=False)
    params = env.make_params(tape, timing_weight=1.0, taker_rate=0)
    _, state = env.start(params, jnp.array([0]), jnp.int32(0))
    state, *_, info = jax.jit(env.transition)(state, jnp.full((1, 1), Action.BUY_YES_NOW), params)
    np.testing.assert_allclose(float(info["reward_timing"]), 0.01 * 10 * 0.02, rtol=1e-5)  # the mid went from 45 to 47
    state, *_, info = jax.jit(env.transition)(state, jnp.full((1, 1), Action.HOLD), params)
    assert float(info["reward_timing"]) == 0
    np.testing.assert_allclose(float(info["reward_base"]), 0.01 * 10 * 0.01, rtol=1e-5)
