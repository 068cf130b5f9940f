"""What the baselines do, on observations made by hand, and that it is always legal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from agents.baselines import BASELINES, MOST, always_take, contracts_held, market_maker, momentum
from agents.conditions import CONDITIONS, classify
from kalshi_jax import Action, Observation
from kalshi_jax.features import FEATURE_NAMES, feature_names, portfolio_names

KEY = jax.random.key(0)


def see(markets=1, orders=1, actions=9, forbidden=(), names=FEATURE_NAMES, **figures):
    """Make an observation in which every market has these figures; all but the forbidden actions are legal."""
    market = jnp.stack([jnp.full(markets, figures.get(name, 0.0), jnp.float32) for name in names], axis=-1)
    portfolio = [figures.get(name.split("_", 2)[-1], 0.0) for name in portfolio_names(markets, orders)]
    mask = jnp.ones((markets, orders, actions), bool).at[..., list(forbidden)].set(False)
    return Observation(market, jnp.array(portfolio, jnp.float32), mask)


def holding(contracts):
    return {"position": np.tanh(contracts / 100)}


def act(policy, **figures):
    """The actions of the order slots of the only market, by name."""
    (actions,) = policy(KEY, see(**figures), FEATURE_NAMES)
    return [Action(int(action)).name for action in actions]


def trend(cents):
    return {"momentum_10s": np.tanh(cents / 10), "momentum_60s": np.tanh(2 * cents / 10)}


def test_baselines_only_do_what_is_legal():
    mask = jax.random.bernoulli(KEY, 0.4, (500, 3, 2, 17)).at[..., 0].set(True)
    shape = (500, 3, len(FEATURE_NAMES)), (500, len(portfolio_names(3, 2)))
    market, portfolio = (jax.random.uniform(jax.random.key(i), s, minval=-1) for i, s in enumerate(shape))
    for name, policy in BASELINES.items():
        action = policy(KEY, Observation(market, portfolio, mask), FEATURE_NAMES)
        assert action.shape == (500, 3, 2), name
        assert bool(jnp.take_along_axis(mask, action[..., None], -1).all()), name
        assert len(np.unique(action)) > 1 or name == "hold", "each does something"
    taken = np.unique(always_take(KEY, Observation(market, portfolio, mask), FEATURE_NAMES))
    assert set(taken) == {0, 1, 3, 9, 11}, "HOLD, and BUY NOW of both sides and both sizes"


def test_holdings_are_read_to_the_contract():
    for contracts in (-400, -50, -1, 0, 3, 49, 50, 260):
        assert contracts_held(see(markets=2, orders=2, **holding(contracts))).tolist() == [contracts] * 2


def test_momentum_goes_with_the_market_and_leaves_when_it_rests():
    assert act(momentum, **trend(1)) == ["BUY_YES_NOW"]
    assert act(momentum, **trend(-1)) == ["BUY_NO_NOW"]
    assert act(momentum, **trend(1), **holding(-20)) == ["BUY_YES_NOW"], "which nets"
    assert act(momentum, **trend(0.5)) == ["HOLD"]
    assert act(momentum, **trend(0.5), **holding(20)) == ["SELL_YES_NOW"]
    assert act(momentum, **trend(0), **holding(-20)) == ["SELL_NO_NOW"]
    against = trend(1) | {"momentum_60s": -0.3}
    assert act(momentum, **against) == ["HOLD"], "a short move against a long one is none"


def test_momentum_stops_at_its_limit_and_needs_tier_2():
    assert act(momentum, **trend(1), **holding(MOST)) == ["HOLD"]
    assert act(momentum, **trend(1), **holding(MOST - 1)) == ["BUY_YES_NOW"]
    assert act(momentum, **trend(-1), **holding(-MOST)) == ["HOLD"]
    assert act(momentum, **trend(1), forbidden=[Action.BUY_YES_NOW]) == ["HOLD"]
    assert act(momentum, **trend(1), orders=2) == ["BUY_YES_NOW", "HOLD"]
    blind = feature_names(temporal=False, sequence=True)
    assert momentum(KEY, see(names=blind), blind).tolist() == [[Action.HOLD]]


def test_the_market_maker_quotes_both_sides_and_sells_before_it_adds():
    assert act(market_maker, orders=2) == ["BUY_YES_WAIT", "BUY_NO_WAIT"]
    assert act(market_maker, orders=2, **holding(10)) == ["BUY_YES_WAIT", "SELL_YES_WAIT"]
    assert act(market_maker, orders=2, **holding(MOST)) == ["HOLD", "SELL_YES_WAIT"]
    assert act(market_maker, orders=2, **holding(-10)) == ["SELL_NO_WAIT", "BUY_NO_WAIT"]
    assert act(market_maker, orders=3, **holding(-MOST)) == ["SELL_NO_WAIT", "HOLD", "HOLD"]
    no_cash = [Action.BUY_YES_WAIT, Action.BUY_NO_WAIT]
    assert act(market_maker, orders=2, **holding(10), forbidden=no_cash) == ["HOLD", "SELL_YES_WAIT"]


def test_the_market_maker_with_one_order_reduces_what_it_holds():
    assert act(market_maker, **holding(10)) == ["SELL_YES_WAIT"]
    assert act(market_maker, **holding(-3), order_0_resting=-1.0) == ["SELL_NO_WAIT"]
    assert act(market_maker, imbalance_1=-0.2) == ["BUY_NO_WAIT"]
    assert act(market_maker, imbalance_1=0.2) == ["BUY_YES_WAIT"]
    assert act(market_maker, imbalance_1=-0.2, order_0_resting=1.0) == ["BUY_YES_WAIT"], "it keeps its place"


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"market_burst": 1, "market_active": 1}, {"pace": 0}),
        ({"market_active": 1}, {"pace": 1}),
        ({}, {"pace": 2, "spread": 0}),
        ({"market_quiet": 1}, {"pace": 3}),
        ({"session_quiet": 1}, {"pace": 2}),
        ({"spread": np.float32(100 / 10_000)}, {"spread": 0}),
        ({"spread": np.float32(110 / 10_000)}, {"spread": 1}),
        ({"spread": np.float32(500 / 10_000)}, {"spread": 2}),
        ({"spread": 1.0}, {"spread": 3}),
        ({"time_to_close": np.log1p(60) / 14}, {"time to close": 0}),
        ({"time_to_close": np.log1p(61) / 14}, {"time to close": 1}),
        ({"time_to_close": np.log1p(900) / 14}, {"time to close": 2}),
        ({"time_to_close": np.log1p(86_400) / 14}, {"time to close": 3}),
        ({"time_to_close": 1.0}, {"time to close": 4}),
    ],
)
def test_conditions_are_read_off_the_observation(figures, expected):
    classes = classify(see(markets=2, **figures), FEATURE_NAMES)
    assert set(classes) == set(CONDITIONS)
    for name, number in expected.items():
        assert classes[name].tolist() == [number] * 2


def test_without_tier_2_there_is_no_pace():
    names = feature_names(temporal=False, sequence=False)
    assert set(classify(see(names=names), names)) == {"spread", "time to close"}
