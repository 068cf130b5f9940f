"""Laws of EXCHANGE.md section 5 that hold at every step of random episodes on random books."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference.books import VOID, Close, replay
from tests.reference.environment import ReferenceEnv
from tests.reference.frames import BUY_NO, BUY_YES, SELL_NO, SELL_YES, WAIT, act, begin, random_frames

CENT = 100
DOLLAR = 10_000

FIRST = 1_700_000_000_000  # the time of the first frame of random sessions

closings = st.builds(
    Close,
    st.one_of(st.none(), st.integers(FIRST + 1, FIRST + 12_000)),
    st.sampled_from([None, 0, 3700, DOLLAR, VOID]),
)
episodes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 10**6),
        "fixed": st.booleans(),
        "slots": st.integers(1, 3),
        "closes": st.dictionaries(st.sampled_from("ABC"), closings),
        "latency_ms": st.sampled_from([0, 0, 1, 40, 300]),
        "params": st.fixed_dictionaries(
            {
                "decision_interval_ms": st.sampled_from([0, 50, 1000]),
                "order_sizes": st.sampled_from([(10,), (5, 10, 20), (500,)]),
                "orders_per_market": st.integers(1, 2),
                "hold_cancels": st.booleans(),
                "mark": st.sampled_from(["mid", "exit"]),
                "initial_cash": st.sampled_from([20 * DOLLAR, 500 * DOLLAR, 10_000 * DOLLAR]),
                "maker_rate": st.sampled_from([0, 175]),
            }
        ),
    }
)


@settings(max_examples=60, deadline=None)
@given(episodes, st.randoms(use_true_random=False))
def test_laws_hold_at_every_step_of_random_episodes(episode, rng):
    session = replay(random_frames(episode["seed"], ("A", "B", "C"), 120, episode["fixed"]), episode["closes"])
    interval = episode["params"]["decision_interval_ms"]
    latency = min(episode["latency_ms"], interval) if interval else episode["latency_ms"]
    env = ReferenceEnv(latency_ms=latency, **episode["params"])
    after = env.start(list(session.markets.values())[: episode["slots"]], rng.randrange(3000))
    cash0, earned = after["cash"], 0.0
    while not (after["terminated"] or after["truncated"]):
        numbers = range(-1, 8 * len(env.order_sizes) + 3)  # legal or not
        after = env.step([[rng.choice(numbers) for _ in range(env.orders_per_market)] for _ in env.markets])
        marks = [env.mark_of(slot) for slot in range(len(env.markets))]
        worth = sum(q * m if q > 0 else -q * (DOLLAR - m) for q, m in zip(after["positions"], marks, strict=True))
        assert after["cash"] >= env.reserved() >= 0
        assert after["value"] == after["cash"] + worth
        assert after["value"] == (
            cash0 + sum(after["realized_pnl"]) + worth - sum(after["cost_basis"]) - sum(after["fees_paid"])
        )
        assert all(fees % CENT == 0 for fees in after["fees_paid"])
        assert all(cost >= 0 for cost in after["cost_basis"])
        assert all(q != 0 or cost == 0 for q, cost in zip(after["positions"], after["cost_basis"], strict=True))
        assert all(
            row == market.row_at(after["now_ms"]) for row, market in zip(after["rows"], env.markets, strict=True)
        )
        for slot, closed, settled, position in zip(
            after["orders"], after["closed"], after["settled"], after["positions"], strict=True
        ):
            assert closed or not settled
            assert not (settled and position)
            for order in filter(None, slot):
                assert not closed
                assert order["remaining"] > 0
                assert order["front"] >= 0
        assert not (after["terminated"] and after["truncated"])
        earned += after["reward"] + 0.001 * max(0, after["trades"] - 5)
    if all(abs(x) < 2 for x in (earned,)) and env.initial_cash <= 100 * DOLLAR:  # nothing was clipped
        assert earned == pytest.approx(0.01 * (after["value"] - cash0) / DOLLAR, abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([(BUY_YES, SELL_NO), (BUY_NO, SELL_YES)]), st.sampled_from([0, WAIT]))
def test_buying_one_side_and_selling_the_other_agree_in_every_field(seed, pair, when):
    frames = random_frames(seed, moments=60)
    results = []
    for action in pair:
        env = begin(frames, start_ms=0, order_sizes=(30, 10), initial_cash=1000 * DOLLAR)
        act(env, BUY_NO if pair == (BUY_YES, SELL_NO) else BUY_YES)
        if abs(env.ledger.positions[0].contracts) < 10:
            return  # a book too thin to hold what is then closed
        after = act(env, 8 + action + when)
        results.append(after)
    assert results[0] == results[1]
