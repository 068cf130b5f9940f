"""Orders for the exchange are what the environment does: both stepped on generated books, beside the oracle's own fills."""

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kalshi_jax import Action, MarketAgnosticKalshiEnv
from kalshi_jax.live import decode_orders
from loaders import load_tape
from tests.reference.compare import Setting, draw, load
from tests.reference.environment import ReferenceEnv
from tests.reference.frames import delta, numbered, random_frames, snapshot, write_recording

DOLLAR = 10_000


@dataclass
class Recorder(ReferenceEnv):
    """The oracle, noting what it does to each order before time moves."""

    placed: list[tuple] = field(default_factory=list)  # slot, order slot, verb, outcome, when, count, YES price
    cancelled: list[tuple] = field(default_factory=list)  # slot, order slot
    decreased: list[tuple] = field(default_factory=list)  # slot, order slot, contracts left

    def cancel(self, staying):
        self.placed, self.cancelled, self.decreased = [], [], []
        before = {at: order.remaining for at, order in self.orders.items()}
        super().cancel(staying)
        for k, slot in sorted(before):
            left = self.orders[k, slot].remaining if (k, slot) in self.orders else None
            if left is None:
                self.cancelled.append((slot, k))
            elif left < before[k, slot]:
                self.decreased.append((slot, k, left))

    def take(self, slot, primitive, n, limit=0):
        before = dict(self.taken[slot])
        super().take(slot, primitive, n, limit)
        took = {at: n - before.get(at, 0) for at, n in self.taken[slot].items() if n != before.get(at, 0)}
        if took:
            side, deepest, _ = min(took, key=lambda at: at[1])  # the lowest bid reached
            price = deepest if side == "yes" else DOLLAR - deepest
            self.placed.append((slot, primitive.verb, primitive.outcome, "NOW", sum(took.values()), price))

    def join(self, at, primitive, n, price):
        super().join(at, primitive, n, price)
        if at in self.orders:
            order = self.orders[at]
            price = order.price if primitive.rests == "yes" else DOLLAR - order.price
            self.placed.append((at[1], primitive.verb, primitive.outcome, "WAIT", order.remaining, price))


def in_the_oracles_words(order, slot_of):
    """Read an order dictionary back, checking that its fields agree with one another."""
    side = order["side"]
    price = int(Decimal(order[f"{side}_price_dollars"]) * DOLLAR)
    assert 0 < price < DOLLAR
    assert len(order[f"{side}_price_dollars"]) == 6
    assert order.get(f"{side}_price") == (None if price % 100 else price // 100)
    assert not {f"{'no' if side == 'yes' else 'yes'}_price{form}" for form in ("", "_dollars")} & set(order)
    assert Decimal(order["count_fp"]) == order["count"]
    assert order["type"] == "limit"
    assert order["reduce_only"] is (order["action"] == "sell")
    when = {"immediate_or_cancel": "NOW", "good_till_canceled": "WAIT"}[order["time_in_force"]]
    assert order["post_only"] is (when == "WAIT")
    slot = slot_of[order["ticker"]]
    yes_price = price if side == "yes" else DOLLAR - price
    return slot, order["action"].upper(), side, when, order["count"], yes_price


SETTINGS = {
    "two orders of small and large sizes, little cash": Setting(
        slots=3, orders_per_market=2, order_sizes=(5, 700), maker_rate=175, initial_cash=400 * DOLLAR
    ),
    "orders that stay, on a clock": Setting(
        slots=2, order_sizes=(10, 3), decision_interval_ms=40, hold_cancels=False, remembered_levels=32
    ),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Two random sessions, one of each message generation: whole cents, and tenths of a cent."""
    folder = tmp_path_factory.mktemp("live")
    generations = enumerate([("AB", False), ("CD", True)])
    frames = [random_frames(11 + i, tickers, moments=700, fixed=fixed) for i, (tickers, fixed) in generations]
    paths = [write_recording(folder / f"random-{i}.jsonl", rows) for i, rows in enumerate(frames)]
    return load(paths)


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_every_order_is_what_the_environment_places_or_fills(source, name):
    env, params = SETTINGS[name].fast(source.tape)
    transition = jax.jit(env.transition)
    for session in range(2):
        follow(source, SETTINGS[name], session, env, params, transition)


def follow(source, setting, session, env, params, transition):
    """Take legal and some wild actions in one session: what is sent, what the environment does and what the oracle does agree."""
    fixed = session == 1
    markets = np.full(setting.slots, -1)
    markets[-2:] = 2 * session + 1, 2 * session  # an unused slot comes first, if there is one
    slot_of = {source.tickers[market]: slot for slot, market in enumerate(markets) if market >= 0}

    oracle = Recorder(**vars(setting.slow()))
    recorded = source.sessions[session].markets
    oracle.start([recorded[source.tickers[m]] if m >= 0 else None for m in markets], 0)
    _, state = env.start(params, jnp.asarray(markets, jnp.int32), jnp.int32(0))
    rng = np.random.default_rng(3)
    seen, action = Counter(), None
    for step in range(200):
        mask = np.array([[legal] * setting.orders_per_market for legal in oracle.legal_actions()])[None]
        action = draw(rng, mask, action, 0.05)
        ids = []
        sent = decode_orders(
            action[0],
            state,
            source,
            env=env,
            params=params,
            client_order_id=lambda m, o, step=step, ids=ids: ids.append((m, o)) or f"{step}-{m}-{o}",
        )
        state, _, terminated, truncated, info = transition(state, action[0], params)
        after = oracle.step(action[0].tolist())

        orders = [in_the_oracles_words(order, slot_of) for order in sent.orders]
        assert orders == oracle.placed, f"step {step}"
        assert [order["client_order_id"] for order in sent.orders] == [f"{step}-{m}-{o}" for m, o in ids]
        assert [(c["market_slot"], c["order_slot"]) for c in sent.cancels] == oracle.cancelled
        assert [(d["market_slot"], d["order_slot"], d["reduce_to"]) for d in sent.decreases] == oracle.decreased
        for change in sent.cancels + sent.decreases:
            assert slot_of[change["ticker"]] == change["market_slot"]

        taken = sum(order["count"] for order in sent.orders if order["time_in_force"] == "immediate_or_cancel")
        assert taken == int(info["taker_contracts"])
        assert int(state.ledger.cash) == after["cash"]
        assert np.asarray(state.ledger.position).tolist() == after["positions"]
        seen.update((verb, outcome, when) for _, verb, outcome, when, _, _ in orders)
        seen.update(cancels=len(sent.cancels), decreases=len(sent.decreases))
        seen.update(deep=sum(order[3] == "NOW" and order[5] % 100 > 0 for order in orders))
        if terminated or truncated:
            break
    assert step > 100
    for verb in ("BUY", "SELL"):
        for outcome in ("yes", "no"):
            assert seen[verb, outcome, "NOW"], seen
            assert seen[verb, outcome, "WAIT"], seen
    assert seen["cancels"], seen
    assert seen["deep"] or not fixed, seen


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    frames = [
        snapshot(0, {Decimal(45): Decimal(30), Decimal("44.5"): Decimal(50)}, {Decimal(50): Decimal(20)}, fixed=True),
        delta(9, "no", Decimal("49.5"), Decimal(40), ts_ms=9),
        delta(99, "no", Decimal(40), Decimal(40), ts_ms=99),
    ]
    return load_tape(str(write_recording(tmp_path_factory.mktemp("live") / "small.jsonl", numbered(frames))))


def test_golden_orders(small):
    tape, index = small
    env = MarketAgnosticKalshiEnv(1, order_sizes=(25, 10), temporal_features=False, sequence_features=False)
    params = env.make_params(tape)
    _, state = env.start(params, jnp.array([0]), jnp.int32(10))

    def sent(action, state):
        return decode_orders([[action]], state, index, env=env, params=params, client_order_id=lambda m, o: f"id{m}{o}")

    common = {"ticker": "A", "type": "limit", "client_order_id": "id00", "count": 25, "count_fp": "25.00"}
    now = {"time_in_force": "immediate_or_cancel", "post_only": False}
    wait = {"time_in_force": "good_till_canceled", "post_only": True}
    buy = {"action": "buy", "reduce_only": False}
    assert sent(Action.HOLD, state) == ([], [], [])
    assert sent(Action.BUY_YES_NOW, state).orders == [  # 20 at 50 cents, then 5 at 50.5
        common | now | buy | {"side": "yes", "yes_price_dollars": "0.5050"}
    ]
    assert sent(Action.BUY_NO_NOW, state).orders == [
        common | now | buy | {"side": "no", "no_price": 55, "no_price_dollars": "0.5500"}
    ]
    resting = common | wait | buy | {"side": "no", "no_price": 50, "no_price_dollars": "0.5000"}
    assert sent(Action.BUY_NO_WAIT, state) == ([], [], [resting])
    assert sent(Action.SELL_YES_NOW, state).orders == [], "nothing is held"

    transition = jax.jit(env.transition)
    waiting = transition(state, jnp.array([[Action.BUY_NO_WAIT]]), params)[0]
    assert sent(Action.BUY_NO_WAIT, waiting) == ([], [], []), "it keeps its place"
    which = {
        "ticker": "A",
        "market_slot": 0,
        "order_slot": 0,
        "side": "no",
        "no_price": 50,
        "no_price_dollars": "0.5000",
    }
    assert sent(Action.BUY_NO_WAIT + 8, waiting) == ([], [which | {"reduce_to": 10}], [])
    assert sent(Action.HOLD, waiting) == ([which], [], [])

    held = transition(state, jnp.array([[Action.BUY_YES_NOW + 8]]), params)[0]
    sell = common | {"action": "sell", "reduce_only": True, "side": "yes", "count": 10, "count_fp": "10.00"}
    assert sent(Action.SELL_YES_NOW, held).orders == [sell | now | {"yes_price": 45, "yes_price_dollars": "0.4500"}]
    assert sent(Action.SELL_YES_WAIT, held).orders == [sell | wait | {"yes_price": 50, "yes_price_dollars": "0.5000"}]


def test_what_does_not_belong_together_is_refused(small):
    tape, index = small
    env = MarketAgnosticKalshiEnv(1, temporal_features=False, sequence_features=False)
    params = env.make_params(tape)
    _, state = env.start(params, jnp.array([0]), jnp.int32(10))
    rest = {"env": env, "params": params, "client_order_id": lambda m, o: ""}
    with pytest.raises(ValueError, match=r"action of shape \(1,\): expected \(1, 1\)"):
        decode_orders([1], state, index, **rest)

    class Other:
        tickers = ("A", "B")

    with pytest.raises(ValueError, match="index of 2 markets, tape of 1"):
        decode_orders([[1]], state, Other(), **rest)
