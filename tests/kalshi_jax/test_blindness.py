"""Names and their order reach nothing: one recording under other tickers in another order plays the same, bit by bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import MarketAgnosticKalshiEnv
from kalshi_jax.tape import ROW, SIZE
from loaders import load_tape
from tests.reference.frames import numbered, random_frames, write_recording

RENAMED = {"A": "KXBTC15M-26MAY131315-15", "B": "a", "C": "KXHIGHNY-25JAN01-B40.5"}
EPISODES, STEPS = 24, 60


def renamed(frames):
    """The same events under other tickers, with the markets in the opposite order wherever the order is free."""
    frames = [
        frame | {"msg": frame["msg"] | {"market_ticker": RENAMED[frame["msg"]["market_ticker"]]}} for frame in frames
    ]
    opening = len(RENAMED)  # the first snapshot of each market, all in one millisecond
    return numbered(frames[:opening][::-1] + frames[opening:])


def play(env, params, markets, start_ms, actions):
    """Play episodes side by side: everything that is seen, paid and kept, [T, E, ...]."""

    def step(state, action):
        seen = jax.vmap(env.observation, (0, None))(state, params)
        state, *rest = jax.vmap(env.transition, (0, 0, None))(state, action, params)
        return state, (seen, state, rest)

    _, state = jax.vmap(env.start, (None, 0, 0))(params, markets, start_ms)
    return jax.lax.scan(step, state, actions)[1]


def without_numbers(tape, state):
    """The state with market, row, entry and fall numbers of its tape told relative to their market and level."""
    first = np.asarray(tape.track_start)[np.maximum(state.markets, 0)]
    row = np.where(state.row > 0, state.row - first, -1)
    resting = state.orders.price > 0
    fall = np.where(resting, state.orders.fall, 0)
    row_of, size_of = np.asarray(tape.entries)[:, [ROW, SIZE]].T
    follows, left = np.moveaxis(np.asarray(tape.falls)[fall][..., [ROW, SIZE]], -1, 0)
    taken = np.where(np.stack(state.taken.contracts, -1) > 0, np.stack(state.taken.entry, -1), 0)
    about = (
        left,
        np.where(follows == 2**31 - 1, -1, follows - first[..., None]) * resting,
        size_of[taken],
        np.where(taken > 0, row_of[taken] - first[..., None], 0),
    )
    nowhere = {
        "markets": jnp.zeros_like(state.markets),
        "orders": state.orders.replace(fall=jnp.zeros_like(state.orders.fall)),
        "taken": state.taken.replace(entry=jax.tree.map(jnp.zeros_like, state.taken.entry)),
    }
    return state.replace(row=jnp.asarray(row), **nowhere), about


@pytest.mark.parametrize(("interval_ms", "sequence_features"), [(0, True), (250, False)], ids=["events", "fixed clock"])
def test_renaming_and_reordering_markets_changes_no_bit(tmp_path, interval_ms, sequence_features):
    frames = random_frames(11, tuple(RENAMED), moments=500)
    env = MarketAgnosticKalshiEnv(2, order_sizes=(10, 300), sequence_features=sequence_features, remembered_levels=8)
    tapes = [
        load_tape(write_recording(tmp_path / f"{name}.jsonl", them))
        for name, them in (("one", frames), ("other", renamed(frames)))
    ]
    (tape, index), (_, other) = tapes
    number = np.array([other.markets_of[RENAMED[ticker]][0] for ticker in index.tickers])
    assert (number != np.arange(len(number))).any(), "the order has changed"

    rng = np.random.default_rng(0)
    markets = np.stack([rng.permutation(3)[:2] for _ in range(EPISODES)])
    start_ms = rng.integers(0, int(np.asarray(tape.time_ms).max()), EPISODES).astype(np.int32)
    start_ms[:4] = 0
    actions = jnp.asarray(rng.integers(0, env.num_actions, (STEPS, EPISODES, 2, 1)), jnp.int32)
    seen = []
    program = jax.jit(play, static_argnums=0)
    for (its_tape, _), its_markets in zip(tapes, (markets, number[markets]), strict=True):
        params = env.make_params(its_tape, decision_interval_ms=interval_ms)
        obs, state, rest = jax.device_get(
            program(env, params, jnp.asarray(its_markets, jnp.int32), jnp.asarray(start_ms), actions)
        )
        seen.append((obs, without_numbers(its_tape, state), rest))
    jax.tree.map(np.testing.assert_array_equal, *seen)
    _, (state, _), (reward, *_) = seen[0]
    assert (np.abs(state.ledger.position).sum(axis=(0, 2)) > 0).mean() > 0.5, "most episodes trade"
    assert (state.orders.price > 0).any()
    assert np.ptp(reward) > 0


def test_under_other_names_a_reset_draws_the_same_episodes(tmp_path):
    """Only the names differ here, not the order: numbers of markets are the same too."""
    frames = random_frames(12, tuple(RENAMED), moments=200)
    other = [
        frame | {"msg": frame["msg"] | {"market_ticker": RENAMED[frame["msg"]["market_ticker"]]}} for frame in frames
    ]
    env = MarketAgnosticKalshiEnv(max_markets=2, sequence_features=False, remembered_levels=8)
    reset = jax.jit(jax.vmap(env.initial_state, (0, None)))
    keys = jax.random.split(jax.random.key(3), 32)
    drawn = [
        reset(keys, env.make_params(load_tape(write_recording(tmp_path / f"{name}.jsonl", them))[0], episode_length=20))
        for name, them in (("one", frames), ("other", other))
    ]
    jax.tree.map(np.testing.assert_array_equal, *drawn)
