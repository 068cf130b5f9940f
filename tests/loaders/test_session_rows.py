"""Rows of the session database become events: every trap of EXCHANGE.md section 3, without a server."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import DataError, build_tape
from loaders.events import Events, Kind
from loaders.session_rows import NULL, UNITS, DeltaRows, SnapshotRow, events_from_rows, level_sizes, place_snapshots
from loaders.strict import refuse_repairs

T0 = 1_760_000_000_000
NAMES = ["A", "B"]


def snapshot(ticker, ms, seq, yes, no, **columns):
    """A sound snapshot row: bids as given, asks as the recorder derives them."""
    asks = {"yes_asks": {100 - p: q for p, q in no.items()}, "no_asks": {100 - p: q for p, q in yes.items()}}
    books = {"yes_bids": yes, "no_bids": no} | asks | columns
    return SnapshotRow(
        ticker, T0 + ms, seq, **{name: None if book is None else json.dumps(book) for name, book in books.items()}
    )


def delta_rows(*rows):
    """Rows of (market, ms, seq, side, price, old, new), prices in cents; None is NULL."""
    columns = list(zip(*rows, strict=True)) if rows else [[]] * 7
    market, ms, seq, side, price, old, new = columns
    return DeltaRows(
        market=np.array(market, np.int32),
        time_ms=np.array([0 if t is None else T0 + t for t in ms], np.int64),
        sequence=np.array([NULL if s is None else s for s in seq], np.int64),
        side=np.array(side, np.int8),
        **{
            name: np.array([NULL if x is None else round(x * UNITS) for x in values], np.int64)
            for name, values in (("price", price), ("old_size", old), ("new_size", new))
        },
    )


def read(deltas, snapshots) -> Events:
    return events_from_rows("7", NAMES, delta_rows(*deltas), snapshots)


def listed(events: Events):
    """Events as (ticker, ms, kind, side, cents, contracts)."""
    columns = zip(events.market, events.time_ms, events.kind, events.side, events.price, events.size, strict=True)
    return [
        (events.tickers[m], int(t) - T0, Kind(k).name, ("yes", "no")[s], float(p) / 100, float(q) / 100)
        for m, t, k, s, p, q in columns
    ]


def books_after(events: Events):
    """Final books by a plain dict: {ticker: ({yes cents: contracts}, {no cents: contracts})}."""
    books = {ticker: ({}, {}) for ticker in events.tickers}
    for ticker, _, kind, side, price, size in listed(events):
        if kind == "CLEAR":
            books[ticker] = ({}, {})
        else:
            books[ticker][side == "no"][price] = size
    return {t: tuple({p: q for p, q in side.items() if q} for side in book) for t, book in books.items()}


def test_a_snapshot_and_deltas_become_clear_and_sets_in_order():
    events = read([(0, 2, 2, 1, 53, 0, 20), (0, 5, 3, 0, 45, 100, 0)], [snapshot("A", 0, 1, {45: 100}, {54: 20})])
    assert listed(events) == [
        ("A", 0, "CLEAR", "yes", 0.0, 0.0),
        ("A", 0, "SET", "yes", 45.0, 100.0),
        ("A", 0, "SET", "no", 54.0, 20.0),
        ("A", 2, "SET", "no", 53.0, 20.0),
        ("A", 5, "SET", "yes", 45.0, 0.0),
    ]
    report = events.report
    assert (report.rows_read, report.snapshots, report.deltas, report.epochs, report.dropped) == (3, 1, 2, 1, {})
    assert (report.levels_repaired, report.sequence_gaps, report.times_repaired) == (0, 0, 0)


def test_a_session_without_rows_gives_no_events():
    events = read([], [])
    assert len(events.market) == 0
    assert events.tickers == []
    assert events.report.epochs == 0


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ((-1, 2, 2, 0, 40, 0, 1), "delta without market_ticker"),
        ((0, None, 2, 0, 40, 0, 1), "delta without timestamp_ms"),
        ((0, 2, None, 0, 40, 0, 1), "delta without sequence_number"),
        ((0, -T0 - 5, 2, 0, 40, 0, 1), "delta with a timestamp_ms that is no time"),
        ((0, 2**62, 2, 0, 40, 0, 1), "delta with a timestamp_ms that is no time"),
        ((0, 2, -7, 0, 40, 0, 1), "delta with a sequence_number that is none"),
        ((0, 2, 2**62, 0, 40, 0, 1), "delta with a sequence_number that is none"),
        ((0, 2, 2, -1, 40, 0, 1), "delta whose side is neither yes nor no"),
        ((0, 2, 2, 0, None, 0, 1), "delta without price"),
        ((0, 2, 2, 0, 0, 0, 1), "delta at a price outside 0..100 cents"),
        ((0, 2, 2, 0, 100, 0, 1), "delta at a price outside 0..100 cents"),
        ((0, 2, 2, 0, 40.001, 0, 1), "delta at a price finer than 0.01 cent"),
        ((0, 2, 2, 0, 40, 0, None), "delta without new_size"),
        ((0, 2, 2, 0, 40, 0, -1), "delta with a negative new_size"),
        ((0, 2, 2, 0, 40, 0, 10**12), "delta with a new_size that is no size"),
        ((0, 2, 2, 0, 40, 0, 1.005), "delta with a new_size finer than 0.01 contract"),
        ((1, 2, 2, 0, 40, 0, 1), "delta of a market that has no snapshot yet since the last (re)connection"),
    ],
)
def test_a_bad_delta_is_left_out_and_counted_once(row, reason):
    good = (0, 3, 3, 1, 53, 0, 20)
    events = read([row, good], [snapshot("A", 0, 1, {45: 100}, {54: 20})])
    assert events.report.dropped == {reason: 1}
    assert events.report.deltas == 1
    assert events.report.rows_read == 3
    assert books_after(events) == {"A": ({45: 100}, {54: 20, 53: 20})}


def test_a_delta_without_old_size_still_states_its_level():
    events = read([(0, 2, 2, 0, 45, None, 7)], [snapshot("A", 0, 1, {45: 100}, {})])
    assert books_after(events) == {"A": ({45: 7}, {})}
    assert events.report.levels_repaired == 0


def test_rows_stored_twice_count_once_and_start_no_epoch():
    batch = [(0, 2, 2, 0, 45, 100, 7), (0, 3, 3, 0, 44, 0, 5)]
    first = snapshot("A", 0, 1, {45: 100}, {})
    events = read([*batch, *batch, (0, 9, 4, 0, 44, 5, 6)], [first, first])
    assert events.report.dropped == {"delta stored twice": 2, "snapshot stored twice": 1}
    assert events.report.epochs == 1
    assert books_after(events) == {"A": ({45: 7, 44: 6}, {})}


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"yes_bids": None}, "snapshot without yes_bids"),
        ({"yes_bids": [[45, 1]]}, "snapshot whose book is not an object of prices and sizes"),
        ({"no_bids": {"a": 1}}, "snapshot whose book is not an object of prices and sizes"),
        ({"no_bids": {"5": "many"}}, "snapshot whose book is not an object of prices and sizes"),
        ({"no_bids": {"5": None}}, "snapshot whose book is not an object of prices and sizes"),
    ],
)
def test_a_bad_snapshot_is_left_out_and_its_market_stays_unknown(columns, reason):
    events = read([(0, 5, 2, 0, 45, 1, 2)], [snapshot("A", 0, 1, {45: 1}, {}, **columns)])
    assert events.report.dropped[reason] == 1
    assert len(events.market) == 0


@pytest.mark.parametrize("field", ["ticker", "time_ms", "sequence"])
def test_a_snapshot_without_ticker_time_or_sequence_is_left_out(field):
    row = snapshot("A", 0, 1, {45: 1}, {})
    setattr(row, field, None)
    assert read([], [row]).report.dropped == {f"snapshot without {field}": 1}


@pytest.mark.parametrize("time_ms", [0, -5, 2**52, 2**63 - 1])
def test_a_snapshot_at_no_time_is_left_out(time_ms):
    row = snapshot("A", 0, 1, {45: 1}, {})
    row.time_ms = time_ms
    assert read([], [row]).report.dropped == {"snapshot with a timestamp_ms that is no time": 1}


@pytest.mark.parametrize("sequence", [-1, 2**40, 2**63 - 1])
def test_a_snapshot_with_a_sequence_number_that_is_none_is_left_out(sequence):
    assert read([], [snapshot("A", 0, sequence, {45: 1}, {})]).report.dropped == {
        "snapshot with a sequence_number that is none": 1
    }


@pytest.mark.parametrize(
    "level",
    [{"45.001": 1}, {"nan": 1}, {"1e400": 1}, {"44": 0.001}, {"44": "nan"}, {"44": 1e300}, {"44": True}, {"45.0": 2}],
)
def test_a_level_that_is_no_price_and_size_is_left_out_and_counted(level):
    events = read([], [snapshot("A", 0, 1, {}, {}, yes_bids={"45": 7} | level, yes_asks=None, no_asks=None)])
    assert books_after(events) == {"A": ({45: 7}, {})}
    assert events.report.dropped == {"level of a snapshot: not one price inside 0..100 cents and one size": 1}


def test_a_session_of_one_row_is_a_book_if_it_is_a_snapshot_and_says_why_not_if_it_is_none():
    tape, index = build_tape([read([], [snapshot("A", 0, 1, {45: 1}, {54: 1})])])
    assert (index.tickers, tape.num_markets, index.sessions[0].rows) == (["A"], 1, 1)
    with pytest.raises(
        DataError,
        match=r"nothing to load.*found 7 \(empty, no book; dropped {'delta of a market that has no snapshot yet",
    ):
        build_tape([read([(0, 2, 2, 0, 40, 0, 1)], [])])


def test_a_session_that_spans_more_milliseconds_than_fit_is_refused_by_name():
    with pytest.raises(DataError, match=r"session 7 lasts 2147483648 ms: expected less than 2\*\*31 - 1 ms"):
        build_tape([read([(0, 2**31, 2, 0, 40, 0, 1)], [snapshot("A", 0, 1, {45: 1}, {54: 1})])])


@pytest.mark.parametrize(
    ("deltas", "snapshots", "message"),
    [
        (
            [(0, 2, 2, 0, 40, 0, 1), (0, 3, 3, 0, 0, 0, 1)],
            {},
            r"1 delta at a price outside 0..100 cents \(first: delta 2 of",
        ),
        ([(0, 2, 2, 0, 45, 3, 1)], {}, r"1 deltas whose old size contradicts the book \(first: delta 1 of the session"),
        ([(0, 9, 2, 0, 40, 0, 1), (0, 3, 3, 0, 40, 1, 2)], {}, r"1 times that ran backwards \(first: delta 2 of"),
        ([(0, 9, 2, 0, 40, 0, 1), (0, 9, 2, 0, 40, 0, 1)], {}, r"1 delta stored twice \(first: delta 2 of"),
        ([(1, 9, 2, 0, 40, 0, 1)], {}, r"1 delta of a market that has no snapshot yet .* \(first: delta 1 of"),
        (
            [],
            {"yes_bids": {45: 1}, "yes_asks": {60: 5}, "no_asks": {}},
            r"1 snapshots with levels in the wrong columns \(first: snapshot 1 of",
        ),
        (
            [],
            {"yes_bids": {0: 1}, "yes_asks": None, "no_asks": None},
            r"1 level of a snapshot: not .* \(first: snapshot 1 of",
        ),
        ([], {"yes_bids": None}, r"1 snapshot without yes_bids \(first: snapshot 1 of"),
        (
            [(0, 2, 2, 0, 40, 0, 1), (0, 3, 5, 0, 40, 1, 2)],
            {},
            r"1 sequence gaps \(first: delta 2 of",
        ),
    ],
)
def test_strict_loading_refuses_each_repair_and_names_its_first_row(deltas, snapshots, message):
    events = read(deltas, [snapshot("A", 0, 1, {45: 1}, {30: 10}, **snapshots)])
    with pytest.raises(DataError, match=f"session 7: {message}.*mend the source, or load it without strict"):
        refuse_repairs(events.session_id, events.report)


def test_bad_levels_of_a_snapshot_are_counted_and_the_rest_stands():
    events = read([], [snapshot("A", 0, 1, {0: 5, 45: 7, 46: -1, 47: 0}, {100: 3}, yes_asks=None, no_asks={})])
    assert books_after(events) == {"A": ({45: 7}, {})}
    assert events.report.dropped == {"level of a snapshot: not one price inside 0..100 cents and one size": 3}


@pytest.mark.parametrize(
    ("yes", "no"),
    [({45: 7, 60: 5}, {30: 10}), ({45: 7}, {50: 4, 52: 5}), ({51: 1, 55: 2}, {}), ({20: 3}, {70: 9, 10: 2})],
)
def test_levels_above_fifty_in_the_asks_columns_return_to_their_side(yes, no):
    def split(book):
        return {p: q for p, q in book.items() if p <= 50}, {p: q for p, q in book.items() if p > 50}

    (yes_bids, yes_asks), (no_bids, no_asks) = split(yes), split(no)
    row = snapshot("A", 0, 1, yes_bids, no_bids, yes_asks=yes_asks, no_asks=no_asks)
    events = read([], [row])
    assert books_after(events) == {"A": (yes, no)}
    assert events.report.snapshots_repaired == 1


@pytest.mark.parametrize(("yes", "no"), [({45: 7, 60: 5}, {30: 10}), ({45: 7}, {54: 9}), ({}, {}), ({1: 1}, {})])
def test_a_sound_snapshot_is_not_repaired(yes, no):
    events = read([], [snapshot("A", 0, 1, yes, no)])
    assert books_after(events) == {"A": (yes, no)}
    assert events.report.snapshots_repaired == 0


def test_asks_that_fit_neither_reading_are_ignored_and_counted():
    events = read([], [snapshot("A", 0, 1, {45: 7}, {54: 9}, yes_asks={46: 9, 48: 1})])
    assert books_after(events) == {"A": ({45: 7}, {54: 9})}
    assert events.report.snapshots_repaired == 0
    assert events.report.dropped == {"level of a snapshot: asks that contradict the bids": 3}


def test_fractional_prices_and_sizes_are_kept_exactly():
    events = read([(0, 1, 2, 1, 0.7, 0, 2.25)], [snapshot("A", 0, 1, {99.2: 0.27}, {}, yes_asks={}, no_asks={})])
    assert books_after(events) == {"A": ({99.2: 0.27}, {0.7: 2.25})}


def test_a_lost_row_is_counted_where_the_old_size_contradicts_and_the_level_heals():
    deltas = [(0, 1, 2, 0, 45, 100, 60), (0, 3, 4, 0, 45, 40, 30), (0, 4, 5, 0, 45, 30, 10), (0, 5, 6, 0, 44, 3, 4)]
    events = read(deltas, [snapshot("A", 0, 1, {45: 100}, {})])
    assert events.report.levels_repaired == 2
    assert events.report.sequence_gaps == 1
    assert books_after(events) == {"A": ({45: 10, 44: 4}, {})}


def test_times_never_decrease_within_a_market_and_repairs_are_counted():
    deltas = [(0, 50, 3, 0, 45, 1, 2), (1, 20, 4, 0, 45, 1, 2), (0, 40, 5, 0, 45, 2, 3), (0, 60, 6, 0, 45, 3, 4)]
    events = read(deltas, [snapshot("A", 0, 1, {45: 1}, {}), snapshot("B", 0, 2, {45: 1}, {})])
    times = {t: [row[1] for row in listed(events) if row[0] == t] for t in NAMES}
    assert times == {"A": [0, 0, 50, 50, 60], "B": [0, 0, 20]}
    assert events.report.times_repaired == 1


def test_a_reconnect_restarts_every_book_from_its_new_snapshot():
    snapshots = [snapshot(t, ms, seq, {p: 10}, {}) for t, ms, seq, p in
                 [("A", 0, 1, 40), ("B", 0, 2, 41), ("A", 9000, 1, 50), ("B", 9001, 2, 51)]]  # fmt: skip
    deltas = [(0, 10, 3, 0, 42, 0, 5), (1, 20, 4, 0, 43, 0, 5), (0, 9050, 3, 0, 52, 0, 6)]
    events = read(deltas, snapshots)
    assert books_after(events) == {"A": ({50: 10, 52: 6}, {}), "B": ({51: 10}, {})}
    assert events.report.epochs == 2
    assert events.report.levels_repaired == 0


def test_a_book_without_a_snapshot_after_a_reconnect_is_unknown_until_it_gets_one():
    snapshots = [snapshot(t, ms, seq, {p: 10}, {}) for t, ms, seq, p in
                 [("A", 0, 1, 40), ("B", 0, 2, 41), ("A", 9000, 1, 50), ("B", 9500, 6, 51)]]  # fmt: skip
    deltas = [(0, 10, 3, 0, 42, 0, 5), (0, 11, 4, 0, 42, 5, 6), (1, 9020, 3, 0, 43, 0, 5), (1, 9600, 7, 0, 43, 0, 8)]
    events = read(deltas, snapshots)
    assert [row for row in listed(events) if row[0] == "B"] == [
        ("B", 0, "CLEAR", "yes", 0.0, 0.0),
        ("B", 0, "SET", "yes", 41.0, 10.0),
        ("B", 9500, "CLEAR", "yes", 0.0, 0.0),
        ("B", 9500, "SET", "yes", 51.0, 10.0),
        ("B", 9600, "SET", "yes", 43.0, 8.0),
    ]
    assert events.report.dropped == {"delta of a market that has no snapshot yet since the last (re)connection": 1}


def test_a_book_whose_snapshot_was_lost_is_emptied_at_the_reconnect():
    snapshots = [
        snapshot("A", 0, 1, {40: 1}, {}),
        snapshot("B", 0, 2, {41: 1}, {}),
        snapshot("A", 9000, 1, {50: 1}, {}),
    ]
    events = read([(1, 10, 3, 0, 42, 0, 5), (1, 9600, 3, 0, 43, 0, 8)], snapshots)
    assert books_after(events) == {"A": ({50: 1}, {}), "B": ({}, {})}
    assert [row[:3] for row in listed(events)][-3:-2] == [("B", 9000, "CLEAR")]


def test_a_book_that_was_lost_stays_lost_where_every_delta_around_the_reconnect_is_dropped():
    snapshots = [
        snapshot("A", 0, 1, {40: 1}, {}),
        snapshot("B", 20, 3, {41: 1}, {}),
        snapshot("A", 9000, 1, {50: 1}, {}),
    ]
    deltas = [(2, 10, 2, 0, 42, 0, 5), (2, 30, 4, 0, 42, 0, 5), (2, 8999, 0, 0, 42, 0, 5), (2, 9600, 3, 0, 43, 0, 8)]
    events = events_from_rows("7", [*NAMES, "UNKNOWN"], delta_rows(*deltas), snapshots)
    assert events.report.deltas == 0
    assert books_after(events) == {"A": ({50: 1}, {}), "B": ({}, {})}


@pytest.mark.parametrize("late_ms", [-200, 0, 200])
def test_clocks_that_disagree_a_little_do_not_displace_a_snapshot(late_ms):
    snapshots = [snapshot("A", 0, 1, {40: 1}, {}), snapshot("B", 500 + late_ms, 3, {41: 1}, {})]
    events = read([(0, 450, 2, 0, 42, 0, 5), (1, 510, 4, 0, 42, 0, 5), (0, 600, 5, 0, 42, 5, 7)], snapshots)
    assert events.report.epochs == 1
    assert events.report.dropped == {}
    assert books_after(events) == {"A": ({40: 1, 42: 7}, {}), "B": ({41: 1, 42: 5}, {})}


def test_a_restart_that_only_snapshots_show_is_seen():
    snapshots = [snapshot("A", 0, 1, {40: 1}, {}), snapshot("A", 60_000, 1, {50: 1}, {})]
    events = read([(0, 10, 2, 0, 42, 0, 5)], snapshots)
    assert events.report.epochs == 2
    assert books_after(events) == {"A": ({50: 1}, {})}


def test_an_empty_snapshot_ends_a_book():
    events = read([(0, 10, 2, 0, 42, 0, 5)], [snapshot("A", 0, 1, {40: 1}, {}), snapshot("A", 90, 3, {}, {})])
    assert listed(events)[-1] == ("A", 90, "CLEAR", "yes", 0.0, 0.0)
    assert books_after(events) == {"A": ({}, {})}


@st.composite
def sessions(draw):
    """The true order of a session's messages over some connections: (is a snapshot, sequence, true ms)."""
    messages, ms = [], 0
    for _ in range(draw(st.integers(1, 4))):
        ms += 20_000
        sequence = draw(st.integers(0, 2))  # acknowledgements use numbers too
        for is_snapshot in [True, *draw(st.lists(st.booleans(), max_size=12))]:
            sequence += draw(st.sampled_from([1, 1, 1, 2, 5]))
            ms += draw(st.sampled_from([0, 0, 1, 40, 700]))
            messages.append((is_snapshot, sequence, ms, draw(st.integers(-200, 200))))
    return messages


@given(sessions())
@settings(max_examples=300, deadline=None)
def test_snapshots_return_to_their_true_place_among_the_deltas(messages):
    snaps = [m for m in messages if m[0]]
    deltas = [m for m in messages if not m[0]]

    def columns(rows):
        return np.array([m[1] for m in rows], np.int64), np.array([T0 + m[2] + m[3] for m in rows], np.int64)

    *_, position = place_snapshots(*columns(deltas), *columns(snaps))
    true_position = [sum(not m[0] for m in messages[: messages.index(snap)]) for snap in snaps]
    assert position.tolist() == true_position


@given(
    st.lists(
        st.tuples(
            st.integers(0, 1), st.sampled_from(list(Kind)), st.integers(0, 1), st.integers(1, 3), st.integers(0, 9)
        ),
        max_size=40,
    )
)
@settings(max_examples=200, deadline=None)
def test_level_sizes_are_those_of_a_plain_dict(steps):
    rows = [(m, k, s, p, q) if k != Kind.CLEAR else (m, k, 0, 0, 0) for m, k, s, p, q in steps]
    market, kind, side, price, size = np.array(rows, np.int64).reshape(-1, 5).T
    empty = events_from_rows("", [], delta_rows(), [])
    events = Events("", NAMES, market, market, kind, side, price, size, empty.trades, empty.report)
    levels, expected = {}, []
    for m, k, s, p, q in rows:
        if k == Kind.CLEAR:
            levels = {key: value for key, value in levels.items() if key[0] != m}
            expected.append((0, 0))
            continue
        before = levels.get((m, s, p), 0)
        levels[m, s, p] = q if k == Kind.SET else before + q
        expected.append((before, levels[m, s, p]))
    before, after = level_sizes(events)
    assert list(zip(before.tolist(), after.tolist(), strict=True)) == expected
