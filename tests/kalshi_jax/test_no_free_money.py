"""No free money: at the marks of the moment every order costs at least its fee, and a random policy loses what it paid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.no_free_money import Config, run
from kalshi_jax import Action, MarketAgnosticKalshiEnv
from kalshi_jax.ledger import portfolio_value
from kalshi_jax.reward import marks
from kalshi_jax.tape import DOLLAR, quote_at
from loaders import load_tape
from tests.data import recordings_folder
from tests.reference.frames import delta, snapshot, write_recording

EPISODES, STEPS = 1024, 1000


def random_policy(tape, slots, interval_ms, episodes=EPISODES, steps=STEPS):
    """Follow random legal actions; per step and episode, i64[steps, episodes] in 0.01 cent and contracts.

    Gain is drift less cost: cost is what orders lost at the marks of the moment, drift what marks did to the holdings then.
    """
    env = MarketAgnosticKalshiEnv(slots, temporal_features=False, sequence_features=False)
    params = env.make_params(tape, episode_length=steps, decision_interval_ms=interval_ms)

    def step(state, key, params):
        mask = env.observation(state, params).action_mask
        action = jax.random.categorical(key, jnp.where(mask, 0.0, -1e9))
        after, _, terminated, truncated, info = env.transition(state, action, params)
        old_marks = marks(quote_at(params.tape, state.row), after.ledger.position, "mid")
        cost = state.value - portfolio_value(after.ledger, old_marks)
        drift = after.value - portfolio_value(after.ledger, old_marks)
        fees = (after.ledger.fees_paid - state.ledger.fees_paid).sum()
        fresh = env.initial_state(jax.random.fold_in(key, 1), params)
        done = terminated | truncated
        following = jax.tree.map(lambda new, old: jnp.where(done, new, old), fresh, after)
        return following, (
            after.value - state.value,
            fees,
            cost,
            drift,
            info["taker_contracts"],
            info["maker_contracts"],
        )

    def rollout(key, params):
        reset_keys = jax.random.split(key, episodes)
        state = jax.vmap(env.initial_state, (0, None))(reset_keys, params)

        def body(state, i):
            keys = jax.vmap(jax.random.fold_in, (0, None))(reset_keys, i)
            return jax.vmap(step, (0, 0, None))(state, keys, params)

        return jax.lax.scan(body, state, jnp.arange(steps))[1]

    gain, fees, cost, drift, taken, made = (
        np.asarray(x, np.int64) for x in jax.jit(rollout)(jax.random.key(0), params)
    )
    np.testing.assert_array_equal(gain, drift - cost)
    return gain, fees, cost, drift, taken, made


def test_buying_both_sides_pays_exactly_a_dollar_a_pair(tmp_path):
    frames = [snapshot(0, {40: 100}, {55: 100}), delta(100, "yes", 1, 1), delta(200, "yes", 1, 1)]
    env = MarketAgnosticKalshiEnv(1, temporal_features=False, sequence_features=False, remembered_levels=4)
    params = env.make_params(load_tape(write_recording(tmp_path / "pair.jsonl", frames))[0], taker_rate=0)
    _, state = env.start(params, jnp.array([0]), jnp.int32(0))
    for action in (Action.BUY_YES_NOW, Action.BUY_NO_NOW):  # at 45 cents, then at 60
        state, *_ = env.transition(state, jnp.full((1, 1), action), params)
    assert int(state.ledger.cash) - int(params.initial_cash) == 10 * (DOLLAR - 4_500 - 6_000)
    assert int(state.ledger.position[0]) == int(state.ledger.cost_basis[0]) == 0


def assert_no_free_money(gain, fees, cost, drift, taken, made):
    assert taken.sum() > gain.size, "a random policy trades"
    assert bool((cost[made == 0] >= fees[made == 0]).all()), "an order was better than free at the marks of its moment"
    assert bool((fees[taken > 0] > 0).all())
    per_step = {"gain": gain, "fees": fees, "spread": cost - fees, "drift": drift, "made": made * DOLLAR}
    print(
        {name: round(float(x.mean()) / DOLLAR, 4) for name, x in per_step.items()}, "a step, in dollars and contracts"
    )
    error = gain.sum(0).std() / np.sqrt(gain.shape[1])
    assert gain.sum(0).mean() + fees.sum(0).mean() < 4 * error, "beyond its fees a random policy gains nothing"
    assert gain.sum(0).mean() < -fees.sum(0).mean() / 2


@pytest.mark.slow
@pytest.mark.parametrize(("slots", "interval_ms"), [(1, 1000), (5, 0)])
def test_a_random_policy_loses_its_fees_and_spreads_on_real_recordings(slots, interval_ms):
    names = ["inxd-20230410", "inxd-20230413", *(f"kxbtc15m-20260513T{t}" for t in (1259, 1522, 1712, 2119))]
    tape, _ = load_tape([recordings_folder() / f"{name}.jsonl.gz" for name in names])
    assert_no_free_money(*random_policy(tape, slots, interval_ms))


def test_a_random_policy_loses_its_fees_and_spreads_on_simulated_sessions():
    tape, _ = load_tape("synthetic:sessions=2,markets=3,seconds=300,seed=7")
    assert_no_free_money(*random_policy(tape, slots=2, interval_ms=500, episodes=64, steps=300))


@pytest.mark.slow
def test_no_hard_coded_policy_earns_money_on_a_driftless_exchange():
    """Each of them, makers too, ends at or below its start within a 99% interval over independent sessions."""
    outcomes = run(Config(sessions=200, seconds=150, interval_ms=1000))
    assert len(outcomes) >= 10
    assert outcomes["hold"]["mean"] == 0
    for name, outcome in outcomes.items():
        assert outcome["low"] <= 0, (name, outcome)
        assert name == "hold" or outcome["taken"] + outcome["made"] > 20, (name, outcome)
    known = [name for name, outcome in outcomes.items() if outcome["high"] < 0]
    assert len(known) >= 6, "the intervals are narrow enough to tell costs from luck"
