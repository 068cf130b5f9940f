"""What a reset samples: a market by weight, other markets of its session, and a window of its recording."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from kalshi_jax.state import EnvParams
from kalshi_jax.tape import LAST_MS, LENGTH, NO_ROW, START, Tape


def sample_episode(key: jax.Array, params: EnvParams, slots: int) -> tuple[jax.Array, jax.Array]:
    """Draw the markets and the start of an episode.

    The first market comes by `params.market_weights`, the others uniformly from its session, all in random order over the
    slots. On the event clock the window begins at a uniformly drawn change of the first market, on the fixed clock at a
    uniformly drawn time, and early enough for a whole episode where the market's recording is long enough.

    Args:
        key: typed or raw key, consumed.
        params: the parameters.
        slots: market slots M.

    Returns:
        i32[M] market ids (-1: unused slot) and i32[], ms since the session's start.
    """
    tape = params.tape
    draw = jax.random.uniform(key, (slots + 2,))
    first = jnp.searchsorted(params.market_weights, draw[0], side="right", method="scan_unrolled")
    first = jnp.minimum(first, tape.num_markets - 1).astype(jnp.int32)
    start_ms = _sample_start(draw[1], params, first)
    others = _sample_others(draw[2:-1], tape, first, slots)
    swap = _floor(draw[-1], jnp.asarray(slots))
    markets = jnp.concatenate([first[None], others])
    return markets.at[0].set(markets[swap]).at[swap].set(first), start_ms


def _sample_start(draw: jax.Array, params: EnvParams, market: jax.Array) -> jax.Array:
    tape = params.tape
    begin, rows, _, _, last_ms = tape.track[market]
    begin_row = begin + jnp.minimum(params.start_offset, rows - 1)
    last_row = begin + rows - 1
    if params.event_clock:
        latest = jnp.maximum(last_row - params.episode_length, begin_row)
        return tape.time_ms[begin_row + _floor(draw, latest - begin_row + 1)]
    begin_ms = tape.time_ms[begin_row]
    # float32: the horizon may pass int32, and a start needs no more precision than the draw has
    horizon = params.episode_length.astype(jnp.float32) * params.decision_interval_ms.astype(jnp.float32)
    room = jnp.maximum((last_ms - begin_ms).astype(jnp.float32) - horizon, 0.0)
    return begin_ms + (draw * room).astype(jnp.int32)


def _sample_others(draw: jax.Array, tape: Tape, first: jax.Array, slots: int) -> jax.Array:
    """Draw slots - 1 other markets of the first one's session without replacement, -1 where it has no more."""
    session = tape.market_session[first]
    base, count = tape.session_first_market[session], tape.session_markets[session]
    chosen = [first - base]  # kept sorted
    drawn = []
    for i in range(slots - 1):
        pick = _floor(draw[i], count - 1 - i)
        for taken in chosen:
            pick = pick + (pick >= taken)
        exists = i + 1 < count
        drawn.append(jnp.where(exists, base + pick, -1))
        pick = jnp.where(exists, pick, jnp.iinfo(jnp.int32).max)
        ordered = []
        for taken in chosen:
            ordered.append(jnp.minimum(taken, pick))
            pick = jnp.maximum(taken, pick)
        chosen = [*ordered, pick]
    return jnp.stack(drawn) if drawn else jnp.zeros((0,), jnp.int32)


def _floor(draw: jax.Array, count: jax.Array) -> jax.Array:
    """Turn a draw in [0, 1) into 0 .. count - 1 (0 for an empty range); float32 rounding never reaches count."""
    return jnp.clip((draw * count).astype(jnp.int32), 0, jnp.maximum(count - 1, 0))


def last_change(tape: Tape, markets: jax.Array) -> jax.Array:
    """Find when the last change of any of these markets (i32[M]) is, i32[] ms since the session's start."""
    track = jnp.maximum(markets, 0)
    return jnp.where(markets >= 0, tape.track[track, LAST_MS], 0).max()


def next_change(tape: Tape, markets: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Find each market's next row (i32[M], itself where there is none) and its time (END_OF_TIME where there is none)."""
    track = jnp.maximum(markets, 0)
    begin, length = tape.track[track, START], tape.track[track, LENGTH]
    following = jnp.where(row == NO_ROW, begin, row + 1)
    exists = (markets >= 0) & (following < begin + length)
    return jnp.where(exists, following, row), jnp.where(exists, tape.time_ms[following], jnp.iinfo(jnp.int32).max)
