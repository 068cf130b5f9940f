"""The rules of a step in RULES.md that all steps share, on books small enough to check by hand."""

from __future__ import annotations

import pytest

from tests.reference.frames import (
    BOOK,
    BUY_NO,
    BUY_YES,
    HOLD,
    LATER,
    SELL_NO,
    SELL_YES,
    WAIT,
    act,
    begin,
    delta,
    resting,
    snapshot,
)
from tests.reference.orders import PRIMITIVES

CENT = 100
DOLLAR = 10_000


def test_the_nine_primitives_are_in_order():
    names = [f"{p.verb}_{p.outcome.upper()}_{p.when}" for p in PRIMITIVES]
    assert " ".join(names[:4]) == "BUY_YES_NOW SELL_YES_NOW BUY_NO_NOW SELL_NO_NOW"
    assert " ".join(names[4:]) == "BUY_YES_WAIT SELL_YES_WAIT BUY_NO_WAIT SELL_NO_WAIT"
    assert [p.direction for p in PRIMITIVES] == [1, -1, -1, 1, 1, -1, -1, 1]


def test_now_walks_the_opposite_levels_best_first():
    after = act(begin([*BOOK, LATER], order_sizes=(15,)), BUY_YES)
    paid = 5 * 5000 + 8 * 5100 + 2 * 5200
    fee = 27 * CENT  # 0.07 * (5*0.25 + 8*0.2499 + 2*0.2496) = $0.262346
    assert after["cash"] == 10_000 * DOLLAR - paid - fee
    assert (after["positions"], after["cost_basis"], after["fees_paid"]) == ([15], [paid], [fee])
    assert (after["trades"], after["taker_contracts"]) == (1, 15)


def test_now_is_filled_in_part_when_the_book_is_thin():
    after = act(begin([*BOOK, LATER], order_sizes=(100,)), BUY_NO)
    assert after["positions"] == [-50]
    assert after["cost_basis"] == [20 * 6000 + 30 * 6100]


def test_size_z_and_primitive_k_are_action_one_plus_eight_z_plus_k():
    env = begin([*BOOK, LATER], order_sizes=(5, 10, 20))
    assert act(env, 1 + 8 * 2 + 2)["positions"] == [-20]


def test_numbers_out_of_range_and_unused_slots_hold():
    for action in (-1, 9, 1000):
        assert act(begin([*BOOK, LATER]), action)["trades"] == 0
    after = act(begin([*BOOK, LATER], tickers=(None, "A")), BUY_YES, HOLD)
    assert (after["trades"], after["positions"]) == (0, [0, 0])


def test_what_was_taken_is_gone_until_its_level_changes():
    frames = [*BOOK, delta(10, "yes", 1, 1), delta(20, "no", 50, 2), delta(30, "yes", 1, 1)]
    env = begin(frames, order_sizes=(6,))
    assert act(env, BUY_YES)["cost_basis"] == [5 * 5000 + 5100]
    assert act(env, BUY_YES)["cost_basis"] == [5 * 5000 + 7 * 5100]  # row at 10 changed neither level
    after = act(env, BUY_YES)  # row at 20 brought level 50 back to 7
    assert after["cost_basis"] == [5 * 5000 + 7 * 5100 + 6 * 5000]


def test_what_is_taken_of_one_level_adds_up():
    frames = [snapshot(0, {40: 1}, {50: 20}), *(delta(10 * i, "yes", 1, 1) for i in range(1, 6))]
    env = begin(frames, order_sizes=(6,))
    assert [act(env, BUY_YES)["positions"][0] for _ in range(5)] == [6, 12, 18, 20, 20]


def test_what_was_taken_never_counts_below_zero_offers():
    frames = [*BOOK, delta(10, "no", 50, -3), LATER]  # 5 taken, then 2 displayed, all 2 on offer again
    env = begin(frames, order_sizes=(5,))
    act(env, BUY_YES)
    assert act(env, BUY_YES)["cost_basis"] == [5 * 5000 + 2 * 5000 + 3 * 5100]


def test_a_change_of_a_fraction_brings_taken_liquidity_back():
    frames = [snapshot(0, {40: 9}, {50: 5}, fixed=True), delta(9, "no", 50, 0.25, ts_ms=10), LATER]
    env = begin(frames)
    assert act(env, BUY_YES)["positions"] == [5]
    assert act(env, BUY_YES)["positions"] == [10]


def test_nothing_displayed_means_nothing_happens():
    after = act(begin([snapshot(0, {}, {50: 5}), LATER]), BUY_NO)
    assert (after["positions"], after["refused"], after["trades"]) == ([0], 0, 0)


def test_sell_never_sells_more_than_is_held():
    env = begin([*BOOK, LATER, delta(2000, "yes", 1, 1)], order_sizes=(5, 10))
    assert act(env, SELL_YES)["positions"] == [0]
    assert act(env, BUY_YES)["positions"] == [5]
    assert act(env, SELL_NO)["positions"] == [5]
    after = act(env, 8 + SELL_YES)
    assert (after["positions"], after["taker_contracts"]) == ([0], 5)


def test_an_order_that_cash_cannot_cover_is_refused_whole():
    price, fee = 10 * 5000, 18 * CENT
    frames = [snapshot(0, {40: 20}, {50: 50}), LATER]
    for cash, filled in ((price + fee, 10), (price + fee - 1, 0)):
        after = act(begin(frames, initial_cash=cash), BUY_YES)
        assert (after["positions"], after["refused"]) == ([filled], 1 if filled == 0 else 0)


def test_resting_orders_keep_their_reserve_from_orders_that_take():
    frames = [snapshot(0, {40: 20}, {50: 50}), LATER]
    needed = 10 * 4000 + 10 * 5000 + 18 * CENT
    for cash, position in ((needed, 10), (needed - 1, 0)):
        env = begin(frames, orders_per_market=2, initial_cash=cash)
        after = env.step([[BUY_YES + WAIT, BUY_YES]])
        assert (after["positions"], after["orders"][0][0]["remaining"]) == ([position], 10)


def test_slots_see_what_earlier_ones_did_order_slot_by_order_slot():
    both = [snapshot(0, {40: 20}, {50: 10}), snapshot(0, {40: 20}, {50: 10}, "B"), LATER]
    env = begin(both, ("A", "B"), orders_per_market=2, initial_cash=10 * 5000 + 18 * CENT)
    after = env.step([[HOLD, BUY_YES], [BUY_YES, HOLD]])  # slot 0 of B comes before slot 1 of A
    assert (after["positions"], after["refused"]) == ([0, 10], 1)
    env = begin(both, ("A",), orders_per_market=2)
    after = env.step([[BUY_YES, SELL_YES]])
    assert (after["positions"], after["trades"]) == ([0], 2)
    env = begin(both, ("A",), orders_per_market=2)
    assert env.step([[BUY_YES, BUY_YES]])["positions"] == [10]  # the second finds the level empty


def test_flat_fees_are_charged_per_contract_to_takers_and_to_resting_orders():
    frames = [*BOOK, delta(10, "yes", 40, -20), delta(10, "no", 60, 1), LATER]
    after = act(begin(frames, order_sizes=(5,), taker_rate=0, taker_flat=70), BUY_YES)
    assert after["fees_paid"] == [4 * CENT]  # 3.5 cents
    after = act(begin(frames, order_sizes=(5,), maker_flat=30), BUY_YES + WAIT)
    assert (after["fees_paid"], after["positions"]) == ([2 * CENT], [5])  # 1.5 cents


def test_a_sell_needs_cash_only_for_its_fee():
    env = begin(
        [snapshot(0, {1: 50}, {50: 50}), LATER, delta(2000, "yes", 2, 1)], order_sizes=(1,), initial_cash=5002 + 198
    )
    assert act(env, BUY_YES)["cash"] == 0
    after = act(env, SELL_YES)  # 1 cent for it, 1 cent of fee
    assert (after["positions"], after["cash"], after["refused"]) == ([0], 0, 0)


def test_buying_is_refused_beyond_the_bound_of_the_ledger_and_selling_is_not():
    frames = [snapshot(0, {40: 100}, {50: 100}), delta(10, "yes", 1, 1), delta(20, "yes", 1, 1), delta(30, "yes", 1, 1)]
    cash = 100 * DOLLAR
    after_ten = cash - 10 * 5000 - 18 * CENT + 10 * DOLLAR
    for bound, filled in ((after_ten, 10), (after_ten - 1, 0)):
        env = begin(frames, initial_cash=cash, bound=bound)
        after = act(env, BUY_YES)
        assert (after["positions"], after["refused"]) == ([filled], 1 if filled == 0 else 0)
        assert act(env, BUY_NO + WAIT)["orders"] == [[None]]  # 10 more at rest would exceed it too
        assert act(env, SELL_YES)["positions"] == [0]


def test_the_bound_counts_resting_bids_when_taking():
    frames = [snapshot(0, {40: 100}, {50: 100}), LATER]
    cash = 100 * DOLLAR
    both = cash - 10 * 5000 - 18 * CENT + 20 * DOLLAR
    for bound, filled in ((both, 10), (both - 1, 0)):
        env = begin(frames, orders_per_market=2, initial_cash=cash, bound=bound)
        after = env.step([[BUY_YES + WAIT, BUY_YES]])
        assert (after["positions"], resting(after)) == ([filled], ("yes", 4000, 10, 100))


# ------------------------------------------------------------------------------------------- time, marks, reward and ends


def test_the_event_clock_goes_to_the_next_row_of_any_market():
    frames = [*BOOK, snapshot(0, {40: 5}, {50: 5}, "B"), delta(7, "yes", 1, 1, "B"), delta(9, "yes", 1, 1), LATER]
    env = begin(frames, ("A", "B"))
    assert [act(env, HOLD, HOLD)["now_ms"] for _ in range(4)] == [7, 9, 1000, 1000]
    env = begin(frames, ("A",))
    assert [act(env, HOLD)["now_ms"] for _ in range(2)] == [9, 1000]


def test_the_fixed_clock_goes_by_the_interval():
    env = begin([*BOOK, LATER], start_ms=3, decision_interval_ms=400)
    assert [(after["now_ms"], after["truncated"]) for after in (act(env, HOLD) for _ in range(3))] == [
        (403, False),
        (803, False),
        (1203, True),
    ]


def test_a_market_before_its_first_row_is_an_empty_book():
    frames = [*BOOK, snapshot(500, {40: 5}, {50: 5}, "B"), LATER]
    env = begin(frames, ("B", "A"))
    assert env.legal_actions()[0] == [True] + [False] * 8
    after = act(env, BUY_YES, BUY_YES)
    assert (after["positions"], after["now_ms"], env.legal_actions()[0][1]) == ([0, 10], 500, True)


def test_an_empty_book_keeps_the_mark():
    frames = [snapshot(0, {40: 20}, {50: 50}), snapshot(10, {}, {}), LATER]
    for mark, price in (("mid", 4500), ("exit", 4000)):
        after = act(begin(frames, mark=mark), BUY_YES)
        assert after["value"] == 10_000 * DOLLAR - 10 * 5000 - 18 * CENT + 10 * price
    after = act(begin(frames, mark="exit"), BUY_NO)
    assert after["value"] == 10_000 * DOLLAR - 10 * 6000 - 17 * CENT + 10 * (DOLLAR - 5000)


def test_a_mid_between_units_is_floored():
    frames = [delta(0, "yes", 40.01, 5, ts_ms=0), delta(0, "no", 50, 5, ts_ms=0), delta(0, "no", 1, 1, ts_ms=5)]
    env = begin(frames, order_sizes=(1,))
    assert act(env, BUY_YES)["value"] == 10_000 * DOLLAR - 5000 - 2 * CENT + 4500  # (4001 + 5000) / 2 = 4500.5


def test_reward_is_a_hundredth_of_the_dollars_earned_less_a_thousandth_per_trade_above_five():
    env = begin([*BOOK, LATER], order_sizes=(5,))
    after = act(env, BUY_YES)
    assert after["reward"] == pytest.approx(0.01 * (after["value"] / DOLLAR - 10_000))
    books = [snapshot(0, {40: 20}, {50: 50}, ticker) for ticker in "ABCDEFG"]
    env = begin([*books, delta(9, "yes", 1, 1)], tuple("ABCDEFG"))
    after = act(env, *[BUY_YES] * 7)
    assert after["trades"] == 7
    assert after["reward"] == pytest.approx(0.01 * (after["value"] / DOLLAR - 10_000) - 0.002)


def test_reward_is_clipped_at_two():
    frames = [
        snapshot(0, {40: 900}, {50: 900}),
        snapshot(10, {95: 900}, {1: 900}),
        snapshot(20, {1: 900}, {95: 900}),
        LATER,
    ]
    env = begin(frames, order_sizes=(900,))
    assert act(env, BUY_YES)["reward"] == 2.0
    assert act(env, HOLD)["reward"] == -2.0


def test_truncated_by_length_and_by_the_end_of_the_recording():
    frames = [*BOOK, *(delta(10 * i, "yes", 1, 1) for i in range(1, 5))]
    env = begin(frames, episode_length=2)
    assert [act(env, HOLD)["truncated"] for _ in range(2)] == [False, True]
    env = begin(frames)
    assert [act(env, HOLD)["truncated"] for _ in range(4)] == [False, False, False, True]


def test_a_recording_ends_with_the_last_row_of_its_last_market():
    frames = [*BOOK, snapshot(0, {40: 5}, {50: 5}, "B"), delta(9, "yes", 1, 1), LATER]
    env = begin(frames, ("A", "B"))
    assert [act(env, HOLD, HOLD)["truncated"] for _ in range(2)] == [False, True]


def test_bankrupt_is_terminated():
    frames = [snapshot(0, {40: 20}, {50: 50}), snapshot(10, {}, {99: 50}), LATER]
    env = begin(frames, mark="exit", initial_cash=10 * 5000 + 18 * CENT)
    after = act(env, BUY_YES)
    assert (after["cash"], after["value"], after["terminated"], after["truncated"]) == (0, 0, True, False)


# ------------------------------------------------------------------------------------------------------- legal actions


def test_legal_actions_ask_for_levels_holdings_and_free_cash():
    def legal(env):
        return [i for i, yes in enumerate(env.legal_actions()[0]) if yes]

    frames = [snapshot(0, {40: 20}, {}), delta(10, "no", 50, 50), delta(20, "yes", 1, 1), LATER]
    env = begin(frames, initial_cash=20 * 5000, orders_per_market=2)
    assert legal(env) == [HOLD, BUY_NO, BUY_YES + WAIT]  # no NO bid: no YES to buy now, none to join
    env.step([[HOLD, HOLD]])
    assert legal(env) == [HOLD, BUY_YES, BUY_NO, BUY_YES + WAIT, BUY_NO + WAIT]
    env.step([[BUY_YES, BUY_YES + WAIT]])  # 50,000 and 1,800 spent, 40,000 reserved: 8,200 free
    assert legal(env) == [HOLD, SELL_YES, SELL_YES + WAIT]


def test_legal_sizes_are_those_that_free_cash_covers():
    env = begin([*BOOK, LATER], order_sizes=(5, 10), initial_cash=10 * 5000 - 1)
    assert begin([*BOOK, LATER], initial_cash=10 * 5000).legal_actions()[0][BUY_YES]
    legal = env.legal_actions()[0]
    assert [legal[BUY_YES], legal[8 + BUY_YES], legal[8 + BUY_YES + WAIT]] == [True, False, True]
    assert legal[BUY_NO], "5 at 60 cents"
