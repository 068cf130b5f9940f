"""Every rule of a step in RULES.md on books small enough to check by hand."""

from __future__ import annotations

from typing import Any

import pytest

from tests.reference.books import VOID, Close
from tests.reference.environment import PRIMITIVES
from tests.reference.frames import (
    BUY_NO,
    BUY_YES,
    HOLD,
    SELL_NO,
    SELL_YES,
    WAIT,
    act,
    begin,
    delta,
    print_of,
    snapshot,
)

CENT = 100
DOLLAR = 10_000


def resting(after: dict[str, Any], k: int = 0, slot: int = 0) -> tuple[str, int, int, int] | None:
    order = after["orders"][slot][k]
    return order and (order["side"], order["price"], order["remaining"], order["front"])


# ------------------------------------------------------------------------------------------------------ orders that take

# YES bids 40 (20), 39 (30); NO bids 50 (5), 49 (8), 48 (100): YES is bid 40, asked 50
BOOK = [snapshot(0, {40: 20, 39: 30}, {50: 5, 49: 8, 48: 100})]
LATER = delta(1000, "yes", 1, 1)  # something far from the touch, so that time has somewhere to go


def again(at: int, book: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same snapshots received at another time."""
    return [frame | {"recv_ms": at} for frame in book]


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


# ------------------------------------------------------------------------------------------------------ orders that wait


def test_wait_joins_the_best_bid_behind_what_is_displayed():
    assert resting(act(begin([*BOOK, LATER]), BUY_YES + WAIT)) == ("yes", 4000, 10, 20)
    assert resting(act(begin([*BOOK, LATER]), BUY_NO + WAIT)) == ("no", 5000, 10, 5)


def test_wait_to_sell_rests_on_the_opposite_side_up_to_the_holding():
    env = begin([*BOOK, LATER, delta(2000, "yes", 1, 1)], order_sizes=(5, 10))
    assert resting(act(env, SELL_YES + WAIT)) is None
    act(env, BUY_YES)
    after = act(env, 8 + SELL_YES + WAIT)
    assert resting(after) == ("no", 5000, 5, 5)


def test_wait_to_sell_reserves_its_fee_alone():
    frames = [snapshot(0, {40: 20}, {50: 50}), LATER, delta(2000, "yes", 1, 1)]
    env = begin(frames, initial_cash=10 * 5000 + 18 * CENT + 5 * CENT, maker_rate=175)
    act(env, BUY_YES)
    assert env.free_cash() == 5 * CENT
    assert resting(act(env, SELL_YES + WAIT)) == ("no", 5000, 10, 50)
    assert env.free_cash() == 0  # 0.0175 * 10 * 0.25 = $0.04375


def test_wait_does_nothing_on_an_empty_side():
    after = act(begin([snapshot(0, {}, {50: 5}), LATER]), BUY_YES + WAIT)
    assert (resting(after), after["refused"]) == (None, 0)


def test_an_order_goes_no_deeper_than_there_is_room_to_remember():
    deep = snapshot(0, {40: 9}, {50: 4, 49: 4, 48: 4, 47: 4})
    env = begin(
        [deep, delta(500, "no", 50, 3), LATER], order_sizes=(5, 50), remembered_levels=2, decision_interval_ms=100
    )
    assert act(env, BUY_YES)["positions"] == [5]  # 4 at 50, 1 at 49
    assert act(env, BUY_YES + 8)["positions"] == [8]  # the rest of 49: no room for 48
    for _ in range(3):
        after = act(env, HOLD)
    assert act(env, BUY_YES + 8)["positions"] == [15]  # 50 has changed, so it is forgotten and shows 7
    assert after["refused"] == 0


def test_wait_reserves_price_and_maker_fee():
    needed = 10 * 4000 + 5 * CENT  # 0.0175 * 10 * 0.24 = $0.042
    for cash, rests in ((needed, True), (needed - 1, False)):
        env = begin([*BOOK, LATER], initial_cash=cash, maker_rate=175)
        after = act(env, BUY_YES + WAIT)
        assert (resting(after) is not None, after["refused"], env.free_cash()) == (
            rests,
            0 if rests else 1,
            0 if rests else cash,
        )


def test_hold_cancels_unless_told_otherwise():
    frames = [*BOOK, delta(10, "yes", 1, 1), delta(20, "yes", 1, 1), LATER]
    for hold_cancels in (True, False):
        env = begin(frames, hold_cancels=hold_cancels)
        act(env, BUY_YES + WAIT)
        assert (resting(act(env, HOLD)) is None) == hold_cancels
        assert resting(act(env, SELL_YES)) is None  # any other action cancels, even one that does nothing


def test_a_reaffirmed_order_keeps_its_place_and_shrinks_to_the_size_asked_for():
    frames = [*BOOK, delta(10, "yes", 40, -5), delta(20, "yes", 40, 30), delta(30, "yes", 1, 1), LATER]
    env = begin(frames, order_sizes=(10, 4))
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 15)
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 15)  # an increase goes behind us
    assert resting(act(env, 8 + BUY_YES + WAIT)) == ("yes", 4000, 4, 15)
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 45)  # larger than the order: a new one, at the back


def test_an_order_at_another_price_than_the_best_bid_is_replaced():
    env = begin([*BOOK, delta(10, "yes", 41, 7), LATER])
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 20)
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4100, 10, 7)


def test_the_same_bid_of_another_primitive_is_another_order():
    frames = [*BOOK, delta(10, "no", 50, 9), delta(20, "no", 50, -6), LATER]
    env = begin(frames, order_sizes=(5,))
    act(env, BUY_YES)
    assert resting(act(env, SELL_YES + WAIT)) == ("no", 5000, 5, 8)
    assert resting(act(env, BUY_NO + WAIT)) == ("no", 5000, 5, 8)
    assert env.orders[0, 0].primitive.verb == "BUY"


def test_the_front_of_the_queue_is_the_least_the_level_showed_on_the_way():
    frames = [*BOOK, delta(10, "yes", 40, -8), delta(20, "yes", 40, 50), delta(30, "yes", 40, -1), LATER]
    env = begin(frames, decision_interval_ms=100)
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 12)


def test_a_level_that_empties_moves_the_front_to_zero_and_fills_nothing():
    env = begin([*BOOK, delta(10, "yes", 40, -20), LATER])
    after = act(env, BUY_YES + WAIT)
    assert (resting(after), after["positions"]) == (("yes", 4000, 10, 0), [0])


def test_an_order_fills_whole_at_its_own_price_when_the_opposite_side_reaches_it():
    # atomic: the level at 40 is swept and NO is bid 60, with a single contract
    frames = [*BOOK, delta(10, "yes", 40, -20), delta(10, "no", 60, 1), LATER]
    after = act(begin(frames, maker_rate=175), BUY_YES + WAIT)
    assert (after["positions"], after["cost_basis"], after["fees_paid"]) == ([10], [10 * 4000], [5 * CENT])
    assert after["cash"] == 10_000 * DOLLAR - 10 * 4000 - 5 * CENT
    assert (resting(after), after["trades"], after["maker_contracts"]) == (None, 1, 10)


def test_an_order_meets_rows_on_the_way_and_not_those_before_it_joined():
    sweep = [delta(10, "yes", 40, -20), delta(10, "no", 60, 1), delta(20, "no", 60, -1), delta(20, "yes", 40, 9)]
    env = begin([*BOOK, *sweep, LATER, delta(2000, "yes", 1, 1)], decision_interval_ms=500)
    assert act(env, BUY_YES + WAIT)["positions"] == [10]  # the sweep at 10 lies inside the interval
    assert act(env, BUY_YES + WAIT)["positions"] == [10]


def test_a_resting_sell_fills_up_to_the_holding_and_the_rest_is_cancelled():
    frames = [
        snapshot(0, {40: 20}, {50: 100}),
        delta(10, "yes", 1, 1),
        delta(20, "yes", 1, 1),
        delta(30, "no", 50, -100),
        delta(30, "yes", 50, 3),
        LATER,
    ]
    env = begin(frames, orders_per_market=2, order_sizes=(10, 4))
    env.step([[BUY_YES, HOLD]])
    env.step([[SELL_YES + WAIT, HOLD]])
    after = env.step([[SELL_YES + WAIT, 8 + SELL_YES]])  # slot 1 sells 4 of the 10 now, 6 are left for slot 0
    assert (after["positions"], after["trades"], after["maker_contracts"]) == ([0], 2, 6)
    assert resting(after) is None


def test_a_resting_sell_without_a_holding_left_is_cancelled_and_counts_as_no_trade():
    frames = [
        snapshot(0, {40: 20}, {50: 100}),
        delta(10, "yes", 1, 1),
        delta(20, "no", 50, -100),
        delta(20, "yes", 50, 30),
        LATER,
    ]
    env = begin(frames, orders_per_market=2)
    env.step([[BUY_YES, HOLD]])
    after = env.step([[SELL_YES + WAIT, SELL_YES]])
    assert (after["positions"], after["trades"], after["maker_contracts"]) == ([0], 1, 0)
    assert resting(after) is None


def test_fills_are_booked_in_slot_order():
    # slot 0 rests a SELL of 10, slot 1 a BUY that fills earlier: the sale is booked first, against the 4 held
    frames = [
        snapshot(0, {40: 20}, {50: 100}),
        delta(1, "yes", 1, 1),
        delta(10, "yes", 40, -20),
        delta(10, "no", 50, -100),
        delta(10, "no", 60, 1),
        delta(20, "no", 60, -1),
        delta(20, "yes", 50, 3),
        delta(5000, "yes", 1, 1),
    ]
    env = begin(frames, orders_per_market=2, order_sizes=(10, 4), decision_interval_ms=5)
    env.step([[8 + BUY_YES, HOLD]])
    env.decision_interval_ms = 1000
    after = env.step([[SELL_YES + WAIT, BUY_YES + WAIT]])
    assert (after["positions"], after["trades"], after["realized_pnl"]) == ([10], 2, [0])


def test_a_resting_spread_capture_earns_the_spread():
    sweep_yes = [delta(10, "yes", 40, -20), delta(10, "no", 60, 1)]
    sweep_no = [delta(20, "no", 60, -1), delta(20, "no", 50, -5), delta(20, "yes", 50, 1)]
    env = begin([*BOOK, *sweep_yes, *sweep_no, LATER], orders_per_market=2, decision_interval_ms=100)
    after = env.step([[BUY_YES + WAIT, BUY_NO + WAIT]])
    assert (after["positions"], after["cash"]) == ([0], 10_000 * DOLLAR + 10 * 1000)


# ------------------------------------------------------------------------------------------------------------- restarts


def test_a_snapshot_cancels_resting_orders_even_if_it_shows_the_same_book():
    frames = [*BOOK, delta(10, "yes", 1, 1), *again(20, BOOK), delta(30, "yes", 1, 1), LATER]
    env = begin(frames, hold_cancels=False)
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 20)
    after = act(env, HOLD)
    assert (resting(after), after["positions"], after["refused"]) == (None, [0], 0)
    assert resting(act(env, BUY_YES + WAIT)) == ("yes", 4000, 10, 20)


def test_a_snapshot_that_shows_the_order_crossed_fills_nothing():
    after = act(begin([*BOOK, snapshot(10, {}, {60: 5}), LATER]), BUY_YES + WAIT)
    assert (resting(after), after["positions"]) == (None, [0])


def test_a_restart_of_one_market_leaves_the_orders_of_others():
    frames = [*BOOK, snapshot(0, {40: 7}, {50: 7}, "B"), snapshot(10, {40: 7}, {50: 7}, "B"), LATER]
    after = act(begin(frames, ("A", "B")), BUY_YES + WAIT, BUY_YES + WAIT)
    assert (resting(after), resting(after, slot=1)) == (("yes", 4000, 10, 20), None)


def test_the_first_row_of_a_market_restarts_nothing_and_its_snapshot_and_deltas_are_one_row():
    env = begin(
        [snapshot(5, {40: 20}, {50: 5}), delta(5, "yes", 40, 1), snapshot(0, {}, {1: 1}, "B"), LATER], ("A", "B")
    )
    act(env, HOLD, HOLD)
    assert resting(act(env, BUY_YES + WAIT, HOLD)) == ("yes", 4000, 10, 21)


# 24 of 50 trade: 20 ahead of an order that joined behind 20, and 4 of its own
FOUR = [delta(5, "yes", 40, 30), delta(10, "yes", 40, -24), print_of(10, "yes", 40, 24)]


def test_what_an_order_got_before_a_restart_within_one_step_counts():
    after = act(begin([*BOOK, *FOUR, *again(20, BOOK), LATER], decision_interval_ms=100), BUY_YES + WAIT)
    assert (resting(after), after["positions"], after["cost_basis"]) == (None, [4], [4 * 4000])
    sweep = [delta(10, "yes", 40, -20), delta(10, "no", 60, 1)]
    after = act(begin([*BOOK, *sweep, *again(20, BOOK), LATER], decision_interval_ms=100), BUY_YES + WAIT)
    assert (resting(after), after["positions"], after["trades"]) == (None, [10], 1)


def test_what_was_taken_stays_gone_over_a_restart_that_shows_the_same_size():
    env = begin([*BOOK, *again(10, BOOK), LATER], order_sizes=(5,))
    act(env, BUY_YES)
    assert act(env, BUY_YES)["cost_basis"] == [5 * 5000 + 5 * 5100]


# ------------------------------------------------------------------------------------------------ closes and settlement

DEEP = snapshot(0, {40: 50}, {50: 50})


@pytest.mark.parametrize(
    ("action", "cost", "fee", "result", "proceeds"),
    [
        (BUY_YES, 50_000, 18 * CENT, DOLLAR, 100_000),
        (BUY_YES, 50_000, 18 * CENT, 0, 0),
        (BUY_YES, 50_000, 18 * CENT, 4500, 45_000),
        (BUY_YES, 50_000, 18 * CENT, VOID, 50_000),
        (BUY_NO, 60_000, 17 * CENT, DOLLAR, 0),
        (BUY_NO, 60_000, 17 * CENT, 0, 100_000),
        (BUY_NO, 60_000, 17 * CENT, 4500, 55_000),
        (BUY_NO, 60_000, 17 * CENT, VOID, 60_000),
    ],
)
def test_settlement_pays_the_result_and_ends_the_episode(action, cost, fee, result, proceeds):
    after = act(begin([DEEP, LATER], closes={"A": Close(500, result)}), action)
    assert after["cash"] == after["value"] == 10_000 * DOLLAR - cost - fee + proceeds
    assert (after["positions"], after["cost_basis"]) == ([0], [0])
    assert (after["realized_pnl"], after["fees_paid"]) == ([proceeds - cost], [fee])
    assert (after["closed"], after["settled"], after["now_ms"]) == ([True], [True], 500)
    assert (after["terminated"], after["truncated"], after["trades"]) == (True, False, 1)
    assert after["reward"] == pytest.approx(0.01 * (proceeds - cost - fee) / DOLLAR)


def test_without_a_known_result_the_holding_stays_at_the_last_mark():
    for mark, price in (("mid", 4500), ("exit", 4000)):
        after = act(begin([DEEP, LATER], closes={"A": Close(500)}, mark=mark), BUY_YES)
        assert after["cash"] == 10_000 * DOLLAR - 50_000 - 18 * CENT
        assert after["value"] == after["cash"] + 10 * price
        assert (after["positions"], after["closed"], after["settled"]) == ([10], [True], [False])
        assert (after["terminated"], after["truncated"]) == (False, True)


def test_a_known_result_pays_nothing_while_the_market_is_open():
    after = act(begin([DEEP, LATER], closes={"A": Close(1001, DOLLAR)}), BUY_YES)
    assert (after["positions"], after["closed"], after["settled"]) == ([10], [False], [False])
    assert (after["terminated"], after["truncated"]) == (False, True)


def test_an_empty_snapshot_at_the_end_of_a_market_without_a_close_time_settles_it():
    frames = [DEEP, snapshot(10, {}, {}), snapshot(0, {1: 1}, {}, "B"), delta(20, "yes", 1, 1, "B")]
    after = act(begin(frames, ("A", "B"), closes={"A": Close(None, DOLLAR)}), BUY_YES, HOLD)
    assert (after["positions"], after["realized_pnl"], after["settled"]) == ([0, 0], [50_000, 0], [True, False])


def test_a_close_cancels_resting_orders_and_what_they_got_before_is_paid_out():
    env = begin([*BOOK, *FOUR, LATER], closes={"A": Close(20, DOLLAR)}, decision_interval_ms=100)
    after = act(env, BUY_YES + WAIT)
    assert (resting(after), after["positions"], after["realized_pnl"]) == (None, [0], [4 * 6000])
    assert after["cash"] == 10_000 * DOLLAR + 4 * 6000
    env = begin([*BOOK, *FOUR, LATER], closes={"A": Close(10, DOLLAR)}, decision_interval_ms=100)
    assert act(env, BUY_YES + WAIT)["cash"] == 10_000 * DOLLAR  # the trade at the close is left out


def test_the_episode_is_terminated_when_every_market_is_settled():
    frames = [DEEP, snapshot(0, {40: 50}, {50: 50}, "B"), delta(800, "yes", 1, 1), LATER]
    env = begin(frames, ("B", None, "A"), closes={"A": Close(500, DOLLAR), "B": Close(900, 0)})
    first = act(env, BUY_YES, HOLD, BUY_YES)
    assert first["cash"] == 10_000 * DOLLAR - 2 * (50_000 + 18 * CENT) + 100_000
    assert first["value"] == first["cash"] + 10 * 4500  # B at its mark
    assert (first["settled"], first["terminated"], first["truncated"]) == ([False, False, True], False, False)
    second = act(env, HOLD, HOLD, HOLD)
    assert second["cash"] == second["value"] == first["cash"]
    assert (second["settled"], second["terminated"], second["truncated"]) == ([True, False, True], True, False)


def test_the_episode_is_truncated_at_the_end_if_a_market_is_not_settled():
    frames = [DEEP, snapshot(0, {40: 50}, {50: 50}, "B"), delta(1000, "yes", 1, 1, "B")]
    for closes in ({"A": Close(500, DOLLAR)}, {"A": Close(500, DOLLAR), "B": Close(1000)}):
        env = begin(frames, ("A", "B"), closes=closes)
        ends = [(a["now_ms"], a["terminated"], a["truncated"]) for a in (act(env, HOLD, HOLD) for _ in range(2))]
        assert ends == [(500, False, False), (1000, False, True)]


def test_terminated_goes_before_truncated():
    closes = {"A": Close(500, DOLLAR)}
    after = act(begin([DEEP, LATER], closes=closes, episode_length=1), HOLD)
    assert (after["terminated"], after["truncated"]) == (True, False)
    frames = [snapshot(0, {40: 20}, {50: 50}), snapshot(10, {}, {99: 50})]
    after = act(begin(frames, mark="exit", initial_cash=10 * 5000 + 18 * CENT), BUY_YES)
    assert (after["value"], after["terminated"], after["truncated"]) == (0, True, False)


def test_an_episode_that_starts_after_the_close_is_over():
    env = begin([DEEP, LATER], closes={"A": Close(500, DOLLAR)})
    after = env.start(env.markets, 499)
    assert (after["closed"], after["terminated"]) == ([False], False)
    after = env.start(env.markets, 500)
    assert (after["closed"], after["terminated"], after["truncated"]) == ([True], True, False)


def test_an_episode_without_markets_is_truncated_and_not_settled():
    after = begin([DEEP, LATER], (None,)).report(0.0)
    assert (after["settled"], after["terminated"], after["truncated"]) == ([False], False, True)


def test_a_closed_market_can_only_hold():
    frames = [DEEP, snapshot(0, {40: 50}, {50: 50}, "B"), LATER, delta(2000, "yes", 1, 1, "B")]
    for result in (None, DOLLAR):
        env = begin(frames, ("A", "B"), closes={"A": Close(500, result)})
        act(env, BUY_YES, HOLD)
        assert env.legal_actions()[0] == [True] + [False] * 8
        after = act(env, SELL_YES, BUY_YES)
        assert (after["positions"], after["refused"]) == ([0 if result else 10, 10], 1)
        assert act(env, HOLD, HOLD)["refused"] == 0


# -------------------------------------------------------------------------------------------------------------- latency


def test_with_latency_the_event_clock_goes_to_the_first_row_at_the_arrival_or_later():
    frames = [
        *BOOK,
        delta(5, "yes", 1, 1),
        delta(12, "yes", 1, 1),
        snapshot(22, {1: 1}, {}, "B"),
        delta(25, "yes", 1, 1),
    ]
    env = begin(frames, ("A", "B"), latency_ms=10)
    ends = [(after["now_ms"], after["truncated"]) for after in (act(env, HOLD, HOLD) for _ in range(4))]
    assert ends == [(12, False), (22, False), (25, True), (25, True)]


def test_what_is_sent_meets_the_book_of_its_arrival():
    frames = [*BOOK, delta(10, "no", 50, 3), delta(11, "no", 50, -8), LATER]
    assert act(begin(frames, latency_ms=10), BUY_YES)["cost_basis"] == [8 * 5000 + 2 * 5100]  # the row at 10 counts
    assert act(begin(frames, latency_ms=9), BUY_YES)["cost_basis"] == [5 * 5000 + 5 * 5100]


def test_now_takes_nothing_beyond_the_deepest_level_that_it_saw():
    frames = [*BOOK, delta(5, "no", 50, -5), delta(5, "no", 49, -6), LATER]
    after = act(begin(frames, order_sizes=(13,), latency_ms=10), BUY_YES)  # saw 5 at 50, 8 at 49
    assert (after["positions"], after["cost_basis"]) == ([2], [2 * 5100])
    after = act(begin(frames, order_sizes=(5,), latency_ms=10), BUY_YES)  # saw 5 at 50
    assert (after["positions"], after["refused"], after["trades"]) == ([0], 0, 0)
    after = act(begin(frames, order_sizes=(14,), latency_ms=10), BUY_YES)  # saw level 48 too
    assert after["cost_basis"] == [2 * 5100 + 12 * 5200]


def test_now_takes_better_levels_that_have_come():
    frames = [*BOOK, delta(5, "yes", 41, 4), LATER]
    after = act(begin(frames, latency_ms=10), BUY_NO)  # pays 59 for 4, and 60
    assert after["cost_basis"] == [4 * 5900 + 6 * 6000]


def test_now_is_not_sent_if_it_sees_nothing():
    after = act(begin([snapshot(0, {40: 5}, {}), delta(5, "no", 50, 9), LATER], latency_ms=10), BUY_YES)
    assert (after["positions"], after["refused"]) == ([0], 0)


def test_the_limit_of_now_is_by_what_was_taken_before_this_step():
    frames = [*BOOK, delta(10, "yes", 1, 1), LATER]
    env = begin(frames, order_sizes=(5,), orders_per_market=2, latency_ms=10)
    after = env.step([[BUY_YES, BUY_YES]])  # both have seen the 5 at 50
    assert (after["positions"], after["trades"]) == ([5], 1)
    assert env.step([[BUY_YES, HOLD]])["cost_basis"] == [5 * 5000 + 5 * 5100]


def test_what_was_taken_is_back_if_its_level_changes_in_flight():
    frames = [*BOOK, delta(10, "yes", 1, 1), delta(15, "no", 49, 1), LATER]
    env = begin(frames, order_sizes=(13,), latency_ms=10)
    act(env, BUY_YES)  # 5 at 50, 8 at 49
    assert act(env, BUY_YES)["positions"] == [26]  # its limit is 48: 9 at 49, 4 at 48


def test_cash_is_asked_for_at_the_arrival():
    frames = [snapshot(0, {40: 20}, {50: 5}), delta(5, "no", 51, 5), LATER]
    cash = 5 * 4900 + 9 * CENT  # 0.07 * 5 * 0.2499 = $0.087465
    for initial_cash, position in ((cash, 5), (cash - 1, 0)):
        env = begin(frames, order_sizes=(5,), initial_cash=initial_cash, latency_ms=10)
        after = act(env, BUY_YES)
        assert (after["positions"], after["refused"]) == ([position], 0 if position else 1)


def test_wait_is_post_only():
    gone = [delta(5, "yes", 40, -20), delta(5, "yes", 39, -30)]
    for price, refused in ((60, 1), (59, 0)):
        after = act(begin([*BOOK, *gone, delta(5, "no", price, 3), LATER], latency_ms=10), BUY_YES + WAIT)
        assert (resting(after) is None, after["refused"], after["positions"]) == (bool(refused), refused, [0])


def test_wait_joins_its_price_behind_the_whole_contracts_there_however_deep():
    better = [delta(5, "yes", price, 1, ts_ms=5) for price in range(21, 34)]
    frames = [snapshot(0, {20: 20}, {50: 5}, fixed=True), *better, delta(6, "yes", 20, 7.75, ts_ms=6), LATER]
    env = begin(frames, latency_ms=10)
    after = act(env, BUY_YES + WAIT)
    assert len(env.shown(0, "yes")) == 10
    assert resting(after) == ("yes", 2000, 10, 27)


def test_wait_joins_its_price_alone_if_all_others_have_left():
    after = act(begin([*BOOK, delta(5, "yes", 40, -20), LATER], latency_ms=10), BUY_YES + WAIT)
    assert resting(after) == ("yes", 4000, 10, 0)


def test_wait_is_not_sent_to_an_empty_side():
    frames = [snapshot(0, {}, {50: 5}), delta(5, "yes", 40, 5), LATER]
    assert resting(act(begin(frames, latency_ms=10), BUY_YES + WAIT)) is None


def test_a_new_order_meets_only_the_rows_after_its_arrival():
    sweep = [delta(5, "yes", 40, -20), delta(5, "no", 60, 1)]
    back = [delta(8, "no", 60, -1), delta(8, "yes", 40, 9)]
    env = begin([*BOOK, *sweep, *back, LATER], decision_interval_ms=100, latency_ms=10)
    after = act(env, BUY_YES + WAIT)
    assert (resting(after), after["positions"]) == (("yes", 4000, 10, 9), [0])
    env = begin([*BOOK, *sweep, *back, LATER], decision_interval_ms=100, latency_ms=4)
    assert act(env, BUY_YES + WAIT)["positions"] == [10]


def test_latency_may_be_the_whole_interval():
    frames = [*BOOK, delta(100, "yes", 40, -7), delta(150, "yes", 1, 1), LATER]
    env = begin(frames, decision_interval_ms=100, latency_ms=100)
    after = act(env, BUY_YES + WAIT)
    assert (after["now_ms"], resting(after)) == (100, ("yes", 4000, 10, 13))


def test_a_sell_is_cut_to_the_holding_at_its_arrival():
    frames = [snapshot(0, {40: 100}, {50: 100}), delta(10, "yes", 1, 1), delta(20, "yes", 1, 1)]
    fill = [delta(25, "no", 50, 10), delta(26, "no", 50, -106), print_of(26, "no", 50, 106)]
    env = begin([*frames, *fill, delta(30, "yes", 1, 1), LATER], orders_per_market=2, latency_ms=10)
    env.step([[BUY_YES, HOLD]])
    assert resting(env.step([[SELL_YES + WAIT, HOLD]])) == ("no", 5000, 10, 100)
    after = env.step([[SELL_YES + WAIT, SELL_YES]])  # in flight slot 0 sells 6
    assert (after["positions"], after["maker_contracts"], after["taker_contracts"]) == ([0], 6, 4)
    assert (after["trades"], after["realized_pnl"]) == (2, [4 * (4000 - 5000)])
    assert resting(after) == ("no", 5000, 4, 0)


def test_a_sell_of_nothing_is_not_sent_even_if_there_is_something_at_the_arrival():
    frames = [snapshot(0, {40: 20}, {50: 100}), delta(10, "yes", 1, 1)]
    sweep = [delta(15, "yes", 40, -20), delta(15, "no", 60, 1), delta(16, "no", 60, -1), delta(16, "yes", 40, 9), LATER]
    env = begin([*frames, *sweep], orders_per_market=2, latency_ms=10)
    env.step([[BUY_YES + WAIT, HOLD]])
    after = env.step([[BUY_YES + WAIT, SELL_YES]])
    assert (after["positions"], after["trades"]) == ([10], 1)


def resting_at_ten(*frames, **params):
    """An environment at 10 ms with a bid for 10 YES at 40 behind 20, and a latency of 10 ms."""
    env = begin([*BOOK, delta(10, "yes", 1, 1), *frames], **{"latency_ms": 10, "order_sizes": (10, 4)} | params)
    assert resting(env.step([[BUY_YES + WAIT] + [HOLD] * (env.orders_per_market - 1)])) == ("yes", 4000, 10, 20)
    return env


def sweep_at(at: int):
    return [delta(at, "yes", 40, -20), delta(at, "no", 60, 1), delta(at + 1, "no", 60, -1), delta(at + 1, "yes", 40, 9)]


def test_a_cancel_may_arrive_too_late():
    for at, position in ((15, 10), (20, 10), (21, 0)):
        env = resting_at_ten(*sweep_at(at), LATER)
        after = act(env, HOLD)
        assert (after["positions"], after["trades"], resting(after)) == ([position], position // 10, None)


def test_the_order_that_replaces_one_that_filled_in_flight_is_placed_all_the_same():
    env = resting_at_ten(*sweep_at(15), LATER, orders_per_market=1)
    after = act(env, BUY_YES)  # sees 10 of NO at 50 and 49
    assert (after["positions"], after["trades"]) == ([20], 2)
    assert after["cost_basis"] == [10 * 4000 + 5 * 5000 + 5 * 5100]


def test_the_slot_of_an_order_that_stays_places_nothing_even_if_it_fills_in_flight():
    env = resting_at_ten(*sweep_at(15), LATER)
    after = act(env, BUY_YES + WAIT)
    assert (after["positions"], resting(after), after["trades"]) == ([10], None, 1)


def test_an_order_that_stays_is_cut_to_what_was_decided_whatever_it_got_in_flight():
    four = [delta(15, "yes", 40, 30), delta(16, "yes", 40, -24), print_of(16, "yes", 40, 24)]
    after = act(resting_at_ten(*four, LATER), 8 + BUY_YES + WAIT)
    assert (after["positions"], resting(after)) == ([4], ("yes", 4000, 4, 0))  # 6 were left, 4 decided
    after = act(resting_at_ten(*four, LATER), BUY_YES + WAIT)
    assert (after["positions"], resting(after)) == ([4], ("yes", 4000, 6, 0))
    after = act(resting_at_ten(*four, LATER, hold_cancels=False), HOLD)
    assert (after["positions"], resting(after)) == ([4], ("yes", 4000, 6, 0))


def test_what_an_order_gets_before_and_after_the_arrival_are_two_trades_and_one_fee():
    four = [delta(15, "yes", 40, 30), delta(16, "yes", 40, -24), print_of(16, "yes", 40, 24)]
    sweep = [delta(30, "yes", 40, -26), delta(30, "no", 60, 1)]
    after = act(resting_at_ten(*four, *sweep, maker_rate=175), BUY_YES + WAIT)
    assert (after["positions"], after["trades"], after["maker_contracts"]) == ([10], 2, 10)
    assert after["fees_paid"] == [5 * CENT]  # 0.0175 * 10 * 0.24 = $0.042, of which 2 cents for the first 4


def test_a_restart_in_flight_loses_what_was_sent():
    for at in (5, 10):
        env = begin([*BOOK, *again(at, BOOK), LATER], orders_per_market=2, latency_ms=10)
        after = env.step([[BUY_YES, BUY_YES + WAIT]])
        assert (after["positions"], after["orders"], after["refused"]) == ([0], [[None, None]], 2)
    env = begin([*BOOK, *again(11, BOOK), LATER], orders_per_market=2, latency_ms=10)
    after = env.step([[BUY_YES, BUY_YES + WAIT]])  # both arrive, and then the book restarts
    assert (after["positions"], after["orders"]) == ([10], [[None, None]])


def test_a_restart_in_flight_cancels_what_rests():
    after = act(resting_at_ten(*again(15, BOOK), LATER), BUY_YES + WAIT)
    assert (resting(after), after["positions"]) == (None, [0])


def test_a_restart_of_one_market_loses_nothing_that_was_sent_to_another():
    frames = [*BOOK, snapshot(0, {40: 7}, {50: 7}, "B"), snapshot(5, {40: 7}, {50: 7}, "B"), LATER]
    after = act(begin(frames, ("A", "B"), latency_ms=10), BUY_YES, BUY_YES)
    assert after["positions"] == [10, 0]


def test_what_arrives_after_the_close_is_lost_and_what_is_held_is_settled():
    env = begin([DEEP, delta(10, "yes", 1, 1), LATER], closes={"A": Close(15, DOLLAR)}, latency_ms=10, mark="exit")
    assert act(env, BUY_YES)["positions"] == [10]
    after = act(env, SELL_YES)  # would arrive at 20, later than the last row
    assert (after["now_ms"], after["taker_contracts"], after["realized_pnl"]) == (15, 0, [50_000])
    other = [snapshot(0, {40: 5}, {50: 5}, "B"), delta(30, "yes", 1, 1, "B")]
    env = begin([DEEP, *other, LATER], ("A", "B"), closes={"A": Close(15, DOLLAR)}, latency_ms=20)
    after = act(env, BUY_YES, HOLD)  # arrives at 20, while the episode goes on
    assert (after["now_ms"], after["positions"], after["refused"], after["settled"]) == (30, [0, 0], 1, [True, False])


def test_settlement_does_not_pay_for_what_arrives_in_the_same_step():
    frames = [DEEP, snapshot(0, {40: 50}, {50: 50}, "B"), delta(10, "yes", 1, 1, "B"), delta(30, "yes", 1, 1, "B")]
    env = begin(frames, ("A", "B"), closes={"A": Close(15, DOLLAR)}, latency_ms=10, initial_cash=50_000 + 18 * CENT)
    act(env, BUY_YES, HOLD)
    after = act(env, HOLD, BUY_YES)
    assert (after["positions"], after["cash"], after["refused"]) == ([0, 0], 100_000, 1)


def test_what_is_sent_arrives_up_to_the_end():
    for start, position in ((990, 10), (991, 0)):
        env = begin([*BOOK, LATER], start_ms=start, latency_ms=10)
        after = act(env, BUY_YES)
        assert (after["now_ms"], after["positions"], after["truncated"]) == (1000, [position], True)
    env = begin([*BOOK, LATER], start_ms=800, decision_interval_ms=400, latency_ms=300)
    after = act(env, BUY_YES)
    assert (after["now_ms"], after["positions"], after["truncated"]) == (1200, [0], True)


def test_no_cancel_arrives_after_the_end_and_what_rests_meets_the_last_rows():
    env = resting_at_ten(*sweep_at(14))
    after = act(env, HOLD)
    assert (after["now_ms"], after["positions"], after["truncated"]) == (15, [10], True)
    env = resting_at_ten(delta(15, "yes", 40, -7))
    after = act(env, HOLD)
    assert (after["now_ms"], resting(after), after["truncated"]) == (15, ("yes", 4000, 10, 13), True)


def test_time_does_not_run_back_for_an_episode_that_starts_after_the_end():
    env = begin([*BOOK, LATER], start_ms=1500, latency_ms=10)
    after = act(env, BUY_YES)
    assert (after["now_ms"], after["positions"]) == (1500, [0])


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


# ------------------------------------------------------------------------------------------- trades through, what is displayed


def sweep(at: int, *taken: tuple[int, int]) -> list[dict]:
    """One taker hits YES bids: (price, contracts) each."""
    changes = [delta(at, "yes", price, -size) for price, size in taken]
    return changes + [print_of(at, "yes", price, size) for price, size in taken]


def test_a_trade_at_a_worse_bid_would_have_come_to_the_order_first():
    frames = [snapshot(0, {40: 20, 39: 50}, {50: 5}), *sweep(10, (40, 20), (39, 7)), LATER]
    after = act(begin(frames, decision_interval_ms=100), BUY_YES + WAIT)
    assert (after["positions"], after["maker_contracts"], after["cost_basis"]) == ([7], 7, [7 * 4000])
    assert resting(after) == ("yes", 4000, 3, 0)


def test_a_trade_through_is_shared_out_once_and_not_where_an_own_order_rests():
    frames = [snapshot(0, {40: 20, 39: 50}, {50: 5}), *sweep(10, (40, 20), (39, 17)), LATER]
    env = begin(frames, orders_per_market=2, decision_interval_ms=100)
    after = env.step([[BUY_YES + WAIT, BUY_YES + WAIT]])
    assert (after["positions"], after["trades"]) == ([17], 2)
    assert [order["remaining"] for order in after["orders"][0] if order] == [3]
    up = [snapshot(0, {39: 5}, {50: 5}), delta(10, "yes", 40, 5), *sweep(200, (40, 5), (39, 5)), LATER]
    env = begin(up, orders_per_market=2, decision_interval_ms=100, hold_cancels=False)
    env.step([[BUY_YES + WAIT, HOLD]])  # rests at 39, behind 5
    env.step([[HOLD, BUY_YES + WAIT]])  # at 40, behind 5
    after = env.step([[HOLD, HOLD]])
    assert after["positions"] == [0], "what traded at 39 is not counted for the order at 40 as well"


def test_an_order_gets_no_more_than_the_other_side_brings_if_asked():
    frames = [*BOOK, delta(10, "yes", 40, -20), delta(10, "no", 60, 4), delta(250, "no", 60, 2), LATER]
    for action, positions, cost in (
        (HOLD, [4, 10], 10 * 4000),  # the same four are not met twice, and after the level's change all six are new
        (BUY_YES, [14, 14], 4 * 4000 + 5 * 5000 + 5 * 5100),  # nor can the four be taken: it is the levels behind them
    ):
        env = begin(frames, decision_interval_ms=100, hold_cancels=False, certain_fill="displayed")
        after = act(env, BUY_YES + WAIT)
        assert (after["positions"], resting(after)) == ([4], ("yes", 4000, 6, 0))
        after = [act(env, action), act(env, HOLD)]
        assert ([step["positions"][0] for step in after], after[-1]["cost_basis"]) == (positions, [cost])
