"""Markets end at their close: later events are counted out, and the last row is an empty book that keeps its mark."""

import numpy as np
import pytest
from test_tapes import START, make_events

from kalshi_jax.tape import END_OF_TIME, NO_RESULT, OPEN
from loaders import MarketFacts, build_tape
from loaders.closes import AFTER_CLOSE, close_markets
from loaders.events import Kind

BOOK = [(0, 0, Kind.CLEAR, 0, 0, 0), (0, 0, Kind.SET, 0, 4000, 1000), (0, 0, Kind.SET, 1, 5000, 1000)]
LATER = [(0, t, Kind.ADD, 0, 4000, 100) for t in (10, 20, 30)]
OTHER = [(1, 0, Kind.CLEAR, 0, 0, 0), (1, 0, Kind.SET, 0, 3000, 100), (1, 40, Kind.ADD, 0, 3000, 100)]


def events_of(*changes, close_ms=None, result=None):
    events = make_events([change for part in changes for change in part], markets=2)
    events.facts["s-0"] = MarketFacts(close_ms=None if close_ms is None else START + close_ms, result=result)
    return events


def test_what_comes_at_or_after_the_close_is_left_out_and_counted():
    events = close_markets(events_of(BOOK, LATER, OTHER, close_ms=20))
    assert events.report.dropped == {AFTER_CLOSE: 2}
    tape, index = build_tape([events])
    rows = slice(int(tape.track_start[0]), int(tape.track_start[0] + tape.track_length[0]))
    assert np.asarray(tape.time_ms)[rows].tolist() == [0, 10, 20]
    assert np.asarray(tape.price)[rows, :, 0].tolist() == [[4000, 5000], [4000, 5000], [0, 0]]
    assert np.asarray(tape.mark)[rows].tolist() == [[4000, 5000]] * 3, "the last mark stays"
    assert np.asarray(tape.restart)[rows].tolist() == [rows.stop - 1, rows.stop - 1, END_OF_TIME]
    assert tape.market_close_ms.tolist() == [20, END_OF_TIME]
    assert tape.market_result.tolist() == [NO_RESULT, OPEN]
    assert index.sessions[0].markets[0].close_ms == START + 20


def test_closing_twice_changes_nothing_more():
    once = close_markets(events_of(BOOK, LATER, OTHER, close_ms=20))
    twice = close_markets(once)
    assert twice.report.dropped == {AFTER_CLOSE: 2}
    for name in ("market", "time_ms", "kind", "side", "price", "size"):
        np.testing.assert_array_equal(getattr(once, name), getattr(twice, name))


def test_a_close_that_the_recording_does_not_reach_leaves_the_market_open():
    tape, _ = build_tape([events_of(BOOK, LATER, OTHER, close_ms=41, result=10_000)])
    assert tape.market_close_ms[0] == 41
    assert tape.market_result[0] == OPEN
    assert tape.track_length[0] == 4


def test_a_market_that_had_closed_before_its_first_event_is_left_out():
    tape, index = build_tape([events_of(BOOK, LATER, OTHER, close_ms=0)])
    assert index.tickers == ["s-1"]
    assert index.sessions[0].unused_tickers == ["s-0"]
    assert tape.num_markets == 1


@pytest.mark.parametrize(("result", "told"), [(None, NO_RESULT), (0, 0)])
def test_without_a_close_time_a_market_closes_where_its_book_ends_for_good(result, told):
    ends = [(0, 35, Kind.CLEAR, 0, 0, 0)]
    tape, _ = build_tape([events_of(BOOK, LATER, ends, OTHER, result=result)])
    assert tape.market_result.tolist() == [told, OPEN]
    assert tape.market_close_ms[0] == END_OF_TIME, "that it would close then, nobody knew"


def test_a_book_that_is_lost_before_the_close_has_not_closed():
    ends = [(0, 35, Kind.CLEAR, 0, 0, 0)]
    tape, _ = build_tape([events_of(BOOK, LATER, ends, OTHER, close_ms=1000, result=10_000)])
    assert tape.market_result[0] == OPEN


def test_levels_of_a_snapshot_after_the_close_are_no_deltas():
    again = [(0, 25, Kind.CLEAR, 0, 0, 0), (0, 25, Kind.SET, 0, 4000, 1000), (0, 30, Kind.SET, 0, 4000, 500)]
    events = close_markets(events_of(BOOK, again, OTHER, close_ms=20))
    assert events.report.dropped == {AFTER_CLOSE: 1}
