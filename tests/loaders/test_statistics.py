"""Statistics are what a plain walk through every book gives, whatever the events."""

import itertools
import math
from dataclasses import asdict

import numpy as np
import orjson
import pytest
from exchange_frames import START, delta, snapshot, write
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_replay import replay_events

from loaders import SessionDataLoader
from loaders.closes import close_markets
from loaders.events import Events, Kind, Report, Trades
from loaders.exchange_sim import SimConfig, simulate_session
from loaders.recordings import read_recording
from loaders.replay import replay
from loaders.statistics import DEPTH_EDGES, MOMENTS, SPANS, SPREAD_EDGES, SessionStatistics, measure

SECONDS = 1000  # ms


def plain_statistics(events):
    """The same figures from dictionaries, one row, market and moment after the other."""
    markets = list(replay_events(events).values())
    last_kind = dict(zip(events.market.tolist(), events.kind.tolist(), strict=True))
    end = max(market.times[-1] for market in markets)
    stops = [
        market.times[-1] if last_kind[m] == Kind.CLEAR else end
        for m, market in zip(sorted(last_kind), markets, strict=True)
    ]
    instant = all(market.times[0] == stop for market, stop in zip(markets, stops, strict=True))
    quoted = weight_sum = changes = lived = squares = elapsed = 0
    spreads, best_sizes, near_sizes = [], [], []
    for market, stop in zip(markets, stops, strict=True):
        nexts = [*market.times[1:], stop]
        lived += (stop - market.times[0]) / SECONDS
        changes += len(market.times) - 1
        seconds = {}
        for time, following, book in zip(market.times, nexts, market.books, strict=True):
            weight = 1 if instant else following - time
            weight_sum += weight
            best = [max((p for s, p in book if s == side), default=0) for side in (0, 1)]
            if min(best) > 0 and sum(best) < 10_000:
                quoted += weight
                spreads.append(((10_000 - sum(best)) / 100, weight))
                seconds[time // SECONDS] = time, (best[0] + 10_000 - best[1]) / 200
        mids = list(seconds.values())
        squares += sum((b[1] - a[1]) ** 2 for a, b in itertools.pairwise(mids))
        elapsed += (mids[-1][0] - mids[0][0]) / SECONDS if mids else 0
        each = max(1, MOMENTS // len(markets))
        for i in range(each):
            moment = market.times[0] + (stop - market.times[0]) * (2 * i + 1) // (2 * each)
            book = market.books[max(n for n, time in enumerate(market.times) if time <= moment)]
            for side in (0, 1):
                levels = {p: n // 100 for (s, p), n in book.items() if s == side}
                if levels:
                    best_sizes.append(levels[max(levels)])
                    near_sizes.append(sum(n for p, n in levels.items() if p >= max(levels) - 500))
    return {
        "activity": changes / lived if lived else 0,
        "quoted_share": quoted / weight_sum,
        "spread_cents": sum(s * w for s, w in spreads) / quoted if quoted else None,
        "spread_histogram": [
            sum(w for s, w in spreads if low < s <= high) / (quoted or 1)
            for low, high in itertools.pairwise(SPREAD_EDGES)
        ],
        "volatility": math.sqrt(squares / elapsed) if elapsed >= 1 else None,
        "depth_best": float(np.median(best_sizes)) if best_sizes else None,
        "depth_near": float(np.median(near_sizes)) if near_sizes else None,
        "depth_histogram": [
            sum((low < n or low == 0) and n <= high for n in best_sizes)
            for low, high in zip(DEPTH_EDGES, [*DEPTH_EDGES[1:], math.inf], strict=True)
        ],
    }


def assert_equal(events):
    statistics, markets = measure(replay(events))
    for name, expected in plain_statistics(events).items():
        assert getattr(statistics, name) == pytest.approx(expected, nan_ok=False), name
    assert len(markets) == len(set(events.market.tolist()))
    assert sum(statistics.changes_histogram) == sum(market.rows for market in markets)


change = st.tuples(
    st.integers(0, 2),  # market
    st.integers(0, 5000),  # ms
    st.sampled_from([Kind.CLEAR, Kind.SET, Kind.SET, Kind.ADD, Kind.ADD]),
    st.integers(0, 1),
    st.sampled_from([100, 4000, 4010, 4500, 5000, 5490, 9900]),
    st.integers(-300, 40_000),
)


@settings(max_examples=150)
@given(st.lists(change, min_size=1, max_size=80))
def test_statistics_of_any_events_equal_a_plain_walk(changes):
    market, time, kind, side, price, size = (np.array(column, np.int64) for column in zip(*changes, strict=True))
    time = np.sort(time)
    size = np.where(kind == Kind.SET, abs(size), np.where(kind == Kind.CLEAR, 0, size))
    side, price = np.where(kind == Kind.CLEAR, 0, side), np.where(kind == Kind.CLEAR, 0, price)
    none = np.zeros(0, np.int64)
    trades = Trades(none, none, none, none, none)
    assert_equal(Events("s", ["A", "B", "C"], market, time, kind, side, price, size, trades, Report()))


def test_statistics_of_simulated_sessions_equal_a_plain_walk():
    for tick in (1.0, 0.1):
        assert_equal(simulate_session(SimConfig(sessions=1, markets=3, seconds=120, tick=tick), 0).events)


def test_statistics_of_a_real_recording_equal_a_plain_walk(recordings):
    for name in ("kxbtc-20260418", "mlb-20260807", "kxbtc15m-20260513T0552"):
        (path,) = recordings.glob(f"{name}*.jsonl.gz")
        assert_equal(close_markets(read_recording(path)))


def test_a_session_by_hand(tmp_path):
    """Spread 2 cents for 8 s, then 4 for 2 s; the mid moves by a cent; a gap of 8 s and one of 2 s."""
    frames = [
        snapshot("A", 1, [(40, 5), (36, 7), (34, 100)], [(58, 12)]),
        delta("A", 2, "yes", 40, -5, START + 8000),  # the best YES bid falls to 36: spread 6, mid 39
        delta("A", 3, "yes", 38, 3, START + 8000),  # or to 38, in the same row: spread 4, mid 40
        delta("A", 4, "no", 1, 1, START + 10_000),
    ]
    (info,) = SessionDataLoader(write(tmp_path / "a.jsonl", frames)).catalogue()
    statistics = info.statistics
    assert statistics.spread_cents == pytest.approx(0.8 * 2 + 0.2 * 4)
    assert statistics.spread_quantiles == (2.0, 2.0, 4.0)
    assert statistics.activity == pytest.approx(0.2)
    assert statistics.volatility == pytest.approx(math.sqrt(1 / 10)), "one cent in ten seconds"
    assert statistics.gap_s == pytest.approx((5.0, 7.4, 7.94, 8.0))
    assert statistics.quiet_share == 0
    assert statistics.depth_best == pytest.approx(np.median([5] * 400 + [3] * 100 + [12] * 500))
    assert statistics.depth_near == pytest.approx(np.median([12] * 400 + [3 + 7 + 100] * 100 + [12] * 500))
    assert [i for i, count in enumerate(statistics.changes_histogram) if count] == [0, 47, SPANS - 1]
    assert info.markets[0].statistics.spread_cents == statistics.spread_cents


def test_quiet_time_is_that_in_gaps_of_more_than_thirty_seconds(tmp_path):
    frames = [
        snapshot("A", 1, [(40, 5)], [(58, 12)]),
        delta("A", 2, "yes", 39, 5, START + 30_000),
        delta("A", 3, "yes", 39, 5, START + 100_000),
    ]
    (info,) = SessionDataLoader(write(tmp_path / "a.jsonl", frames)).catalogue()
    assert info.statistics.quiet_share == pytest.approx(0.7)


def test_an_empty_session_has_no_statistics_and_all_come_back_from_json():
    none = np.zeros(0, np.int64)
    empty = Events("s", ["A"], none, none, none, none, none, none, Trades(none, none, none, none, none), Report())
    assert measure(replay(empty)) == (SessionStatistics(), [])
    some = measure(replay(simulate_session(SimConfig(sessions=1, markets=1, seconds=30), 0).events))[0]
    for statistics in (SessionStatistics(), some):
        assert SessionStatistics.from_json(orjson.loads(orjson.dumps(asdict(statistics)))) == statistics
