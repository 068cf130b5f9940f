"""The Tape: recorded order books as packed device arrays, and the questions one may ask of them in O(1).

Everything a step needs of the past or the future is here, so that an environment state is only cursors and any
moment of any market can be a beginning. `loaders` builds it; it travels in `EnvParams`, never closed over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import struct

from kalshi_jax.batching import is_traced, over_markets

_Tree = TypeVar("_Tree")
CENT = 100  # money and prices are integers of 0.01 cent
DOLLAR = 10_000
START, LENGTH, CELL, SHIFT, LAST_MS = range(5)  # columns of Tape.track
ROW, SIZE = 0, 1  # columns of Tape.entries and of Tape.falls
FALL, LOWER = 2, 3  # of Tape.entries; LOWER of Tape.falls too
UNEXPLAINED, TRADED = 2, 4  # of Tape.falls
PRICE, ENTRY = 0, 2  # columns of Tape.levels, with SIZE between them
MARK, RESTART, FEATURES = slice(2, 4), 4, 6  # columns of Tape.record, after a best bid a side; features are its last
YES, NO = 0, 1  # the side axis S: bids for YES, bids for NO
LINE = 16  # words of a cache line
BLOCK = 1024  # records that a CPU's second cache holds beside much else
NOT_FINITE = 2**31 - 1  # bits of no finite float32
SCAN = 4  # positions of a track that are read at once; every tape has as many to spare at its end
NO_ROW = 0  # row 0 of every tape is an empty book: what a market shows before its first change
END_OF_TIME = 2**31 - 1  # time of padded rows, row of sentinel entries, close time of a market that has none
VOID, NO_RESULT, OPEN = -1, -2, -3  # in place of a result: returned at cost; closed, not known; not closed by the end


@struct.dataclass
class Tape:
    """Order books of many markets in many sessions. Shapes: see `kalshi_jax`; C is the number of grid cells.

    A *row* is one atomic change of one market: all its deltas of one millisecond, and the book after them. Rows lie
    market by market, in time order. A *track* is a time-ordered run of `time_ms`: the rows of a market (tracks 0 to
    n_markets - 1), or the distinct change times over all markets of a session (the tracks after those).
    An *entry* is one change of one price level of a market. Entries of a level lie together in time order and end with a
    sentinel (whose ROW is END_OF_TIME).
    """

    # -- tracks
    time_ms: jax.Array  # i32[N], ms since the session's start; rows first (0..R-1), then the session tracks
    track: jax.Array  # i32[n_markets + n_sessions, 5]: first position, positions, first cell, shift, time of the last
    rhythm: jax.Array  # f32[N - R, 4], of the positions of session tracks: see `features.rhythm_of`
    grid: (
        jax.Array
    )  # i32[C], positions of the track, from its start, before a cell of 2**shift ms; one closing cell each

    # -- rows; what is read together lies together, for a step waits for memory more than for anything else
    # levels: bids, best first: price (0.01 cent), whole contracts (the fraction is floored) and the entry of the level's last
    # change up to the row; all 0, a sentinel's entry too, where there is no level.
    # record: best bid of each side (0: none); the mark: best YES bid (0 if missing) and ask (10,000), of the last quoted row if
    # both are missing; the market's next row that cancels resting orders, for its book begins anew or it closes; 0; and the
    # bits of 42 features, f32: see `features.row_features`.
    levels: jax.Array  # i32[R, S, K, 3]
    record: jax.Array  # i32[R, 48]
    best_max: jax.Array  # i16[L, R, S], sparse table: highest best bid over rows r .. r + 2**l - 1 of the market

    # -- entries: the row of the change, whole contracts at the level after it, the level's next fall, and its next fall that
    # leaves fewer contracts or that trades have a part in
    # falls: entries with fewer contracts than the one before, and each level's sentinel: row, whole contracts after it, those of
    # the decrease that no trade print explains, LOWER as in entries, and those that prints explain
    entries: jax.Array  # i32[N_entries, 4]
    falls: jax.Array  # i32[N_falls, 5], in the order of the entries: a level's lie together

    # -- trades: what trade prints explain of decreases, by market side, in time order and best price first
    trade_count: (
        jax.Array
    )  # i32[R, S], trades up to this row, after those of market sides before; [1, S] if there are none
    trades: (
        jax.Array
    )  # i32[N_trades, 3], the bid that was hit (0.01 cent), whole contracts, and the next at a lower bid

    # -- markets and sessions
    market_session: jax.Array  # i32[n_markets]
    market_close_ms: (
        jax.Array
    )  # i32[n_markets], scheduled close in ms since the session's start, END_OF_TIME if not known
    market_result: jax.Array  # i32[n_markets], what a YES pays at the last row, 0.01 cent; or VOID, NO_RESULT, OPEN
    market_fee: jax.Array  # i32[n_markets, 4], taker rate, taker flat, maker rate, maker flat: see `Fees`
    session_first_market: jax.Array  # i32[n_sessions], markets of a session are contiguous
    session_markets: jax.Array  # i32[n_sessions]

    bisections: int = struct.field(pytree_node=False, default=0)  # of a grid cell, until SCAN positions are left

    @classmethod
    def array_names(cls) -> list[str]:
        """Name the arrays, in their order."""
        return [field.name for field in fields(cls) if field.metadata.get("pytree_node", True)]

    @property
    def price(self) -> jax.Array:
        """Bid prices, i32[R, S, K]; this and the next are columns, for the host: a step reads what they are columns of."""
        return self.levels[..., PRICE]

    @property
    def size(self) -> jax.Array:
        """Whole contracts at the levels, i32[R, S, K]."""
        return self.levels[..., SIZE]

    @property
    def entry(self) -> jax.Array:
        """The levels' last changes, i32[R, S, K]."""
        return self.levels[..., ENTRY]

    @property
    def mark(self) -> jax.Array:
        """Best YES bid and ask, i32[R, 2]."""
        return self.record[:, MARK]

    @property
    def restart(self) -> jax.Array:
        """Next rows that cancel resting orders, i32[R]."""
        return self.record[:, RESTART]

    @property
    def track_start(self) -> jax.Array:
        """First position of each track in time_ms, i32[n_markets + n_sessions]."""
        return self.track[:, START]

    @property
    def track_length(self) -> jax.Array:
        """Positions in each track, i32[n_markets + n_sessions]."""
        return self.track[:, LENGTH]

    @property
    def num_markets(self) -> int:
        """Number of markets, counted once per session that recorded them."""
        return self.market_session.shape[0]

    @property
    def num_sessions(self) -> int:
        """Number of sessions."""
        return self.session_first_market.shape[0]


def last_row(tape: Tape, market: jax.Array) -> jax.Array:
    """Find the last row of markets (i32[...]; of market 0 for -1), i32[...]."""
    track = jnp.maximum(market, 0)
    return tape.track[track, START] + tape.track[track, LENGTH] - 1


def is_closed(tape: Tape, market: jax.Array, row: jax.Array) -> jax.Array:
    """Tell which markets (i32[M]) have closed at their rows (i32[M]), bool[M]; unused slots never have."""
    return (market >= 0) & (row == last_row(tape, market)) & (tape.market_result[market] != OPEN)


def is_settled(tape: Tape, market: jax.Array, row: jax.Array) -> jax.Array:
    """Tell which markets (i32[M]) have closed with a known result, bool[M]."""
    return is_closed(tape, market, row) & (tape.market_result[market] != NO_RESULT)


def locate(tape: Tape, track: jax.Array, time_ms: jax.Array) -> jax.Array:
    """Count the positions of a track at or before a time.

    Args:
        tape: the tape.
        track: i32[...], track numbers.
        time_ms: i32[...], ms since the session's start; any integer.

    Returns:
        i32[...], between 0 (before the first) and `track_length[track]`.
    """

    def narrow(track: jax.Array, time_ms: jax.Array) -> tuple[jax.Array, ...]:
        start, length, first_cell, shift, last_ms = jnp.moveaxis(tape.track[track], -1, 0)
        inside = jnp.clip(time_ms, 0, last_ms)
        cell = first_cell + (inside >> shift)
        low = tape.grid[cell]
        if tape.bisections:
            high = tape.grid[cell + 1]
            for _ in range(tape.bisections):
                middle = (low + high) >> 1
                past = (low < high) & (tape.time_ms[start + middle] <= inside)
                low, high = jnp.where(past, middle + 1, low), jnp.where(past, high, jnp.minimum(middle, high))
        return inside, low, start + low, length - low

    inside, low, first, left = once(tape, narrow, track, time_ms)
    times = slices(tape.time_ms, first, SCAN)
    there = (times <= inside[..., None]) & (jnp.arange(SCAN) < left[..., None])
    return jnp.where(time_ms < 0, 0, low + there.sum(-1))


def once(tape: Tape, compute: Callable[..., _Tree], *operands: Any) -> _Tree:
    """Give `compute(*operands)`, and have the compiler do so once, not again inside every loop that uses the result.

    XLA fuses what it can, and would rather repeat a hundred operations for each of 52 features than store their result. On a CPU
    it drops optimization barriers before it fuses, but it cannot see through a condition on what the tape holds. Masks pass as
    words: of a mask in memory XLA's CPU compiler makes loops that go bit by bit.
    """
    if not is_traced(operands):
        return compute(*operands)
    compute = jax.jit(compute)  # traced once

    def words(*operands: Any) -> _Tree:
        return jax.tree.map(lambda x: x.astype(jnp.int32) if x.dtype == bool else x, compute(*operands))

    def nothing(*operands: Any) -> _Tree:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(words, *operands))

    def on_cpu(*operands: Any) -> _Tree:
        found = jax.lax.cond(tape.track[0, START] >= 0, words, nothing, *operands)
        shapes = jax.eval_shape(compute, *operands)
        return jax.tree.map(lambda x, word: word != 0 if x.dtype == bool else word, shapes, found)

    def elsewhere(*operands: Any) -> _Tree:
        return jax.lax.optimization_barrier(compute(*operands))

    return jax.lax.platform_dependent(*operands, cpu=on_cpu, default=elsewhere)


@struct.dataclass
class Quote:
    """What a row quotes: the head of its record."""

    row: jax.Array  # i32[...]
    best: jax.Array  # i32[..., S], best bids in 0.01 cent, 0 where there is none
    mark: jax.Array  # i32[..., 2], best YES bid and ask, of the last quoted row where both are missing
    restart: jax.Array  # i32[...], the market's next row that cancels resting orders

    def bid(self, side: jax.Array) -> jax.Array:
        """Choose the best bids of sides (i32[M, O]) from those of rows i32[M], i32[M, O]."""
        return jnp.where(side == YES, self.best[:, YES, None], self.best[:, NO, None])


def quote_at(tape: Tape, row: jax.Array) -> Quote:
    """Read what rows (i32[...]) quote."""
    return _quote(row, once(tape, lambda row: tape.record[row, :FEATURES], row))


def _quote(row: jax.Array, words: jax.Array) -> Quote:
    return Quote(row, words[..., :2], words[..., MARK], words[..., RESTART])


def record_at(tape: Tape, row: jax.Array) -> tuple[Quote, jax.Array]:
    """Read the whole records of rows (i32[M]): what they quote, and all words, i32[M, 48].

    On a CPU a loop that reads many neighbours for each of many rows waits for memory again and again. One that reads a single
    word of each cache line, and does nothing else, has many reads on their way at once: it goes first, for as many rows at a
    time as the second cache holds.
    """
    words = _records_at(row, tape) if is_traced(row) else tape.record[row]
    return _quote(row, words), words


@over_markets
def _records_at(row: jax.Array, tape: Tape) -> jax.Array:
    def read(row: jax.Array) -> jax.Array:
        return tape.record[_fetch(tape, row)]

    def in_blocks(row: jax.Array) -> jax.Array:
        blocks = -(-len(row) // BLOCK)
        each = -(-len(row) // blocks)
        padded = jnp.pad(row, (0, blocks * each - len(row)))  # with NO_ROW
        return jax.lax.map(read, padded.reshape(blocks, each)).reshape(blocks * each, -1)[: len(row)]

    return jax.lax.platform_dependent(row, cpu=in_blocks, default=lambda row: tape.record[row])


def levels_at(tape: Tape, row: jax.Array, side: jax.Array, count: int) -> jax.Array:
    """Read the best `count` bids of sides (i32[...]) at rows (i32[...]), i32[..., count, 3]; CPUs are quicker with one index."""
    rows, sides, *of_side = tape.levels.shape
    return tape.levels.reshape(rows * sides, *of_side)[row * sides + side, :count]


def features_of(record: jax.Array, columns: slice) -> jax.Array:
    """Give some of the 42 features in records (i32[..., 48]), f32[..., columns]."""
    return jax.lax.bitcast_convert_type(record[..., FEATURES:][..., columns], jnp.float32)


def _fetch(tape: Tape, row: jax.Array) -> jax.Array:
    def fetch(row: jax.Array) -> jax.Array:
        words = [tape.record[row, word] for word in range(0, tape.record.shape[1], LINE)]
        never = sum(word == NOT_FINITE for word in words) > 0  # no word is, but compilers do not know
        return jnp.where(never, NO_ROW, row)

    return once(tape, fetch, row)


def slices(values: jax.Array, start: jax.Array, count: int) -> jax.Array:
    """Read `count` neighbours from each `start` (i32[...]) on; the last slice that fits, where one would pass the end.

    Returns:
        [..., count, *values.shape[1:]]; one contiguous read each, which costs little more than a single value.
    """
    read = jax.vmap(lambda at: jax.lax.dynamic_slice_in_dim(values, at, count))
    return read(start.reshape(-1)).reshape(*start.shape, count, *values.shape[1:])


def row_at(tape: Tape, market: jax.Array, time_ms: jax.Array) -> jax.Array:
    """Find the row that holds a market's book at a time: `NO_ROW` before its first change and for market -1."""
    market, time_ms = jnp.broadcast_arrays(jnp.asarray(market), jnp.asarray(time_ms))
    return _row_at((market.reshape(-1), time_ms.reshape(-1)), tape).reshape(market.shape)


@over_markets
def _row_at(own: tuple[jax.Array, jax.Array], tape: Tape) -> jax.Array:
    def find(market: jax.Array, time_ms: jax.Array) -> jax.Array:
        track = jnp.maximum(market, 0)
        count = locate(tape, track, time_ms)
        return jnp.where((market >= 0) & (count > 0), tape.track[track, START] + count - 1, NO_ROW)

    return once(tape, find, *own)


def first_reach(
    tape: Tape, side: jax.Array, after: jax.Array, upto: jax.Array, price: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Find the first of rows `after + 1 .. upto` of one market whose best bid is at least a price.

    The sparse table is descended from its widest spans: one that has no such bid is passed over whole.

    Args:
        tape: the tape.
        side: i32[...], YES or NO.
        after: i32[...], a row.
        upto: i32[...], a row of the same market.
        price: i32[...], 0.01 cent.

    Returns:
        i32[...], the row, `upto + 1` or more if there is none; and bool[...], there is one.
    """
    levels = tape.best_max.shape[0]

    def descend(i: jax.Array, row: jax.Array) -> jax.Array:
        span = 1 << (levels - 1 - i)
        passes = (row + span - 1 <= upto) & (tape.best_max[levels - 1 - i, row, side] < price)
        return row + jnp.where(passes, span, 0)

    after, side, upto, price = jnp.broadcast_arrays(after, side, upto, price)
    row = jax.lax.fori_loop(0, levels, descend, after + 1)
    return row, (row <= upto) & (tape.best_max[0, row, side] >= price)


def highest_bid(tape: Tape, side: jax.Array, after: jax.Array, upto: jax.Array) -> jax.Array:
    """Find the highest best bid over rows `after + 1 .. upto` of one market, by two look-ups of the sparse table.

    Args:
        tape: the tape.
        side: i32[...], YES or NO.
        after: i32[...], a row.
        upto: i32[...], a row of the same market.

    Returns:
        i32[...], 0.01 cent; 0 where the range is empty or the side had no bid in it.
    """
    count = upto - after
    level = jnp.clip(31 - jax.lax.clz(jnp.maximum(count, 1)), 0, tape.best_max.shape[0] - 1)
    left = tape.best_max[level, after + 1, side]
    right = tape.best_max[level, upto - (1 << level) + 1, side]
    return jnp.where(count > 0, jnp.maximum(left, right).astype(jnp.int32), 0)
