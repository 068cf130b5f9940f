"""The rules of RULES.md for orders that wait, on books small enough to check by hand."""

from __future__ import annotations

from tests.reference.frames import (
    BOOK,
    BUY_NO,
    BUY_YES,
    HOLD,
    LATER,
    SELL_YES,
    WAIT,
    act,
    begin,
    delta,
    print_of,
    resting,
    snapshot,
)

CENT = 100
DOLLAR = 10_000


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
