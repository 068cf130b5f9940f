"""Features equal a slow computation from the oracle's books, are bounded, and never tell which market they describe."""

import math
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.features import (
    BOOK_FEATURES,
    FEATURE_NAMES,
    OVERALL_FEATURES,
    TIME_FEATURES,
    feature_names,
    split_portfolio,
)
from kalshi_jax.sequences import HISTORY, SEQUENCE_FEATURES, sequence_features
from kalshi_jax.tape import features_of
from loaders import load_tape
from tests.reference.books import SIDES, Market, Session, replay
from tests.reference.frames import numbered, random_frames, snapshot, write_recording

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


def left_of(window: int, times: list[int], now: int) -> float:
    """The share of a window that has not gone by quietly since the last change."""
    return max(window - (now - times[-1] if times else now), 0) / window


def slow_rhythm(times: list[int], now: int) -> list[float]:
    past = [t for t in times if t <= now]
    strictly = [t for t in past if t < now]
    gap = now - (strictly[-1] if strictly else 0)
    rates = [sum(past[-1] - w < t for t in past) * 1000 / w * left_of(w, past, now) for w in (10_000, 60_000)]
    acceleration = 0.0
    if len(past) > 20:
        gaps = np.diff(past[-21:])
        acceleration = math.tanh((gaps[10:].sum() - gaps[:10].sum()) / max(gaps[:10].sum(), 1))
    kinds = [float(gap < 100), float(gap < 5_000), float(gap > 30_000)]
    return [min(math.log1p(gap / 1000) / 10, 1), *kinds, *(min(math.log1p(r) / 7, 1) for r in rates), acceleration]


def slow_sequences(market: Market, row: int) -> list[float]:
    """Tier 3 from the books of the rows up to `row`; prices in cents."""
    quotes = [market.bid_and_ask(r) for r in range(row + 1)]
    mids = [(bid + ask) / 200 for bid, ask in quotes]
    spreads = [ask - bid for bid, ask in quotes]
    changes = [(sum(after) - sum(before)) / 200 for before, after in pairwise(quotes)]
    signs = [(change > 0) - (change < 0) for change in changes]
    best = [{side: (market.book(r)[side] or ((0, 0),))[0] for side in SIDES} for r in range(row + 1)]
    tops = [{side: size for side, (_, size) in at.items()} for at in best]

    def added(r, side):
        before, after = best[r - 1][side][0], best[r][side][0]
        return tops[r][side] * (after >= before) - tops[r - 1][side] * (after <= before)

    flows = [added(r, "yes") - added(r, "no") for r in range(1, row + 1)]

    def order_flow(window):
        depth = [sum(top.values()) for top in tops[-window:]]
        return math.tanh(sum(flows[-window:]) * len(depth) / max(sum(depth), 1) * 2 / math.sqrt(window))

    def volatility(window):
        squares = [change**2 for change in changes[-window:]]
        return math.tanh(math.sqrt(sum(squares) / max(len(squares), 1)))

    def depth_imbalance(depth):
        yes, no = (sum(size for _, size in market.book(row)[side][:depth]) for side in SIDES)
        return (yes - no) / max(yes + no, 1)

    def spread_score(window):
        if len(set(spreads[-window:])) < 2:
            return 0.0
        return math.tanh((spreads[-1] - np.mean(spreads[-window:])) / np.std(spreads[-window:]) / 2)

    far, moves = changes[-128:], sum(map(abs, signs[-128:]))
    neighbours = list(zip([0, *signs], signs, strict=False))[-128:]
    net, way = round(abs(sum(far)), 6), round(sum(map(abs, far)), 6)
    pace = [np.mean(np.abs(changes[-window:])) if changes else 0.0 for window in (32, 128)]
    return [
        *(math.tanh(sum(changes[-n:]) / math.sqrt(n)) for n in (1, 2, 4, 8, 16, 32)),
        *(volatility(window) for window in (8, 32, 128)),
        *(depth_imbalance(depth) for depth in (1, 3, 5, 10)),
        *(order_flow(window) for window in (8, 32, 128)),
        *(spread_score(window) for window in (32, 128)),
        *(math.tanh((mids[-1] - np.mean(mids[-n:])) / math.sqrt(n) * 2) if mids else 0.0 for n in (32, 128)),
        sum(a * b for a, b in neighbours) / max(moves, 1),
        float(moves >= 4 and 2 * net >= way),
        float(moves >= 4 and 4 * net <= way),
        float(pace[0] > 2 * pace[1] + 1e-9),
    ]


def slow_features(session: Session, ticker: str, now: int) -> list[float]:
    market = session.markets[ticker]
    union = sorted({t for m in session.markets.values() for t in m.times})
    momenta = []
    past = [t for t in market.times if t <= now]
    for window in (10_000, 60_000):
        then = market.row_at(past[-1] - window) if past else -1
        moved = sum(market.bid_and_ask(market.row_at(now))) - sum(market.bid_and_ask(then)) if then >= 0 else 0
        momenta.append(math.tanh(moved / 2 / 100 / 10 * left_of(window, past, now)))
    time = [*slow_rhythm(union, now), *slow_rhythm(market.times, now), *momenta]
    return [*slow_book_features(market, now), *time, *slow_sequences(market, market.row_at(now))]


@pytest.fixture(scope="module", params=[(1, False), (2, True)], ids=["cents", "dollars"])
def recorded(request, tmp_path_factory):
    seed, fixed = request.param
    frames = random_frames(seed, TICKERS, moments=600, fixed=fixed)
    path = write_recording(tmp_path_factory.mktemp("features") / "random.jsonl", frames)
    return (*load_tape(path), replay(frames))


def test_features_equal_a_slow_computation_from_the_books(recorded):
    tape, index, session = recorded
    env = MarketAgnosticKalshiEnv(max_markets=3, remembered_levels=8)
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


@pytest.mark.slow
def test_features_are_bounded_and_named(recorded):
    tape, _, _ = recorded
    env = MarketAgnosticKalshiEnv(max_markets=5, remembered_levels=8)
    params = env.make_params(tape, episode_length=50)
    obs, state = jax.vmap(env.reset, (0, None))(jax.random.split(jax.random.key(0), 64), params)
    step = jax.jit(jax.vmap(env.step, (0, 0, 0, None)))
    sample, seen = jax.jit(jax.vmap(env.action_space(params).sample)), []
    for i in range(60):
        keys = jax.random.split(jax.random.key(i), 64)
        obs, state, *_ = step(keys, state, sample(keys), params)
        seen.append(obs)
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *seen)
    assert bool(jax.vmap(env.observation_space(params).contains)(together).all())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(together))
    assert obs.market.shape == (64, 5, len(FEATURE_NAMES))
    assert obs.portfolio.shape == (64, len(env.portfolio_names))
    per_market, overall = split_portfolio(obs.portfolio, 5)
    assert per_market.shape == (64, 5, 7)
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
    env = MarketAgnosticKalshiEnv(max_markets=2, remembered_levels=8)
    params = env.make_params(tape)
    obs, state = env.start(params, jnp.array([0, 1]), jnp.int32(0))
    for i in range(150):
        hold = jnp.zeros((2, 1), jnp.int32)
        obs, state, _, _, truncated, _ = env.step(jax.random.key(i), state, hold, params)
        np.testing.assert_array_equal(obs.market[0], obs.market[1])
        assert not truncated or i > 100


def extreme_frames() -> list[dict]:
    """Books that swing from edge to edge with as many contracts as a tape holds, then stand still, then trend."""
    most = 2**31 - 1
    low, high = ({1: most}, {98: most, 50: most}), ({98: most, 97: most}, {1: most})
    one_sided = ({40: 3}, {})
    books = [low, high] * 100 + [one_sided, ({}, {}), one_sided] * 5
    books += [({50: 10}, {40: 10 + i % 2}) for i in range(140)] + [({20 + i // 5: 5 + i}, {30: 7}) for i in range(160)]
    return numbered(snapshot(1000 + 10 * i, *book) for i, book in enumerate(books))


@pytest.fixture(scope="module")
def extreme(tmp_path_factory):
    frames = extreme_frames()
    tape, _ = load_tape(write_recording(tmp_path_factory.mktemp("extreme") / "extreme.jsonl", frames))
    return tape, replay(frames).markets["A"]


def rows_of(tape, market):
    first, count = int(tape.track_start[market]), int(tape.track_length[market])
    return slice(first, first + count)


def tier_3(tape, rows):
    columns = slice(len(BOOK_FEATURES), len(BOOK_FEATURES) + len(SEQUENCE_FEATURES))
    return np.asarray(features_of(tape.record[rows], columns))


def test_sequences_of_extreme_books_equal_a_slow_computation_and_reach_every_regime(extreme):
    tape, market = extreme
    features = tier_3(tape, rows_of(tape, 0))
    assert len(features) == len(market.times)
    slow = np.array([slow_sequences(market, row) for row in range(len(features))])
    for i, name in enumerate(SEQUENCE_FEATURES):
        np.testing.assert_allclose(features[:, i], slow[:, i], rtol=2e-5, atol=2e-5, err_msg=name)
    assert (np.abs(features) <= 1).all()
    assert (features[0] == np.where(np.char.startswith(SEQUENCE_FEATURES, "depth_imbalance"), features[0], 0)).all()
    regimes = features[:, -3:]
    assert (regimes.min(axis=0) == 0).all()
    assert (regimes.max(axis=0) == 1).all()
    assert len({SEQUENCE_FEATURES[i] for i in np.flatnonzero(np.ptp(features, axis=0) == 0)}) == 0


def test_a_short_tape_gives_the_bits_of_the_whole_recording(recorded, extreme):
    for tape in (recorded[0], extreme[0]):
        here, books = rows_of(tape, tape.num_markets - 1), [np.asarray(x) for x in (tape.price, tape.size, tape.mark)]
        every = tier_3(tape, slice(None))
        for row in range(here.start + HISTORY - 1, here.stop, 11):
            last = np.append(0, np.arange(row - HISTORY + 1, row + 1))
            price, size, mark = (x[last] for x in books)
            short = sequence_features(price, size, mark, np.array([1]))
            np.testing.assert_array_equal(short[HISTORY], every[row])


def test_tiers_are_left_out_one_by_one(extreme):
    tape, _ = extreme
    assert FEATURE_NAMES == BOOK_FEATURES + TIME_FEATURES + SEQUENCE_FEATURES
    assert feature_names(False, False) == BOOK_FEATURES
    seen = {}
    for temporal, sequence in ((True, False), (False, True), (True, True)):
        env = MarketAgnosticKalshiEnv(1, temporal_features=temporal, sequence_features=sequence)
        assert env.feature_names == feature_names(temporal, sequence)
        obs, _ = env.start(env.make_params(tape), jnp.array([0]), jnp.int32(2_500))
        assert bool(env.observation_space().contains(obs))
        seen[temporal, sequence] = dict(zip(env.feature_names, np.asarray(obs.market[0]), strict=True))
    assert seen[True, True] == seen[True, False] | seen[False, True]


def test_every_feature_is_in_the_readme():
    from pathlib import Path

    readme = (Path(__file__).parents[2] / "README.md").read_text()
    names = {name.removeprefix("session_").removeprefix("market_") for name in FEATURE_NAMES} | set(OVERALL_FEATURES)
    assert [name for name in sorted(names) if f"`{name}`" not in readme] == []
    assert len(BOOK_FEATURES) == 12
    assert len(FEATURE_NAMES) == 52
    assert len(set(FEATURE_NAMES)) == 52
