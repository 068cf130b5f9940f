"""Where money came from: parts worked out by hand, and parts that add up to the change of value exactly."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import Action, MarketAgnosticKalshiEnv
from kalshi_jax.attribution import PARTS
from loaders import SessionConfig, load_tape
from tests.reference.frames import delta, random_frames, snapshot, write_recording

ENV = MarketAgnosticKalshiEnv(
    max_markets=2, orders_per_market=2, temporal_features=False, sequence_features=False, remembered_levels=8
)
explain = jax.jit(ENV.explain)


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    """Gives the tape of frames whose market A settles at YES after some ms since 1970."""
    folder = tmp_path_factory.mktemp("attribution")

    def tape_of(frames, close_ms):
        close = f"{np.datetime64(close_ms, 'ms')}Z"
        (folder / "m.json").write_text(json.dumps({"A": {"close_time": close, "result": "yes"}}))
        recording = write_recording(folder / "frames.jsonl", frames)
        return load_tape(recording, SessionConfig(metadata=folder / "m.json"))[0]

    return tape_of


def test_every_part_of_a_round_trip_is_what_a_trader_would_reckon(load):
    frames = [
        snapshot(0, {40: 100}, {55: 100, 54: 100}),
        delta(150, "no", 55, -100),  # the best NO bid goes, and YES is bid at 45, where we rest
        delta(150, "yes", 45, 100),
        *(delta(at, "yes", 1, 1) for at in range(200, 900, 100)),
    ]
    params = ENV.make_params(load(frames, 500), decision_interval_ms=100)
    _, state = ENV.start(params, jnp.array([0, -1]), jnp.int32(0))
    steps = (Action.BUY_YES_NOW, Action.BUY_NO_WAIT, Action.BUY_YES_NOW, Action.HOLD, Action.HOLD)
    seen = []
    for action in steps:
        state, *_, attribution = explain(state, jnp.array([[action, 0], [0, 0]]), params)
        assert all(int(x[1]) == 0 for x in attribution.parts.values()), "the other slot is not used"
        parts = {name: int(x[0]) / 100 for name, x in attribution.parts.items() if x[0]}
        seen.append((parts, int(attribution.taker[0]), int(attribution.maker[0])))
    assert seen == [
        # asked 45 where the mid is 42.5; the fee of ten contracts at 45 cents
        ({"spread_paid": -25, "fees": -18}, 10, 0),
        # sold at 45 by resting; meanwhile the mid went up to 45.5, good for what was held and bad for what was sold
        ({"spread_captured": 25, "adverse_selection": -30, "holding": 30}, 0, -10),
        ({"spread_paid": -5, "fees": -18}, 10, 0),
        ({}, 0, 0),
        ({"settlement": 545}, 0, 0),  # a dollar each, less the last mid
    ]


@pytest.mark.parametrize("settings", [{}, {"mark": "exit", "latency_ms": 130, "hold_cancels": False}])
def test_the_parts_add_up_to_the_change_of_value(load, settings):
    frames = random_frames(3, ("A", "B"), 400)
    close = frames[-1]["recv_ms"] - 3000
    tape = load(frames, close)
    params = ENV.make_params(tape, decision_interval_ms=250, queue_model="power", maker_rate=175, **settings)
    steps, episodes = 100, 64
    keys = jax.random.split(jax.random.key(0), episodes)
    state = jax.vmap(ENV.initial_state, (0, None))(keys, params)

    @jax.jit
    def play(state, params):
        def step(state, key):
            mask = jax.vmap(ENV.observation, (0, None))(state, params).action_mask
            action = jax.random.categorical(key, jnp.where(mask, 0.0, jnp.finfo(jnp.float32).min))
            after, *_, info, attribution = jax.vmap(ENV.explain, (0, 0, None))(state, action, params)
            bought = attribution.taker + attribution.maker
            return after, (after.value - state.value, attribution.parts, bought, info, after.ledger.position)

        return jax.lax.scan(step, state, jax.random.split(jax.random.key(1), steps))[1]

    change, parts, bought, info, position = jax.tree.map(np.asarray, play(state, params))
    np.testing.assert_array_equal(sum(parts.values()).sum(axis=-1), change)
    assert {name for name, x in parts.items() if x.any()} == set(PARTS), "every part is met with"
    np.testing.assert_allclose(-parts["fees"].sum(axis=-1) / 10_000, info["fees"], rtol=1e-6)
    unsettled = info["settled"].max(axis=0) == 0
    np.testing.assert_array_equal(bought.cumsum(axis=0)[:, unsettled], position[:, unsettled])
    if not settings:
        assert (parts["spread_paid"] <= 0).all(), "without latency who takes pays the spread"
        assert (parts["spread_captured"] >= -100 * np.abs(bought)).all()
