"""What `benchmarks.peers` lets compete, part 2: what is stepped from Python, Stable-Baselines3, and hftbacktest.

Peers are imported where they are used: ImportError where one is not installed.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium
import numpy as np

from benchmarks import contests
from benchmarks.contests import CONTRACTS, DECISION_MS, Contest, Setup, replay_facts
from benchmarks.peers import OURS, Config, Item
from kalshi_jax.adapters import KalshiGymEnv, KalshiVectorEnv, as_stable_baselines3
from kalshi_jax.tape import DOLLAR, YES
from loaders.events import HUNDREDTHS, Events, Kind


def numpy_steps(setup: Setup) -> list[Contest]:
    """Gymnasium's own NumPy batch of CartPole: what vectorised NumPy does on this machine, for want of a market."""
    count, steps = setup.config.episodes, setup.config.steps
    envs = gymnasium.make_vec("CartPole-v1", num_envs=count, vectorization_mode="vector_entry_point")
    envs.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, 2, (steps, count))

    def work() -> float:
        for action in actions:
            envs.step(action)
        return count * steps

    return [setup.random_steps, Contest("gymnasium", f"CartPole-v1, random actions, {count:,} episodes", "steps", work)]


# -- environments stepped one by one, and Stable-Baselines3


def make_gym_trading_env(mids: np.ndarray) -> Any:
    import pandas as pd

    with warnings.catch_warnings():  # on import it makes every warning of the process an error
        from gym_trading_env.environments import TradingEnv
    columns = dict.fromkeys(("open", "high", "low", "close", "feature_mid"), mids)
    frame = pd.DataFrame(columns, index=pd.date_range("2026-01-01", periods=len(mids), freq="s"))
    frame["feature_change"] = frame["close"].pct_change().fillna(0.0)
    return TradingEnv(frame, positions=[-1, 0, 1], trading_fees=0.0007, verbose=0)


def make_gym_anytrading(mids: np.ndarray) -> Any:
    import pandas as pd
    from gym_anytrading.envs import StocksEnv

    return StocksEnv(pd.DataFrame({"Close": mids}), window_size=10, frame_bound=(10, len(mids)))


SCALAR = {"gym-trading-env": make_gym_trading_env, "gym-anytrading": make_gym_anytrading}


def scalar_ours(setup: Setup) -> list[Contest]:
    env = KalshiGymEnv(setup.env, setup.params, flat=True)
    return [setup.random_steps, step_by_step(OURS, "KalshiGymEnv, random actions", env, setup.config)]


def scalar_peer(setup: Setup, peer: str) -> list[Contest]:
    return [step_by_step(peer, "random actions on the mids of a market", SCALAR[peer](setup.mids), setup.config)]


def step_by_step(peer: str, what: str, env: Any, config: Config) -> Contest:
    """Step a Gymnasium environment from Python by random actions that are drawn beforehand."""
    env.reset(seed=0)
    actions = [env.action_space.sample() for _ in range(config.scalar_steps)]

    def work() -> float:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    began = time.perf_counter()
    env.step(actions[0])
    return Contest(peer, what, "steps", work, time.perf_counter() - began)


def ppo_ours(setup: Setup) -> list[Contest]:
    return [setup.ppo]


def sb3_ours(setup: Setup) -> list[Contest]:
    """Ours through the adapter, with few environments and with as many as our own PPO has."""
    counts = dict.fromkeys((setup.config.sb3_envs, setup.config.num_envs))
    envs = [KalshiVectorEnv(setup.env, setup.params, count, seed=0, flat=True) for count in counts]
    return [train_sb3(OURS, as_stable_baselines3(each), setup.config) for each in envs]


def sb3_peer(setup: Setup, peer: str) -> list[Contest]:
    from stable_baselines3.common.vec_env import DummyVecEnv

    alone, several = (DummyVecEnv([lambda: SCALAR[peer](setup.mids)] * n) for n in (1, setup.config.sb3_envs))
    return [train_sb3(peer, alone), train_sb3(peer, several, setup.config)]


def train_sb3(peer: str, envs: Any, config: Config | None = None) -> Contest:
    """Train by Stable-Baselines3's PPO, a rollout and its update a repetition: in our layout, or by its own defaults."""
    from stable_baselines3 import PPO

    layout, how = {}, "as it comes"
    if config:
        batch = max(2, envs.num_envs * config.rollout_length // config.minibatches)
        layout = {
            "learning_rate": 5e-4,
            "n_steps": config.rollout_length,
            "batch_size": batch,
            "n_epochs": config.epochs,
        }
        how = "our batches"
    model = PPO("MlpPolicy", envs, seed=0, device="cpu", **layout)
    steps = envs.num_envs * model.n_steps

    def work() -> float:
        model.learn(steps, reset_num_timesteps=False)
        return steps

    began = time.perf_counter()
    work()
    what = f"Stable-Baselines3 PPO, {how}, {envs.num_envs:,} environment{'s' * (envs.num_envs > 1)}"
    return Contest(peer, what, "trained steps", work, time.perf_counter() - began)


# -- recorded changes passed by hftbacktest


def replay_hftbacktest(setup: Setup) -> list[Contest]:
    """The same recordings, market after market: without orders, and with a bid kept at the best price."""
    from hftbacktest import GTX, LIMIT, BacktestAsset, ROIVectorMarketDepthBacktest
    from numba import njit

    @njit
    def replay(hbt, rests):  # type: ignore[no-untyped-def]  # numba finds the types
        decisions, resting, quotes, order, order_tick = 0, 0, 0, 0, 0
        while hbt.elapse(DECISION_MS * 1_000_000) == 0:
            decisions += 1
            depth = hbt.depth(0)
            bid = depth.best_bid_tick
            quoted = 0 < bid < depth.best_ask_tick  # one that is missing is very low or very high
            quotes += quoted
            if not rests:
                continue
            hbt.clear_inactive_orders(0)
            alive = order in hbt.orders(0)
            resting += alive
            if alive and (not quoted or order_tick != bid):
                hbt.cancel(0, order, False)
                alive = False
            if quoted and not alive:
                order, order_tick = order + 1, bid
                hbt.submit_buy_order(0, order, bid * depth.tick_size, CONTRACTS, GTX, LIMIT, False)
        return decisions, resting, quotes

    def open_backtest(feed: np.ndarray, tick: float) -> Any:
        asset = BacktestAsset().data(feed).linear_asset(1.0).tick_size(tick).lot_size(1 / HUNDREDTHS)
        asset = asset.roi_lb(0.0).roi_ub(1.0).constant_order_latency(0, 0).risk_adverse_queue_model()
        return ROIVectorMarketDepthBacktest([asset.partial_fill_exchange().trading_value_fee_model(0.0, 0.0007)])

    feeds = [feed for events in setup.sessions for feed in market_feeds(events)]
    changes = sum(count for _, _, count in feeds)

    def contest(rests: bool) -> Contest:
        facts: dict[str, float] = {}
        ready: list[Any] = []

        def prepare() -> None:
            while ready:
                ready.pop().close()
            ready.extend(open_backtest(feed, tick) for feed, tick, _ in feeds)

        def work() -> float:
            decisions, resting, _ = np.sum([replay(backtest, rests) for backtest in ready], axis=0).tolist()
            filled = sum(backtest.state_values(0).trading_volume for backtest in ready)
            facts.update(replay_facts(changes, decisions, resting, filled))
            return changes

        began = time.perf_counter()
        prepare()
        work()
        what = "1 resting order" if rests else "no orders"
        return Contest("hftbacktest", what, "changes", work, time.perf_counter() - began, facts, prepare)

    return [contest(rests) for rests in (False, True)]


def market_feeds(events: Events) -> list[tuple[np.ndarray, float, int]]:
    """Turn each market of a session into hftbacktest's feed: YES bids are bids, a NO bid at p is an ask at 1 - p.

    Returns:
        per market with a book: its feed (every change sets a level; a book that empties is written out level by level; trades
        come first in their millisecond), its tick in dollars, and how many recorded changes are in it.
    """
    from hftbacktest import BUY_EVENT, DEPTH_EVENT, EXCH_EVENT, LOCAL_EVENT, SELL_EVENT, TRADE_EVENT
    from hftbacktest.types import event_dtype

    feeds, trades = [], events.trades
    for market in range(len(events.tickers)):
        at, traded = events.market == market, trades.market == market
        columns = (events.time_ms, events.kind, events.side, events.price, events.size)
        book: dict[tuple[int, int], int] = {}  # (side, price) -> size
        levels: list[tuple[int, int, int, int]] = []  # time, side, price, size
        for when, kind, side, price, size in zip(*(column[at].tolist() for column in columns), strict=True):
            if kind == Kind.CLEAR:
                levels += [(when, *level, 0) for level in book]
                book.clear()
            else:
                book[side, price] = size if kind == Kind.SET else max(book.get((side, price), 0) + size, 0)
                levels.append((when, side, price, book[side, price]))
        if not levels:
            continue
        when, side, price, size = np.array(levels).T
        changes = (when, side, np.where(side == YES, price, DOLLAR - price), size)
        prints = (trades.time_ms, trades.taker_side, trades.yes_price, trades.size)
        time_ms, side, yes_price, size = (np.append(a[traded], b) for a, b in zip(prints, changes, strict=True))
        feed = np.zeros(len(time_ms), event_dtype)
        feed["ev"] = np.where(np.arange(len(feed)) < traded.sum(), TRADE_EVENT, DEPTH_EVENT)
        feed["ev"] |= (EXCH_EVENT | LOCAL_EVENT | np.where(side == YES, BUY_EVENT, SELL_EVENT)).astype(np.uint64)
        feed["exch_ts"] = feed["local_ts"] = time_ms * 1_000_000  # ns
        feed["px"], feed["qty"] = yes_price / DOLLAR, size / HUNDREDTHS
        feed, tick = feed[np.argsort(time_ms, kind="stable")], float(np.gcd.reduce(price)) / DOLLAR
        feeds.append((feed, tick, int((events.kind[at] == Kind.ADD).sum())))
    return feeds


# -- who competes in what

Builder = Callable[[Setup], list[Contest]]
# item -> each peer, and what makes its contests or why nothing does; ours come first
ITEMS: dict[Item, list[tuple[str, Builder | str]]] = {
    "steps": [("gymnax", contests.batched_steps)],
    "ppo": [("gymnax", contests.ppo)],
    "scalar": [(OURS, scalar_ours), *((peer, partial(scalar_peer, peer=peer)) for peer in SCALAR)],
    "numpy": [("gymnasium", numpy_steps), ("mbt_gym", "not measured: no release on PyPI, only on GitHub")],
    "sb3": [
        (OURS, ppo_ours),
        ("stable-baselines3", sb3_ours),
        *((peer, partial(sb3_peer, peer=peer)) for peer in SCALAR),
    ],
    "replay": [(OURS, contests.replay_ours), ("hftbacktest", replay_hftbacktest)],
}
