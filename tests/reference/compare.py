"""The fast environment against the oracle: the same random actions through both, and every field equal at every step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kalshi_jax import EnvParams, MarketAgnosticKalshiEnv
from kalshi_jax.tape import Tape, is_closed, is_settled
from loaders import SessionConfig, load_tape
from tests.reference.books import DEPTH, DOLLAR, SIDES, VOID, Session, read_closes, read_session
from tests.reference.environment import ReferenceEnv

REWARD_TOLERANCE = 2e-6  # rewards are float32 in the fast environment; everything else is an integer and equal


@dataclass(frozen=True)
class Source:
    """The same recordings, read by the loader and by the oracle."""

    tape: Tape
    tickers: list[str]  # of the tape's markets
    sessions: list[Session]  # as the oracle reads them, in the tape's order
    names: list[str]  # of the sessions


@dataclass(frozen=True)
class Setting:
    """What one comparison runs with; money in 0.01 cent."""

    slots: int = 1
    orders_per_market: int = 1
    order_sizes: tuple[int, ...] = (10,)
    decision_interval_ms: int = 0
    hold_cancels: bool = True
    mark: str = "mid"
    initial_cash: int = 10_000 * DOLLAR
    maker_rate: int = 0
    taker_flat: int = 0
    maker_flat: int = 0
    episodes: int = 40
    steps: int = 200
    seed: int = 0
    wild: float = 0.05  # share of actions that are any number, legal or not, in range or not
    queue_model: str = "risk_averse"
    queue_exponent: int = 2
    remembered_levels: int = 4
    latency_ms: int = 0
    certain_fill: str = "whole"
    taker_rate: int | None = None  # None: the markets' own, which the oracle takes for the usual one
    near_end: float = 0.0  # share of episodes that begin shortly before the last row of their first market

    def fast(self, tape: Tape) -> tuple[MarketAgnosticKalshiEnv, EnvParams]:
        """Make the fast environment and its parameters."""
        env = MarketAgnosticKalshiEnv(
            max_markets=self.slots,
            orders_per_market=self.orders_per_market,
            order_sizes=self.order_sizes,
            remembered_levels=self.remembered_levels,
        )
        params = env.make_params(
            tape,
            episode_length=self.steps,
            decision_interval_ms=self.decision_interval_ms,
            mark=self.mark,
            initial_cash=self.initial_cash / DOLLAR,
            taker_rate=self.taker_rate,
            maker_rate=self.maker_rate,
            taker_flat_cents=self.taker_flat / 100,
            maker_flat_cents=self.maker_flat / 100,
            hold_cancels=self.hold_cancels,
            queue_model=self.queue_model,
            queue_exponent=self.queue_exponent,
            latency_ms=self.latency_ms,
            certain_fill=self.certain_fill,
        )
        return env, params

    def slow(self) -> ReferenceEnv:
        """Make the oracle."""
        return ReferenceEnv(
            decision_interval_ms=self.decision_interval_ms,
            episode_length=self.steps,
            order_sizes=self.order_sizes,
            orders_per_market=self.orders_per_market,
            hold_cancels=self.hold_cancels,
            mark=self.mark,
            initial_cash=self.initial_cash,
            taker_rate=700 if self.taker_rate is None else self.taker_rate,
            maker_rate=self.maker_rate,
            taker_flat=self.taker_flat,
            maker_flat=self.maker_flat,
            queue_model=self.queue_model,
            queue_exponent=self.queue_exponent,
            remembered_levels=self.remembered_levels,
            latency_ms=self.latency_ms,
            certain_fill=self.certain_fill,
        )


@dataclass(frozen=True)
class Episodes:
    """Where E episodes begin, as arrays."""

    session: np.ndarray  # i32[E]
    markets: np.ndarray  # i32[E, M], markets of the tape, -1 for an unused slot
    start_ms: np.ndarray  # i32[E]


@dataclass
class Tally:
    """What a comparison has seen, to show that it was not empty. Unless it says otherwise, counts are of episodes."""

    episodes: int = 0
    steps: int = 0  # steps
    trades: int = 0  # orders filled
    taker_contracts: int = 0  # contracts
    maker_contracts: int = 0  # contracts
    refused: int = 0  # orders
    resting: int = 0  # orders, each counted at every step
    restarted: int = 0  # with a resting order that a restart cancelled
    results: Counter[str] = field(default_factory=Counter)  # with a holding when its market closed, by result
    ends: dict[str, int] = field(default_factory=lambda: {"terminated": 0, "truncated": 0})


def load(paths: list[Path], metadata: Path | None = None) -> Source:
    """Read recordings twice, closed by a metadata file if there is one; sessions are named after their files."""
    tape, index = load_tape([str(path) for path in paths], SessionConfig(metadata=metadata))
    named = {path.name.split(".")[0]: path for path in paths}
    closes = read_closes(metadata) if metadata else None
    sessions = [read_session(named[session.session_id], closes) for session in index.sessions]
    return Source(tape, list(index.tickers), sessions, [session.session_id for session in index.sessions])


def check_rows(source: Source) -> int:
    """Demand equal times, displayed books and marks in every row of every market; returns the number of rows."""
    tape = jax.tree.map(np.asarray, source.tape)
    checked = 0
    for market, ticker in enumerate(source.tickers):
        oracle = source.sessions[int(tape.market_session[market])].markets[ticker]
        rows = slice(tape.track_start[market], tape.track_start[market] + tape.track_length[market])
        where = f"market {market} ({ticker})"
        np.testing.assert_array_equal(tape.time_ms[rows], oracle.times, f"times of {where}")
        np.testing.assert_array_equal(tape.mark[rows], oracle.quoted, f"marks of {where}")
        levels = np.zeros((len(oracle.times), 2, DEPTH, 2), np.int64)
        for row, book in enumerate(oracle.shown):
            for s, side in enumerate(SIDES):
                if book[side]:
                    levels[row, s, : len(book[side])] = book[side]
        np.testing.assert_array_equal(tape.price[rows], levels[..., 0], f"prices of {where}")
        np.testing.assert_array_equal(tape.size[rows], levels[..., 1], f"sizes of {where}")
        checked += len(oracle.times)
    return checked


def compare(source: Source, sessions: Sequence[int], setting: Setting) -> Tally:
    """Run both environments on episodes of these sessions and demand equality.

    Raises:
        AssertionError: they differ; the message has the first difference, the action and both accounts.
    """
    episodes = pick_episodes(source, sessions, setting)
    actions, history = drive(source, setting, episodes)
    tally = Tally()
    for episode in range(setting.episodes):
        follow(source, setting, episodes, episode, actions[:, episode], history, tally)
    return tally


def follow(
    source: Source,
    setting: Setting,
    episodes: Episodes,
    episode: int,
    actions: np.ndarray,
    history: list[dict[str, np.ndarray]],
    tally: Tally,
) -> None:
    """Replay one episode in the oracle beside what the fast environment did, until it ends."""
    markets = source.sessions[episodes.session[episode]].markets
    tickers = [source.tickers[m] if m >= 0 else None for m in episodes.markets[episode]]
    env = setting.slow()
    start_ms = int(episodes.start_ms[episode])
    after = env.start([markets[ticker] if ticker else None for ticker in tickers], start_ms)
    place = f"{setting}\nepisode {episode}: session {episodes.session[episode]}, markets {tickers}, start {start_ms} ms"
    tally.episodes += 1
    held: set[str] = set()
    restarted = False
    for step in range(setting.steps + 1):
        if step:
            before, after = after, env.step(actions[step - 1].tolist())
            closing = [slot for slot, closed in enumerate(after["closed"]) if closed and not before["closed"][slot]]
            held |= {name_of(env.markets[slot].result) for slot in closing if before["positions"][slot]}
            restarted |= bool(env.restarted & {slot for slot, orders in enumerate(before["orders"]) if any(orders)})
            tally.steps += 1
            tally.trades += after["trades"]
            tally.taker_contracts += after["taker_contracts"]
            tally.maker_contracts += after["maker_contracts"]
            tally.refused += after["refused"]
            tally.resting += sum(order is not None for slot in after["orders"] for order in slot)
        fast, slow = as_fast({name: all_of[episode] for name, all_of in history[step].items()}), as_slow(env, after)
        for name in slow.keys() & fast.keys() if step == 0 else slow:
            close = name == "reward" and abs(fast[name] - slow[name]) <= REWARD_TOLERANCE
            if fast[name] != slow[name] and not close:
                raise AssertionError(
                    f"{place}\nstep {step}, now {after['now_ms']} ms, {name}:\n  fast   {fast[name]}\n  oracle {slow[name]}\n"
                    f"action {actions[step - 1].tolist() if step else None}\n"
                    f"oracle before {before if step else None}\noracle after  {after}\nfast after    {fast}"
                )
        if step and (after["terminated"] or after["truncated"]):
            tally.restarted += restarted
            tally.results.update(held)
            tally.ends["terminated"] += after["terminated"]
            tally.ends["truncated"] += after["truncated"]
            return


def name_of(result: int | None) -> str:
    """Name a result: yes, no, scalar, void or unknown."""
    return {None: "unknown", VOID: "void", 0: "no", DOLLAR: "yes"}.get(result, "scalar")


def pick_episodes(source: Source, sessions: Sequence[int], setting: Setting) -> Episodes:
    """Take sessions in turn; draw some of their markets in random order and a beginning: at a change, at any moment, or so that
    the first market's last row is within the episode.
    """
    rng = np.random.default_rng(setting.seed)
    first = np.asarray(source.tape.session_first_market)
    picked = []
    for episode in range(setting.episodes):
        session = sessions[episode % len(sessions)]
        tickers = list(source.sessions[session].markets)
        chosen = rng.permutation(len(tickers))[: setting.slots]
        markets = np.full(setting.slots, -1, np.int32)
        markets[rng.permutation(setting.slots)[: len(chosen)]] = first[session] + chosen
        times = source.sessions[session].markets[tickers[chosen[0]]].times
        if rng.random() < setting.near_end:
            reach = rng.integers(1, setting.steps)  # steps before the market's last row, about
            at = times[-1] - reach * setting.decision_interval_ms
            start = at if setting.decision_interval_ms else times[max(len(times) - 1 - reach, 0)]
            picked.append((session, markets, max(start, times[0])))
            continue
        at_change, any_moment = times[rng.integers(len(times))], int(rng.integers(times[-1] + 1))
        picked.append((session, markets, at_change if rng.random() < 0.5 else any_moment))
    of_session, slots, starts = zip(*picked, strict=True)
    return Episodes(np.asarray(of_session), np.asarray(slots), np.asarray(starts, np.int32))


def seen(env: MarketAgnosticKalshiEnv, params: EnvParams, state: Any) -> dict[str, jax.Array]:
    """Collect what is compared of one state of the fast environment."""
    return {
        "now_ms": state.now_ms,
        "cash": state.ledger.cash,
        "positions": state.ledger.position,
        "cost_basis": state.ledger.cost_basis,
        "realized_pnl": state.ledger.realized_pnl,
        "fees_paid": state.ledger.fees_paid,
        "value": state.value,
        "price": state.orders.price,
        "direction": state.orders.direction,
        "remaining": state.orders.remaining,
        "filled": state.orders.filled,
        "front": state.orders.front,
        "closed": is_closed(params.tape, state.markets, state.row),
        "settled": is_settled(params.tape, state.markets, state.row),
        "mask": env.observation(state, params).action_mask,
    }


@partial(jax.jit, static_argnums=0)
def begin_all(env: MarketAgnosticKalshiEnv, params: EnvParams, markets: jax.Array, start_ms: jax.Array) -> Any:
    """Start E episodes of the fast environment."""

    def begin(markets: jax.Array, start_ms: jax.Array) -> Any:
        _, state = env.start(params, markets, start_ms)
        return state, seen(env, params, state)

    return jax.vmap(begin)(markets, start_ms)


@partial(jax.jit, static_argnums=0)
def step_all(env: MarketAgnosticKalshiEnv, params: EnvParams, states: Any, actions: jax.Array) -> Any:
    """Step E episodes of the fast environment, without auto-reset."""

    def step(state: Any, action: jax.Array) -> Any:
        state, reward, terminated, truncated, info = env.transition(state, action, params)
        outcome = {"reward": reward, "terminated": terminated, "truncated": truncated}
        counts = {name: info[name] for name in ("trades", "taker_contracts", "maker_contracts", "refused")}
        return state, seen(env, params, state) | outcome | counts

    return jax.vmap(step)(states, actions)


def drive(source: Source, setting: Setting, episodes: Episodes) -> tuple[np.ndarray, list[dict[str, np.ndarray]]]:
    """Run the fast environment with random actions.

    Returns:
        Actions i32[T, E, M, O], and what was seen at the start and after each step, each array with a leading axis E.
    """
    env, params = setting.fast(source.tape)
    rng = np.random.default_rng(setting.seed + 1)
    states, now = begin_all(env, params, jnp.asarray(episodes.markets), jnp.asarray(episodes.start_ms))
    history: list[dict[str, np.ndarray]] = [jax.device_get(now)]
    actions: list[np.ndarray] = []
    for _ in range(setting.steps):
        actions.append(draw(rng, history[-1]["mask"], actions[-1] if actions else None, setting.wild))
        states, now = step_all(env, params, states, jnp.asarray(actions[-1]))
        history.append(jax.device_get(now))
    return np.stack(actions), history


def draw(rng: np.random.Generator, mask: np.ndarray, last: np.ndarray | None, wild: float) -> np.ndarray:
    """Draw actions i32[E, M, O] from masks bool[E, M, O, A]: legal ones, half of them the last ones again where still legal."""
    action = np.argmax(np.where(mask, rng.random(mask.shape), -1.0), axis=-1)
    if last is not None:
        known = np.clip(last, 0, mask.shape[-1] - 1)
        legal = np.take_along_axis(mask, known[..., None], axis=-1)[..., 0]
        action = np.where(legal & (rng.random(action.shape) < 0.5), known, action)
    anything = rng.integers(-1, mask.shape[-1] + 2, action.shape)
    return np.where(rng.random(action.shape) < wild, anything, action).astype(np.int32)


def as_fast(now: dict[str, np.ndarray]) -> dict[str, Any]:
    """Write what was seen of one fast episode in the oracle's words."""
    plain = {name: value.tolist() for name, value in now.items()}
    names = ("price", "direction", "remaining", "filled", "front")
    columns = [np.asarray(now[name]) for name in names]
    plain["orders"] = [
        [
            {"side": "yes" if d > 0 else "no", "price": p, "remaining": r, "filled": f, "front": q} if p > 0 else None
            for p, d, r, f, q in zip(*(column[slot].tolist() for column in columns), strict=True)
        ]
        for slot in range(columns[0].shape[0])
    ]
    return plain


def as_slow(env: ReferenceEnv, after: dict[str, Any]) -> dict[str, Any]:
    """Choose what is compared of the oracle: its report, and the mask of legal actions of every order slot."""
    mask = [[legal] * env.orders_per_market for legal in env.legal_actions()]
    return {name: value for name, value in after.items() if name != "rows"} | {"mask": mask}
