"""The oracle's fees, ledger and books against the numbers and identities of EXCHANGE.md sections 1, 2, 4 and 5."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.reference.books import VOID, Close, read_closes, read_session, replay
from tests.reference.fees import charged
from tests.reference.frames import delta, print_of, snapshot, write_recording
from tests.reference.ledger import Ledger, Position, pay_out, portfolio_value, trade

CENT = 100
DOLLAR = 10_000


# ---------------------------------------------------------------------------------------------------------------- fees


@pytest.mark.parametrize(
    ("rate", "golden"),
    [
        (700, {1: (1, 1, 7), 5: (1, 4, 34), 10: (1, 7, 63), 25: (2, 14, 132), 50: (2, 18, 175)}),
        (175, {1: (1, 1, 2), 5: (1, 1, 9), 10: (1, 2, 16), 25: (1, 4, 33), 50: (1, 5, 44)}),
    ],
)
def test_fees_equal_the_golden_values_on_both_sides(rate, golden):
    for price, cents in golden.items():
        for contracts, fee in zip((1, 10, 100), cents, strict=True):
            for cents_of_yes in (price, 100 - price):
                assert charged([(contracts, cents_of_yes * CENT)], rate, 0) == fee * CENT


def test_float64_goes_wrong_where_the_fee_is_a_whole_cent():
    assert charged([(4, 50 * CENT)], 700, 0) == 7 * CENT


def test_one_order_is_rounded_once():
    # 2 * 7 * 50 * 50 / 10^4 = 3.5 cents: 4 in one order, 2 + 2 in two
    assert charged([(1, 5000), (1, 5000)], 700, 0) == 4 * CENT
    assert charged([(1, 5000)], 700, 0) == 2 * CENT


def test_a_flat_fee_adds_per_contract():
    assert charged([(10, 5000)], 0, 70) == 7 * CENT
    assert charged([(1, 5000)], 0, 70) == 1 * CENT


# -------------------------------------------------------------------------------------------------------------- ledger


def account(*positions: int, cash: int = 1000 * DOLLAR) -> Ledger:
    return Ledger(cash, tuple(Position(q, abs(q) * 5000) for q in positions))


def test_ten_yes_then_five_no_leaves_plus_five():
    after = trade(trade(account(0), 0, +1, [(10, 4500)], 0), 0, -1, [(5, 5500)], 0)
    assert after.positions[0].contracts == 5


def test_netting_pays_a_dollar_per_pair():
    before = account(0)
    after = trade(trade(before, 0, +1, [(10, 4500)], 0), 0, -1, [(10, DOLLAR - 4800)], 0)
    assert after.cash - before.cash == 10 * (DOLLAR - 4500 - 4800)  # buy YES at 45, NO at 48: 70 cents, not a loss
    assert after.positions[0] == Position(0, 0, 10 * 700)


def test_a_trade_through_zero_closes_the_first_contracts_walked():
    before = Ledger(1000 * DOLLAR, (Position(10, 10 * 4000),))
    after = trade(before, 0, -1, [(6, 5000), (6, 4900), (3, 4800)], 0)  # sells 10 YES, then 2 at 49 and 3 at 48 are NO
    closed = 6 * 5000 + 4 * 4900
    assert after.positions[0] == Position(-5, 2 * 5100 + 3 * 5200, closed - 10 * 4000)
    assert after.cash == before.cash + closed - 2 * 5100 - 3 * 5200


def test_the_closed_share_of_the_cost_is_floored_and_the_rest_stays():
    before = Ledger(0, (Position(3, 10_000),))
    after = trade(before, 0, -1, [(1, 4000)], 0)
    assert after.positions[0] == Position(2, 10_000 - 3333, 4000 - 3333)


def test_closing_no_earns_the_no_price():
    before = Ledger(100 * DOLLAR, (Position(-4, 4 * 3000),))
    after = trade(before, 0, +1, [(4, 6000)], 0)
    assert after.positions[0] == Position(0, 0, 4 * (4000 - 3000))
    assert after.cash == before.cash + 4 * 4000


def test_paying_out_realizes_the_proceeds_less_the_cost_and_keeps_the_fees():
    before = Ledger(7 * DOLLAR, (Position(2, 1), Position(-10, 60_000, 500, 300)))
    assert pay_out(before, 1, 55_000) == Ledger(7 * DOLLAR + 55_000, (Position(2, 1), Position(0, 0, -4500, 300)))


prices = st.integers(1, DOLLAR - 1)
fills = st.lists(st.tuples(st.integers(1, 60), prices), min_size=1, max_size=4)
orders = st.tuples(st.sampled_from([+1, -1]), fills, st.integers(0, 500))
histories = st.lists(orders, max_size=8)


def run(history, ledger: Ledger) -> Ledger:
    for direction, order_fills, fee in history:
        ledger = trade(ledger, 0, direction, order_fills, fee)
    return ledger


@given(histories, st.sampled_from([+1, -1]), st.integers(1, 60), prices)
def test_a_fee_free_trade_at_the_mark_leaves_the_value(history, direction, contracts, price):
    before = run(history, account(0))
    after = trade(before, 0, direction, [(contracts, price)], 0)
    assert portfolio_value(after, [price]) == portfolio_value(before, [price])


@given(histories, prices)
def test_value_is_cash_and_profit_and_mark_less_cost_and_fees(history, mark):
    after = run(history, account(0))
    position = after.positions[0]
    worth = position.contracts * mark if position.contracts > 0 else -position.contracts * (DOLLAR - mark)
    assert portfolio_value(after, [mark]) == (
        account(0).cash + position.realized_pnl + worth - position.cost_basis - position.fees_paid
    )


@given(histories)
def test_the_cost_of_no_position_is_nothing(history):
    after = run(history, account(0))
    q = after.positions[0].contracts
    if q:
        after = trade(after, 0, -1 if q > 0 else +1, [(abs(q), 5000)], 0)
    assert after.positions[0].cost_basis == 0


@given(histories, st.integers(1, 60), prices, prices)
def test_a_pair_bought_at_any_prices_changes_cash_by_a_dollar_less_both(history, contracts, yes, no):
    before = run(history, account(0))
    after = trade(trade(before, 0, +1, [(contracts, yes)], 0), 0, -1, [(contracts, DOLLAR - no)], 0)
    assert after.cash - before.cash == contracts * (DOLLAR - yes - no)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 60), prices, st.integers(0, 300))))
def test_cash_and_settlement_of_all_counterparties_change_by_the_fees_alone(deals):
    members = [account(0) for _ in range(3)]
    for buyer, seller, contracts, price, fee in deals:
        members[buyer] = trade(members[buyer], 0, +1, [(contracts, price)], fee)
        members[seller] = trade(members[seller], 0, -1, [(contracts, price)], fee)
    for result in (0, 3700, DOLLAR):  # settlement pays A + q*s
        settled = sum(portfolio_value(member, [result]) for member in members)
        assert settled == 3 * account(0).cash - sum(member.positions[0].fees_paid for member in members)


# --------------------------------------------------------------------------------------------------------------- books


def test_both_generations_and_gzip_give_the_same_books(tmp_path):
    old = [snapshot(1000, {8: 300, 22: 333}, {54: 20}), delta(1005, "yes", 22, -33), delta(1009, "no", 60, 7)]
    new = [
        snapshot(1000, {8: 300, 22: 333}, {54: 20}, fixed=True),
        delta(1300, "yes", 22, -33, ts_ms=1005),
        delta(1301, "no", 60, 7, ts_ms=1009),
    ]
    plain = write_recording(tmp_path / "a.jsonl", old)
    zipped = tmp_path / "b.jsonl.gz"
    zipped.write_bytes(gzip.compress(write_recording(tmp_path / "b.jsonl", new).read_bytes()))
    assert read_session(plain) == read_session(zipped)
    market = read_session(plain).markets["A"]
    assert market.times == [0, 5, 9]
    assert market.book(0) == {"yes": ((2200, 333), (800, 300)), "no": ((5400, 20),)}
    assert market.book(2) == {"yes": ((2200, 300), (800, 300)), "no": ((6000, 7), (5400, 20))}
    assert market.changes[1:] == [{("yes", 2200): 30_000}, {("no", 6000): 700}]
    assert market.book(-1) == {"yes": (), "no": ()}


def test_all_deltas_of_one_ms_are_one_row_and_what_returns_has_not_changed():
    market = replay([snapshot(0, {40: 10}, {50: 10}), delta(5, "yes", 40, 5), delta(5, "yes", 40, -5)]).markets["A"]
    assert market.times == [0, 5]
    assert market.changes[1] == {}


def test_a_level_of_a_fraction_is_displayed_with_size_zero():
    market = replay([snapshot(0, {40: 1}, {50: 1}, fixed=True), delta(0, "no", 50, -0.73, ts_ms=9)]).markets["A"]
    assert market.book(1)["no"] == ((5000, 0),)
    assert market.changes[1] == {("no", 5000): 27}


def test_the_best_ten_levels_are_displayed():
    market = replay([snapshot(0, {price: price for price in range(20, 40)}, {})]).markets["A"]
    assert market.book(0)["yes"] == tuple((price * CENT, price) for price in range(39, 29, -1))
    assert market.book(0)["no"] == ()


def test_a_snapshot_is_no_later_than_the_next_delta_and_no_earlier_than_the_event_before():
    frames = [
        snapshot(1000, {40: 1}, {}, fixed=True),  # received after the delta that follows happened
        delta(1001, "yes", 40, 1, ts_ms=990),
        delta(1002, "yes", 40, 1, ts_ms=1500),
        snapshot(1010, {30: 1}, {}, fixed=True),  # received before the delta in front of it happened
        delta(1011, "yes", 30, 1, ts_ms=1400),  # runs backwards
        snapshot(2000, {}, {}, fixed=True),  # nothing follows
    ]
    market = replay(frames).markets["A"]
    assert market.times == [0, 510, 1010]
    assert market.book(0)["yes"] == ((4000, 2),)  # snapshot and delta of one ms are one row
    assert market.book(1)["yes"] == ((3000, 2),)
    assert market.changes[1] == {("yes", 4000): 0, ("yes", 3000): 200}
    assert market.book(2)["yes"] == ()


def test_time_is_ts_ms_else_the_iso_time_else_the_recorders_clock():
    frame = delta(1_786_085_188_999, "yes", 40, 1, ts_ms=1_786_085_189_000)
    iso = {**frame, "msg": {**frame["msg"], "ts": "2026-08-07T06:46:28.97871Z"}}
    del iso["msg"]["ts_ms"]
    none = {**iso, "msg": {key: value for key, value in iso["msg"].items() if key != "ts"}}
    first = snapshot(1_786_085_188_000, {}, {})
    assert [replay([first, f]).markets["A"].times[1] for f in (frame, iso, none)] == [1000, 978, 999]


def test_the_sessions_zero_is_the_first_event_of_any_market_and_other_frames_are_passed_over():
    frames = [
        {"recv_ms": 1, "type": "subscribed", "id": 1, "msg": {"channel": "orderbook_delta", "sid": 1}},
        snapshot(100, {40: 1}, {}, "A"),
        {"recv_ms": 2, "type": "ok", "id": 2, "sid": 1, "seq": 2, "msg": {"market_tickers": ["A", "B"]}},
        snapshot(90, {40: 1}, {}, "B"),
        {"recv_ms": 3, "type": "error", "id": 3, "msg": {"code": 8, "msg": "Unknown channel name"}},
        {"recv_ms": 3, "type": "trade", "sid": 2, "msg": {"market_ticker": "C"}},
    ]
    markets = replay(frames).markets
    assert {ticker: market.times for ticker, market in markets.items()} == {"A": [10], "B": [0]}


def test_marks_take_a_missing_side_as_worst_and_an_empty_book_as_before():
    frames = [
        snapshot(0, {}, {}),
        snapshot(1, {40: 5}, {}),
        delta(2, "no", 50, 5),
        snapshot(3, {}, {}),
        delta(4, "no", 30, 1),
    ]
    market = replay(frames).markets["A"]
    marks = [market.bid_and_ask(row) for row in range(-1, 5)]
    assert marks == [(0, 10_000), (0, 10_000), (4000, 10_000), (4000, 5000), (4000, 5000), (0, 7000)]


def test_the_oracle_refuses_a_recording_that_goes_below_zero():
    with pytest.raises(ValueError, match="clean recordings only"):
        replay([snapshot(0, {40: 5}, {}), delta(1, "yes", 40, -6)])


def test_a_snapshot_restarts_the_book_unless_it_is_in_the_first_row():
    frames = [
        snapshot(0, {40: 1}, {}),
        snapshot(0, {40: 1}, {}),
        delta(5, "yes", 40, 1),
        delta(9, "yes", 40, 1),
        snapshot(9, {40: 3}, {}),  # even if it says what was known
        delta(9, "yes", 40, 1),
        delta(10, "yes", 40, 1),
    ]
    assert replay(frames).markets["A"].restarts == [False, False, True, False]
    assert replay([delta(0, "yes", 40, 1), snapshot(1, {}, {40: 1})]).markets["A"].restarts == [False, True]


def test_the_exact_size_of_any_level_is_known_after_any_row():
    frames = [snapshot(0, {40: 5, 39: 7}, {50: 5}), delta(5, "yes", 40, 2), snapshot(9, {39: 7}, {50: 6})]
    market = replay(frames).markets["A"]
    assert [market.size(row, ("yes", 4000)) for row in range(-1, 3)] == [0, 500, 700, 0]
    assert [market.size(row, ("yes", 3900)) for row in range(-1, 3)] == [0, 700, 700, 700]
    assert [market.size(row, ("no", 5000)) for row in range(-1, 3)] == [0, 500, 500, 600]
    assert market.size(2, ("no", 4000)) == 0


def test_a_level_of_no_contracts_in_a_snapshot_is_no_level():
    market = replay([snapshot(0, {40: 0, 39: 1}, {50: 0}, fixed=True)]).markets["A"]
    assert market.book(0) == {"yes": ((3900, 1),), "no": ()}


# -------------------------------------------------------------------------------------------------------------- closes


# A: changes at 100, 110, 130 and 150; B: at 90 and 170
TWO = [
    snapshot(100, {40: 5, 39: 1}, {50: 5}),
    snapshot(90, {40: 5}, {50: 5}, "B"),
    delta(110, "yes", 40, 1),
    delta(130, "yes", 41, 1),
    delta(150, "yes", 42, 1),
    delta(170, "yes", 41, 1, "B"),
]


def test_a_market_ends_with_an_empty_book_at_its_close():
    markets = replay(TWO, {"A": Close(120, 0), "C": Close(1, 0)}).markets
    a = markets["A"]
    assert (a.times, a.restarts, a.closed_row, a.result) == ([10, 20, 30], [False, False, True], 2, 0)
    assert a.book(2) == {"yes": (), "no": ()}
    assert a.changes[2] == {("yes", 4000): 0, ("yes", 3900): 0, ("no", 5000): 0}
    assert a.bid_and_ask(2) == (4000, 5000)  # as before
    assert [(a.closed(row), a.settled(row)) for row in range(-1, 3)] == [(False, False)] * 3 + [(True, True)]
    assert (markets["B"].times, markets["B"].closed_row, markets["B"].settled(1)) == ([0, 80], None, False)


def test_an_event_at_the_close_is_left_out():
    a = replay(TWO, {"A": Close(130)}).markets["A"]
    assert (a.times, a.book(2)["yes"], a.closed_row, a.closed(2), a.settled(2)) == ([10, 20, 40], (), 2, True, False)


def test_a_market_closes_up_to_the_sessions_last_event_and_is_open_to_the_end_if_it_closes_later():
    assert replay(TWO, {"A": Close(170)}).markets["A"].times == [10, 20, 40, 60, 80]
    assert replay(TWO, {"A": Close(171, 0)}).markets["A"].closed_row is None
    ended = [*TWO, snapshot(160, {}, {})]
    assert replay(ended, {"A": Close(171, 0)}).markets["A"].closed_row is None  # though its book is empty at the end
    assert replay(TWO[::2], {"A": Close(140)}).markets["A"].times == [0, 10, 40]  # the last event itself is left out


def test_a_market_without_an_event_before_its_close_is_left_out_and_so_is_its_time():
    for close_ms in (90, 17):
        markets = replay(TWO, {"B": Close(close_ms, 0)}).markets
        assert {ticker: market.times for ticker, market in markets.items()} == {"A": [0, 10, 30, 50]}
    assert replay(TWO, {"A": Close(1), "B": Close(1)}).markets == {}


def test_without_a_close_time_an_empty_snapshot_at_the_end_is_the_close():
    empty, result = snapshot(160, {}, {}), {"A": Close(None, DOLLAR)}
    a = replay([*TWO, empty], result).markets["A"]
    assert (a.times, a.closed_row, a.settled(4), a.settled(3)) == ([10, 20, 40, 60, 70], 4, True, False)
    a = replay([*TWO, empty]).markets["A"]
    assert (a.closed_row, a.closed(4), a.settled(4)) == (4, True, False)
    for more in (delta(165, "yes", 40, 1), delta(160, "yes", 40, 1), snapshot(170, {1: 1}, {})):
        assert replay([*TWO, empty, more], result).markets["A"].closed_row is None
    emptied = [snapshot(0, {40: 5}, {}), delta(9, "yes", 40, -5)]
    assert replay(emptied, result).markets["A"].closed_row is None


def test_a_print_after_the_close_explains_what_was_before():
    frames = [
        snapshot(0, {40: 5}, {50: 5}),
        delta(10, "yes", 40, -3),
        print_of(25, "yes", 40, 3),
        delta(30, "yes", 1, 1),
    ]
    market = replay(frames, {"A": Close(20, 0)}).markets["A"]
    assert (market.times, market.traded[1]) == ([0, 10, 20], {("yes", 4000): 300})


def test_closes_are_read_from_metadata(tmp_path):
    file = tmp_path / "markets.json"
    close_time = "2026-05-11T05:45:00Z"  # 1,778,478,300 s
    about = {
        "Y": {"close_time": close_time, "strike": 80938.41, "result": "yes", "result_source": "the exchange"},
        "N": {"close_time": "2026-05-11T05:45:00.1239Z", "result": "no"},
        "S": {"close_time": None, "result": "scalar", "settlement_value_dollars": "0.4500"},
        "V": {"close_time": close_time, "result": "void"},
        "?": {"close_time": close_time, "result": None},
        "-": {},
    }
    file.write_text(json.dumps(about))
    assert read_closes(file) == {
        "Y": Close(1_778_478_300_000, DOLLAR),
        "N": Close(1_778_478_300_123, 0),
        "S": Close(None, 4500),
        "V": Close(1_778_478_300_000, VOID),
        "?": Close(1_778_478_300_000, None),
        "-": Close(None, None),
    }


def test_a_recording_is_read_with_its_closes(tmp_path):
    closes = {"A": Close(120, 0)}
    assert read_session(write_recording(tmp_path / "a.jsonl", TWO), closes) == replay(TWO, closes)
