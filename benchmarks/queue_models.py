"""Hold the queue models against the true queue: when and how much would a resting order really have filled?

A recording shows how much rests at a level, not who in the queue left it, so the environment must guess. The simulated exchange
knows. This program simulates sessions in which shadow orders (`loaders.shadows`) join the best bid of a side, and gives the same
orders to the environment itself: it starts at that moment, places one WAIT, and HOLDs for the horizon. Every queue model replays
the same recording twice, with trade prints and without.

    python benchmarks/queue_models.py
    python benchmarks/queue_models.py --source synthetic:sessions=40,tick=0.1 --json
    python benchmarks/queue_models.py --save benchmarks/results/queue_models.json
"""

from __future__ import annotations

import json
import platform
import sys
import time
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from kalshi_jax import Action, MarketAgnosticKalshiEnv
from kalshi_jax.state import EnvParams
from kalshi_jax.tape import CENT, DOLLAR, PRICE, SIZE, YES, Tape
from loaders.events import Events, Trades
from loaders.exchange_sim import SimConfig, simulate_session
from loaders.shadows import ShadowOrder, ShadowPlan
from loaders.tapes import build_tape

MODELS = [("risk_averse", 0), ("power", 1), ("power", 2), ("power", 3), ("log", 0), ("optimistic", 0)]  # and exponents


@dataclass(frozen=True)
class QueueModels:
    """Hold every queue model's fills against the true ones of shadow orders in simulated sessions, in one table."""

    source: str = "synthetic:sessions=48,markets=3,seconds=600,seed=0"
    """The simulated exchange; `tick=0.1` has ten times as many levels."""
    per_market: int = 25
    """Shadow orders in each market of each session."""
    contracts: int = 10
    """Contracts of each order."""
    horizon_s: int = 60
    """Seconds for which an order rests; what it fills later counts for nobody."""
    decision_ms: int = 250
    """Milliseconds between two looks of the environment (its fixed clock). Fills are timed to this precision."""
    certain_fill: Literal["whole", "displayed"] = "whole"
    """What an order gets when the other side comes to its price."""
    batch: int = 1024
    """Orders replayed at once."""
    json: bool = False
    """Print JSON instead of the table."""
    save: Path | None = None
    """Also write the JSON to a file."""


@dataclass
class Orders:
    """Shadow orders of all sessions as columns of n, and what they truly filled within the horizon."""

    session: np.ndarray  # i64[n]
    market: np.ndarray  # i32[n], of the tape
    time_ms: np.ndarray  # i32[n], ms since the session's start
    side: np.ndarray  # i32[n], YES or NO
    price: np.ndarray  # i32[n], 0.01 cent
    ahead: np.ndarray  # i32[n], contracts
    filled: np.ndarray  # i32[n], contracts
    beyond: np.ndarray  # i32[n], of these, contracts of incoming orders that the level itself did not give
    look: np.ndarray  # i32[n], the decision (1 for the first) by which it had filled something; 0: none


def main() -> int:
    settings = tyro.cli(QueueModels, description=__doc__, config=(tyro.conf.FlagCreatePairsOff,))
    began = time.monotonic()
    config, horizon_ms = SimConfig.parse(settings.source), settings.horizon_s * 1000
    plan = ShadowPlan(settings.per_market, settings.contracts, horizon_ms)
    sessions = [simulate_session(config, number, plan) for number in range(config.sessions)]
    shadows = [(number, order) for number, session in enumerate(sessions) for order in session.shadows]
    orders = columns_of(shadows, config.markets, settings.decision_ms)
    rows = []
    for prints in (True, False):
        tape, _ = build_tape(session.events if prints else without_prints(session.events) for session in sessions)
        worth = contract_worth(tape, orders, horizon_ms)
        for model, exponent in MODELS:
            per_look = replay_orders(tape, orders, model, exponent, settings)
            name = f"power {exponent}" if model == "power" else model
            rows.append({"model": name, "prints": prints, **compare(orders, per_look, worth, settings.contracts)})
    report = {
        "settings": {name: value for name, value in asdict(settings).items() if name not in ("json", "save")},
        "versions": {name: version(name) for name in ("kalshi-jax", "jax", "jaxlib", "numpy")}
        | {"python": platform.python_version()},
        "backend": jax.default_backend(),
        "seconds": round(time.monotonic() - began),
        "truth": {
            "orders": len(orders.price),
            "ahead_median": float(np.median(orders.ahead)),
            "filled_contracts": int(orders.filled.sum()),
            "beyond_share": round(orders.beyond.sum() / orders.filled.sum(), 4),
        },
        "rows": rows,
    }
    print(json.dumps(report, indent=2) if settings.json else table(rows))
    if settings.save:
        settings.save.parent.mkdir(parents=True, exist_ok=True)
        settings.save.write_text(json.dumps(report, indent=2) + "\n")
    return 0


# -- the truth


def columns_of(shadows: list[tuple[int, ShadowOrder]], markets: int, decision_ms: int) -> Orders:
    """Turn (session, shadow order) pairs into columns; `markets` is their number in each session."""
    each = [order for _, order in shadows]
    first = np.array([order.fills[0][0] - order.time_ms if order.fills else 0 for order in each])
    return Orders(
        session=np.array([session for session, _ in shadows]),
        market=np.array([session * markets + order.market for session, order in shadows], np.int32),
        time_ms=np.array([order.time_ms for order in each], np.int32),
        side=np.array([order.side for order in each], np.int32),
        price=np.array([order.price for order in each], np.int32),
        ahead=np.array([order.ahead for order in each], np.int32),
        filled=np.array([sum(contracts for _, contracts, _ in order.fills) for order in each], np.int32),
        beyond=np.array([sum(beyond for _, _, beyond in order.fills) for order in each], np.int32),
        look=-(-first // decision_ms),
    )


def without_prints(events: Events) -> Events:
    """Forget the trade prints of a session, as a recording of the book alone does."""
    none = Trades(*(np.zeros(0, kind) for kind in (np.int32, np.int64, np.int32, np.int64, np.int8)))
    return replace(events, trades=none)


def contract_worth(tape: Tape, orders: Orders, horizon_ms: int) -> np.ndarray:
    """Give what a contract bought by each order has gained at the horizon, at the mid, f64[n] cents."""
    begin, length = np.asarray(tape.track_start)[orders.market], np.asarray(tape.track_length)[orders.market]
    time_ms, until = np.asarray(tape.time_ms), orders.time_ms + horizon_ms
    row = [
        b + np.searchsorted(time_ms[b : b + n], t, side="right") - 1
        for b, n, t in zip(begin, length, until, strict=True)
    ]
    mid = np.asarray(tape.mark)[row].astype(float).mean(axis=1)
    return (np.where(orders.side == YES, mid, DOLLAR - mid) - orders.price) / CENT


# -- the environment


def replay_orders(tape: Tape, orders: Orders, model: str, exponent: int, settings: QueueModels) -> np.ndarray:
    """Let the environment place the orders and hold them for the horizon; contracts filled per look, i32[n, looks].

    Raises:
        ValueError: the horizon is no whole number of decisions; or the environment placed another order than the shadow is, or
            filled at another price than its own.
    """
    if settings.horizon_s * 1000 % settings.decision_ms:
        raise ValueError(
            f"a horizon of {settings.horizon_s} s is no whole number of decisions of {settings.decision_ms} ms"
        )
    env = MarketAgnosticKalshiEnv(
        max_markets=1,
        order_sizes=(settings.contracts,),
        temporal_features=False,
        sequence_features=False,
        remembered_levels=8,
    )
    looks = settings.horizon_s * 1000 // settings.decision_ms
    params = env.make_params(
        tape,
        episode_length=looks,
        decision_interval_ms=settings.decision_ms,
        queue_model=model,
        queue_exponent=exponent or 2,
        certain_fill=settings.certain_fill,
        hold_cancels=False,
    )
    n = len(orders.price)
    filled = np.zeros((n, looks), np.int32)
    for begin in range(0, n, settings.batch):
        wanted = np.minimum(np.arange(begin, begin + settings.batch), n - 1)  # the last batch is filled up
        chosen = [jnp.asarray(column[wanted]) for column in (orders.market, orders.time_ms, orders.side)]
        got, price, front, gross = (np.asarray(x) for x in rest_for(env, looks, params, *chosen))
        wrong = (price != orders.price[wanted]) | (front != orders.ahead[wanted])
        yes_price = np.where(orders.side == YES, orders.price, DOLLAR - orders.price)[wanted]
        wrong |= gross != got.sum(-1) * np.where(orders.side[wanted] == YES, yes_price, DOLLAR - yes_price)
        if wrong.any():
            order = wanted[wrong][0]
            raise ValueError(
                f"order {order} (market {orders.market[order]}, {orders.time_ms[order]} ms) is not the shadow's"
            )
        filled[wanted] = got
    return filled


@partial(jax.jit, static_argnums=(0, 1))
def rest_for(
    env: MarketAgnosticKalshiEnv, looks: int, params: EnvParams, market: jax.Array, time_ms: jax.Array, side: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Place one WAIT per episode at its market and time, and HOLD.

    Args:
        env: of one market and one order slot.
        looks: decisions to hold for.
        params: with a fixed clock and `hold_cancels=False`.
        market: i32[B].
        time_ms: i32[B].
        side: i32[B], YES or NO.

    Returns:
        Contracts filled by each look i32[B, looks], and of each order its price, the contracts ahead of it as it joined, and its
        cost, i32[B].
    """

    def episode(
        market: jax.Array, time_ms: jax.Array, side: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        _, state = env.start(params, market[None], time_ms)
        row = state.row[0]
        wait = jnp.where(side == YES, Action.BUY_YES_WAIT, Action.BUY_NO_WAIT)
        actions = jnp.full((looks, 1, 1), Action.HOLD).at[0].set(wait)

        def look(state, action):
            state, _, _, _, info = env.transition(state, action, params)
            return state, info["maker_contracts"]

        state, filled = jax.lax.scan(look, state, actions)
        cost = params.initial_cash - state.ledger.cash
        best = params.tape.levels[row, side, 0]
        return filled, best[PRICE], best[SIZE], cost

    return jax.vmap(episode)(market, time_ms, side)


# -- the comparison


def compare(orders: Orders, per_look: np.ndarray, worth: np.ndarray, contracts: int) -> dict[str, float | int]:
    """Count how a model's fills (i32[n, looks]) differ from the true ones; as shares of orders and in cents per contract placed.

    The standard error takes whole sessions as independent, not their orders.
    """
    filled = per_look.sum(axis=1)
    look = np.where(filled > 0, 1 + (per_look > 0).argmax(axis=1), 0)
    true, modelled = orders.filled > 0, filled > 0
    both, late = true & modelled, look - orders.look
    gain = (filled - orders.filled) * worth
    total, placed = np.bincount(orders.session, gain), np.bincount(orders.session) * contracts
    mean = total.sum() / placed.sum()
    sessions = max(int((placed > 0).sum()), 2)
    error = np.sqrt(((total - mean * placed) ** 2).sum() * sessions / (sessions - 1)) / placed.sum()
    shares = {
        "truth_fills": true,
        "model_fills": modelled,
        "agree": both & (np.abs(late) <= 1),
        "early": both & (late < -1),
        "late": both & (late > 1),
        "never": true & ~modelled,
        "phantom": modelled & ~true,
        "more": filled > orders.filled,
    }
    return {
        "orders": len(true),
        **{name: round(float(share.mean()), 4) for name, share in shares.items()},
        "contracts_ratio": round(float(filled.sum() / max(orders.filled.sum(), 1)), 4),
        "pnl_true": round(float((orders.filled * worth).sum() / placed.sum()), 4),
        "pnl_difference": round(float(mean), 4),
        "pnl_error": round(float(error), 4),
    }


SHARES = {
    "truth_fills": "truly filled %",
    "model_fills": "model filled %",
    "agree": "agree %",
    "early": "too early %",
    "late": "too late %",
    "never": "never %",
    "phantom": "phantom %",
    "more": "overfilled %",
}


def table(rows: list[dict]) -> str:
    """Write rows of `compare` as Markdown; queue models with the same results share a row."""
    alike: dict[str, list[dict]] = {}
    for row in rows:
        alike.setdefault(str({name: value for name, value in row.items() if name != "model"}), []).append(row)
    titles = ["queue model", "prints", "orders", *SHARES.values(), "contracts / truth", "P&L - truth, cents"]
    lines = ["| " + " | ".join(titles) + " |", "|---|---|" + "--:|" * (len(titles) - 2)]
    for same in alike.values():
        row = same[0]
        name = ", ".join(other["model"] for other in same) if len(same) < len(MODELS) else "every one"
        cells = [name, "yes" if row["prints"] else "no", f"{row['orders']:,}"]
        cells += [f"{100 * row[share]:.1f}" for share in SHARES]
        cells += [f"{row['contracts_ratio']:.3f}", f"{row['pnl_difference']:+.3f} ± {row['pnl_error']:.3f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
