"""Features equal a slow computation from the oracle's books, are bounded, and never tell which market they describe."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.features import BOOK_FEATURES, FEATURE_NAMES, OVERALL_FEATURES, split_portfolio
from loaders import load_tape
from tests.reference.books import Market, Session, replay
from tests.reference.frames import numbered, random_frames, write_recording

TICKERS = ("A", "B", "C")


def slow_book_features(market: Market, now: int) -> list[float]:
    row = market.row_at(now)
    bid, ask = (x / 100 for x in market.bid_and_ask(row))
    mid, spread = (bid + ask) / 2, ask - bid
    shown = market.book(row)
    sizes = {side: [size for _, size in shown[side]] for side in ("yes", "no")}

    def imbalance(depth):
        yes, no = (sum(sizes[side][:depth]) for side in ("yes", "no"))
        return (yes - no) / max(yes + no, 1)

    yes, no = (sum(sizes[side][:1]) for side in ("yes", "no"))
    micro = (bid * no + ask * yes) / (yes + no) if yes + no else mid
    return [
        mid / 100,
        (100 - mid) / 100,
        abs(mid - 50) / 50,
        spread / max(mid, 1),
        spread / max(100 - mid, 1),
        imbalance(5),
        min(mid, 100 - mid) / 50,
        0.0,
        spread / 100,
        imbalance(1),
        min(math.log1p(sum(sum(s[:5]) for s in sizes.values())) / 15, 1),
        (micro - mid) / spread if spread else 0.0,
    ]


def slow_rhythm(times: list[int], now: int) -> list[float]:
    past = [t for t in times if t <= now]
    strictly = [t for t in past if t < now]
    gap = now - (strictly[-1] if strictly else 0)
    rates = [sum(now - w < t for t in past) * 1000 / w for w in (10_000, 60_000)]
    acceleration = 0.0
    if len(past) > 20:
        gaps = np.diff(past[-21:])
        acceleration = math.tanh((gaps[10:].sum() - gaps[:10].sum()) / max(gaps[:10].sum(), 1))
    kinds = [float(gap < 100), float(gap < 5_000), float(gap > 30_000)]
    return [min(math.log1p(gap / 1000) / 10, 1), *kinds, *(min(math.log1p(r) / 7, 1) for r in rates), acceleration]


def slow_features(session: Session, ticker: str, now: int) -> list[float]:
    market = session.markets[ticker]
    union = sorted({t for m in session.markets.values() for t in m.times})
    momenta = []
    for window in (10_000, 60_000):
        then = market.row_at(now - window)
        moved = sum(market.bid_and_ask(market.row_at(now))) - sum(market.bid_and_ask(then)) if then >= 0 else 0
        momenta.append(math.tanh(moved / 2 / 100 / 10))
    return [*slow_book_features(market, now), *slow_rhythm(union, now), *slow_rhythm(market.times, now), *momenta]


@pytest.fixture(scope="module", params=[(1, False), (2, True)], ids=["cents", "dollars"])
def recorded(request, tmp_path_factory):
    seed, fixed = request.param
    frames = random_frames(seed, TICKERS, moments=600, fixed=fixed)
    path = write_recording(tmp_path_factory.mktemp("features") / "random.jsonl", frames)
    return (*load_tape(path), replay(frames))


def test_features_equal_a_slow_computation_from_the_books(recorded):
    tape, index, session = recorded
    env = MarketAgnosticKalshiEnv(max_markets=3)
    params = env.make_params(tape)
    end = max(market.times[-1] for market in session.markets.values())
    rng = np.random.default_rng(0)
    change_times = np.concatenate([market.times for market in session.markets.values()])
    starts = np.concatenate([rng.integers(0, end + 70_000, 60), rng.choice(change_times, 60), [0, end]])
    observe = jax.jit(jax.vmap(lambda t: env.start(params, jnp.arange(3), t)[0]))
    seen = np.asarray(observe(jnp.asarray(starts, jnp.int32)).market)
    for start, features in zip(starts, seen, strict=True):
        for slot, ticker in enumerate(index.tickers):
            slow = slow_features(session, ticker, int(start))
            np.testing.assert_allclose(features[slot], slow, rtol=2e-5, atol=2e-6, err_msg=f"{ticker} at {start} ms")


def test_features_are_bounded_and_named(recorded):
    tape, _, _ = recorded
    env = MarketAgnosticKalshiEnv(max_markets=5)
    params = env.make_params(tape, episode_length=50)
    obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 64), params)
    step = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))
    for i in range(60):
        keys = jax.random.split(jax.random.key(i), 64)
        action = jax.vmap(env.action_space(params).sample)(keys)
        obs, state, *_ = step(keys, state, action, params)
        assert bool(jax.vmap(env.observation_space(params).contains)(obs).all())
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(obs))
    assert obs.market.shape == (64, 5, len(FEATURE_NAMES))
    assert obs.portfolio.shape == (64, len(env.portfolio_names))
    per_market, overall = split_portfolio(obs.portfolio, 5)
    assert per_market.shape == (64, 5, 6)
    assert overall.shape == (64, len(OVERALL_FEATURES))
    unused = np.asarray(state.markets) < 0
    assert unused.any(), "five slots over three markets leave two unused"
    assert (np.asarray(obs.market)[unused] == 0).all()
    assert not np.asarray(obs.action_mask)[unused][..., 1:].any()


def test_equal_books_give_bit_identical_features(tmp_path):
    frames = random_frames(3, ("A",), moments=200)
    twins = [f | {"msg": f["msg"] | {"market_ticker": t}} for f in frames for t in ("Z-TWIN", "A-TWIN")]
    twins = numbered(twins)
    tape, _ = load_tape(write_recording(tmp_path / "twins.jsonl", twins))
    env = MarketAgnosticKalshiEnv(max_markets=2)
    params = env.make_params(tape)
    obs, state = env.start(params, jnp.array([0, 1]), jnp.int32(0))
    for i in range(150):
        hold = jnp.zeros((2, 1), jnp.int32)
        obs, state, _, _, truncated, _ = env.step(jax.random.key(i), state, hold, params)
        np.testing.assert_array_equal(obs.market[0], obs.market[1])
        assert not truncated or i > 100


def test_every_feature_is_in_the_readme():
    from pathlib import Path

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    names = {name.removeprefix("session_").removeprefix("market_") for name in FEATURE_NAMES} | set(OVERALL_FEATURES)
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []
    assert len(BOOK_FEATURES) == 12
    assert len(FEATURE_NAMES) == 28
