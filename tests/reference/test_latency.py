"""The rules of RULES.md for orders on their way, on books small enough to check by hand."""

from __future__ import annotations

from tests.reference.books import Close
from tests.reference.frames import (
    BOOK,
    BUY_NO,
    BUY_YES,
    DEEP,
    HOLD,
    LATER,
    SELL_YES,
    WAIT,
    act,
    again,
    begin,
    delta,
    print_of,
    resting,
    snapshot,
)

CENT = 100
DOLLAR = 10_000


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
