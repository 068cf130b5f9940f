"""The environment: joins tape, orders, fills, ledger, features and reward into one pure step."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from gymnax.environments import environment

from kalshi_jax.actions import Intent, action_names, decode, num_actions
from kalshi_jax.attribution import Account, Attribution, attribute
from kalshi_jax.batching import draw_where
from kalshi_jax.episodes import last_change, next_change, sample_episode
from kalshi_jax.features import (
    Observation,
    build_observation,
    feature_names,
    portfolio_names,
)
from kalshi_jax.fills import Met, meet_rows, reserved_cash
from kalshi_jax.ledger import Ledger, open_account, portfolio_value, settle
from kalshi_jax.orders import Placed, arrive, keep_orders, limit_orders, place_orders, send_orders
from kalshi_jax.params import make_params
from kalshi_jax.reward import marks, new_shaping, no_parts, reward, shape
from kalshi_jax.spaces import Choices, Observations
from kalshi_jax.state import EnvParams, EnvState, Fees, no_orders, nothing_taken
from kalshi_jax.tape import (
    DOLLAR,
    END_OF_TIME,
    Quote,
    is_closed,
    is_settled,
    once,
    quote_at,
    record_at,
    row_at,
)

MAX_ORDER_SIZE = 100_000
RESTARTS = 64  # one episode in so many may end in a step before all are drawn anew
Info = dict[str, Any]


class MarketAgnosticKalshiEnv(environment.Environment[EnvState, EnvParams]):
    """Trade recorded Kalshi order books; the agent never learns which market it trades.

    Observation: `Observation(market f32[M, F], portfolio f32[P], action_mask bool[M, O, A])`.
    Action: i32[M, O], per market slot and order slot HOLD or one of eight orders per size (`kalshi_jax.Action`).
    Reward: change of portfolio value x 0.01 per dollar, less 0.001 per order filled above five in one step, in [-2, 2].
    Terminated: portfolio worth nothing. Truncated: `episode_length` steps, or no market has a further change.

    ```python
    env = MarketAgnosticKalshiEnv(max_markets=1)
    params = env.make_params(tape, decision_interval_ms=1000)
    obs, state = env.reset(jax.random.key(0), params)
    obs, state, reward, terminated, truncated, info = env.step(jax.random.key(1), state, action, params)
    ```
    """

    def __init__(
        self,
        max_markets: int = 5,
        orders_per_market: int = 1,
        order_sizes: tuple[int, ...] = (10,),
        temporal_features: bool = True,
        sequence_features: bool = True,
        remembered_levels: int | None = None,
    ):
        """Choose what is static; everything else is in the parameters.

        Args:
            max_markets: market slots M, at least 1.
            orders_per_market: orders a step may place in one market.
            order_sizes: contracts per order; each size adds eight actions.
            temporal_features: include tier 2.
            sequence_features: include tier 3.
            remembered_levels: how many of a market's best levels a NOW order may take from, and how many levels that it has taken
                from, and the recording has not refreshed, an account remembers; an order goes no deeper than there is room. None:
                4 for orders of up to 20 contracts, 8 up to 100, 32 beyond.

        Raises:
            ValueError: a number outside its range.
        """
        if remembered_levels is None:
            largest = max(order_sizes, default=0)
            remembered_levels = 4 if largest <= 20 else 8 if largest <= 100 else 32
        if max_markets < 1 or orders_per_market < 1 or remembered_levels < 1:
            raise ValueError(
                f"max_markets={max_markets}, orders_per_market={orders_per_market}, remembered_levels={remembered_levels}: "
                "each must be at least 1"
            )
        if not order_sizes or not all(1 <= size <= MAX_ORDER_SIZE for size in order_sizes):
            raise ValueError(f"order_sizes={order_sizes}: give one or more sizes of 1 to {MAX_ORDER_SIZE:,} contracts")
        self.max_markets = max_markets
        self.orders_per_market = orders_per_market
        self.order_sizes = tuple(order_sizes)
        self.temporal_features = temporal_features
        self.sequence_features = sequence_features
        self.remembered_levels = remembered_levels

    def _static(self) -> tuple[Any, ...]:
        return (type(self), *(value for _, value in sorted(vars(self).items())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MarketAgnosticKalshiEnv) and self._static() == other._static()

    def __hash__(self) -> int:
        return hash(self._static())

    # -- parameters

    @property
    def default_params(self) -> EnvParams:
        """Not available: an environment without a recording has nothing to replay."""
        raise ValueError("no default parameters: load a tape and pass params=env.make_params(tape) to reset and step")

    make_params = staticmethod(make_params)

    # -- the three functions that everything else is made of

    def initial_state(self, key: jax.Array, params: EnvParams) -> EnvState:
        """Draw an episode; the key is consumed."""
        return self._state_at(params, *sample_episode(key, params, self.max_markets))

    def restart(self, done: jax.Array, key: jax.Array, state: EnvState, params: EnvParams) -> EnvState:
        """Draw a new episode where one is `done` (bool[]), as gymnax does: from the second half of the split key.

        Of many episodes few end in the same step. On a CPU, `jax.vmap` therefore draws for those alone, as long as they are
        at most one in `RESTARTS`; the values are the same.
        """

        def draw(key: jax.Array, params: EnvParams) -> EnvState:
            return self.initial_state(jax.random.split(key)[1], params)

        return draw_where(draw, RESTARTS)(done, key, state, params)

    def transition(
        self, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[EnvState, jax.Array, jax.Array, jax.Array, Info]:
        """Place the orders of `action` (i32[M, O]), move to the next decision, and account for what happened.

        Returns:
            The state (no auto-reset), reward f32[], terminated bool[], truncated bool[], info.
        """
        return self.explain(state, action, params)[:5]

    def explain(
        self, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[EnvState, jax.Array, jax.Array, jax.Array, Info, Attribution]:
        """Do as `transition` does, and say where the change of value came from; dropped in a jitted program it costs nothing."""
        tape, fees = params.tape, _gather_fees(params.fees, state.markets)
        used, closed = state.markets >= 0, is_closed(tape, state.markets, state.row)
        intent = decode(jnp.asarray(action, jnp.int32), self.order_sizes, used)
        open_intent = replace(intent, size=jnp.where(closed[:, None], 0, intent.size))
        before = quote_at(tape, state.row)
        account, here, placed, met, lost, early = once(tape, self._act, state, before, open_intent, fees, params)

        now_ms, row = once(tape, self._advance, state, here.row, params)
        ledger, orders, taken, met_later = once(
            tape, meet_rows, params, account.ledger, account.orders, account.taken, here, row, fees
        )
        met += met_later
        settled = is_settled(tape, state.markets, row)
        paid_out = settle(ledger, settled, tape.market_result[state.markets])

        quote = quote_at(tape, row)
        mark = marks(quote, paid_out.position, params.mark)
        value = portfolio_value(paid_out, mark)
        trades = placed.taker_orders + met.orders
        change = value - state.value
        shaping, parts = state.shaping, no_parts()
        if state.shaping is not None:
            traded = ledger.position - state.ledger.position
            moved = mark - marks(before, state.ledger.position, params.mark)
            shaping, parts = shape(
                state.shaping, change, (traded * moved).sum(), state.ledger.position, intent, params.shaping_weights
            )
        step_reward, base, penalty = reward(change, trades, parts)
        following = replace(
            state,
            time=state.time + 1,
            now_ms=now_ms,
            row=row,
            ledger=paid_out,
            orders=orders,
            taken=taken,
            value=value,
            shaping=shaping,
        )
        unknown = is_closed(tape, state.markets, row) & ~settled & (paid_out.position != 0)
        info = {
            "portfolio_value": value / DOLLAR,
            "cash": paid_out.cash / DOLLAR,
            "fees": (paid_out.fees_paid - state.ledger.fees_paid).sum() / DOLLAR,
            "trades": trades,
            "taker_contracts": placed.taker_contracts,
            "maker_contracts": met.contracts,
            "refused": placed.refused + lost + (intent.size != open_intent.size).sum(),
            "resting": (orders.price > 0).sum(),
            "settled": settled.sum(),
            "unsettled": unknown.sum(),
            "reward_base": base,
            "reward_penalty": penalty,
            **{f"reward_{name}": part for name, part in parts.items()},
        }
        through = Account(state.ledger, early, account.ledger, ledger, paid_out)
        attribution = attribute(through, before, quote, params.mark)
        terminated = self.is_terminated(following, params)
        return following, step_reward, terminated, self.is_truncated(following, params), info, attribution

    def _act(
        self, state: EnvState, now: Quote, intent: Intent, fees: Fees, params: EnvParams
    ) -> tuple[EnvState, Quote, Placed, Met, jax.Array, Ledger]:
        """Cancel and place orders, at once or `latency_ms` later.

        Returns:
            The state with the account after that, the rows (i32[M]) at which it happened, what the new orders did, what resting
            orders got before, how many orders were lost on the way, i32[] (a book began anew, or the recording ended), and the
            ledger just before the new orders.
        """
        tape, zero = params.tape, jnp.zeros((), jnp.int32)
        orders, kept = keep_orders(state.orders, intent, now, params.hold_cancels)
        sent = send_orders(tape, now, intent, kept)
        ledger, taken, here, met, missing = state.ledger, state.taken, now, Met(zero, zero), zero
        if params.delayed:
            stay = orders
            sent = limit_orders(tape, state.row, ledger, taken, sent)
            arrival_ms = state.now_ms + params.latency_ms
            here = quote_at(tape, row_at(tape, state.markets, jnp.minimum(arrival_ms, state.end_ms)))
            ledger, orders, taken, met = meet_rows(params, ledger, state.orders, taken, now, here.row, fees)
            late = arrival_ms > state.end_ms
            lost = late | (now.restart <= here.row)
            missing = ((sent.intent.size > 0) & lost[:, None]).sum()
            sent = arrive(tape, here.row, sent, lost)
            gone = (stay.price == 0) & ~late
            cut = jnp.where(kept & ~late, jnp.minimum(orders.remaining, stay.remaining), orders.remaining)
            orders = replace(orders, price=jnp.where(gone, 0, orders.price), remaining=cut)
        early = ledger
        ledger, orders, taken, placed = place_orders(params, here, ledger, orders, taken, sent, fees)
        return replace(state, ledger=ledger, orders=orders, taken=taken), here, placed, met, missing, early

    def observation(self, state: EnvState, params: EnvParams) -> Observation:
        """Build what the agent sees of a state."""
        fees = _gather_fees(params.fees, state.markets)
        free_cash = state.ledger.cash - once(params.tape, reserved_cash, state.orders, fees).sum()
        quote, record = record_at(params.tape, state.row)
        mark = marks(quote, state.ledger.position, params.mark)
        return build_observation(
            params.tape,
            state,
            quote,
            record,
            free_cash,
            mark,
            params.initial_cash,
            params.episode_length,
            self.order_sizes,
            self.temporal_features,
            self.sequence_features,
        )

    # -- gymnax 1.x

    @partial(jax.jit, static_argnames=("self",))
    def start(self, params: EnvParams, markets: jax.Array, start_ms: jax.Array) -> tuple[Observation, EnvState]:
        """Begin at a chosen moment.

        Args:
            params: the parameters.
            markets: i32[M], markets of one session of the tape; -1 for an unused slot.
            start_ms: i32[], ms since the session's start.
        """
        state = self._state_at(params, jnp.asarray(markets, jnp.int32), jnp.asarray(start_ms, jnp.int32))
        return self.observation(state, params), state

    def reset_env(self, key: jax.Array, params: EnvParams) -> tuple[Observation, EnvState]:
        """Draw an episode and observe its beginning; the key is consumed."""
        state = self.initial_state(key, params)
        return self.observation(state, params), state

    def step_env(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams
    ) -> tuple[Observation, EnvState, jax.Array, jax.Array, Info]:
        """Step without auto-reset, as gymnax's own `step` expects it. The key is not used: a step is deterministic."""
        state, step_reward, terminated, _, info = self.transition(state, action, params)
        return self.observation(state, params), state, step_reward, terminated, info

    @partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: jax.Array, state: EnvState, action: jax.Array, params: EnvParams | None = None
    ) -> tuple[Observation, EnvState, jax.Array, jax.Array, jax.Array, Info]:
        """Step, and begin a new episode where one has ended; same values as gymnax's own `step`, at less cost.

        The state is chosen before it is observed, so a caller who drops `info["final_observation"]` inside a jitted program
        pays for one observation a step, not two.
        """
        if params is None:
            params = self.default_params
        ended, step_reward, terminated, truncated, info = once(params.tape, self.transition, state, action, params)
        state = self.restart(terminated | truncated, key, ended, params)
        info = {
            **info,
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": self.observation(ended, params),
        }
        return self.observation(state, params), state, step_reward, terminated, truncated, info

    def observe(self, key: jax.Array, state: EnvState, action: jax.Array | None, params: EnvParams) -> Observation:
        """Observe a state; key and action are not used."""
        return self.observation(state, params)

    def is_terminated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Tell whether the portfolio is worth nothing or every market of the episode has settled, bool[]."""
        settled = is_settled(params.tape, state.markets, state.row)
        return (state.value <= 0) | (settled | (state.markets < 0)).all()

    def is_truncated(self, state: EnvState, params: EnvParams) -> jax.Array:
        """Tell whether the episode's time or its recording is over before it has terminated, bool[]."""
        over = (state.time >= params.episode_length) | (state.now_ms >= state.end_ms)
        return over & ~self.is_terminated(state, params)

    @property
    def num_actions(self) -> int:
        """Actions of one order slot, A."""
        return num_actions(self.order_sizes)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """Names of the last axis of `Observation.market`."""
        return feature_names(self.temporal_features, self.sequence_features)

    @property
    def portfolio_names(self) -> tuple[str, ...]:
        """Names of `Observation.portfolio`."""
        return portfolio_names(self.max_markets, self.orders_per_market)

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the actions of one order slot."""
        return action_names(self.order_sizes)

    def action_space(self, params: EnvParams | None = None) -> Choices:
        """Give the space of actions, one of A per market and order slot."""
        return Choices(self.num_actions, (self.max_markets, self.orders_per_market))

    def observation_space(self, params: EnvParams | None = None) -> Observations:
        """Give the space of observations."""
        return Observations(
            market=(self.max_markets, len(self.feature_names)),
            portfolio=(len(self.portfolio_names),),
            action_mask=(self.max_markets, self.orders_per_market, self.num_actions),
        )

    # -- helpers

    def _state_at(self, params: EnvParams, markets: jax.Array, start_ms: jax.Array) -> EnvState:
        tape, slots = params.tape, self.max_markets
        zero = jnp.zeros((), jnp.int32)
        return EnvState(
            time=zero,
            now_ms=start_ms,
            end_ms=last_change(tape, markets),
            session=tape.market_session[jnp.maximum(markets.max(), 0)],
            markets=markets,
            row=row_at(tape, markets, start_ms),
            ledger=open_account(params.initial_cash, slots),
            orders=no_orders(slots, self.orders_per_market),
            taken=nothing_taken(slots, self.remembered_levels),
            value=params.initial_cash,
            shaping=new_shaping(slots) if params.shaped else None,
        )

    def _advance(self, state: EnvState, here: jax.Array, params: EnvParams) -> tuple[jax.Array, jax.Array]:
        """Find the time of the next decision, i32[], and every market's row then, i32[M]; orders were placed at rows `here`."""
        tape = params.tape
        if not params.event_clock:
            now_ms = state.now_ms + params.decision_interval_ms
            return now_ms, row_at(tape, state.markets, now_ms)
        if params.delayed:  # no earlier than the orders arrive, which may be at a change
            arrival_ms = state.now_ms + params.latency_ms
            _, time_ms = next_change(tape, state.markets, row_at(tape, state.markets, arrival_ms - 1))
            now_ms = jnp.maximum(jnp.minimum(time_ms.min(), state.end_ms), state.now_ms)
            return now_ms, row_at(tape, state.markets, now_ms)
        row, time_ms = next_change(tape, state.markets, here)
        earliest = time_ms.min()
        now_ms = jnp.where(earliest < END_OF_TIME, earliest, state.now_ms)
        return now_ms, jnp.where(time_ms == earliest, row, here)


def _gather_fees(fees: Fees, markets: jax.Array) -> Fees:
    return jax.tree.map(lambda x: x[jnp.maximum(markets, 0)], fees)
