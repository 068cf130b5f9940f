"""The rules of RULES.md for restarts, closes and settlement, on books small enough to check by hand."""

from __future__ import annotations

import pytest

from tests.reference.books import VOID, Close
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
