"""A tape shows at every row what a plain replay shows, and answers its questions as a search through all rows would."""

import gzip
import itertools
import tracemalloc

import jax
import numpy as np
import pytest
from exchange_frames import START, delta, old_delta, old_snapshot, snapshot, write
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_replay import assert_tape_shows, read_frames, replay_events

from kalshi_jax.tape import END_OF_TIME, ROW, highest_bid, locate, row_at
from loaders import DataError, book_at, build_tape, load_tape, tapes
from loaders.events import Events, Kind, Report, Trades
from loaders.exchange_sim import synthetic_events
from loaders.recordings import read_recording
from loaders.replay import replay, top_entries
from loaders.tapes import select_markets, select_sessions


def make_events(changes, name="s", markets=3):
    """Events of (market, time, kind, side, price, size); times are made to ascend within each market."""
    columns = (
        [np.array(column, np.int64) for column in zip(*changes, strict=True)]
        if changes
        else [np.zeros(0, np.int64)] * 6
    )
    market, time, kind, side, price, size = columns
    for m in range(markets):
        time[market == m] = np.sort(time[market == m])
    none = np.zeros(0, np.int64)
    trades = Trades(none, none, none, none, none)
    tickers = [f"{name}-{m}" for m in range(markets)]
    return Events(name, tickers, market, time + START, kind, side, price, size, trades, Report(deltas=len(changes)))


prices = st.sampled_from([*range(100, 1700, 100), 5000, 5001, 9999, 1, 8400, 9900])
clear = st.tuples(st.just(Kind.CLEAR), st.just(0), st.just(0), st.just(0))
absolute = st.tuples(st.just(Kind.SET), st.integers(0, 1), prices, st.integers(0, 400))
relative = st.tuples(st.just(Kind.ADD), st.integers(0, 1), prices, st.integers(-300, 400))
change = st.tuples(st.integers(0, 2), st.integers(0, 60), st.one_of(relative, relative, absolute, absolute, clear))
sessions = st.lists(
    st.lists(change.map(lambda c: (c[0], c[1], *c[2])), min_size=1, max_size=120), min_size=1, max_size=2
)


@settings(max_examples=150, deadline=None)
@given(sessions)
def test_every_row_and_entry_equals_a_plain_replay(batches):
    batch = [make_events(changes, f"s{i}") for i, changes in enumerate(batches)]
    plain = [replay_events(events) for events in batch]
    tape, index = build_tape(batch)
    host = jax.tree.map(np.asarray, tape)
    for i, markets in enumerate(plain):
        assert_tape_shows(host, index, i, markets)


@pytest.mark.parametrize("seed", range(3))
def test_deep_books_equal_a_plain_replay(seed):
    rng = np.random.default_rng(seed)
    n = 3000
    kind = rng.choice([Kind.CLEAR, Kind.SET, Kind.ADD, Kind.ADD], n, p=[0.003, 0.3, 0.3, 0.397])
    columns = (
        rng.integers(0, 3, n),
        rng.integers(0, 900, n),
        kind,
        rng.integers(0, 2, n),
        rng.integers(1, 51, n) * 100,
        rng.integers(-50, 300, n),
    )
    columns[5][kind == Kind.SET] = np.maximum(columns[5][kind == Kind.SET], 0)
    events = make_events(
        [
            (m, t, k, *(rest if k != Kind.CLEAR else (0, 0, 0)))
            for m, t, k, *rest in zip(*(c.tolist() for c in columns), strict=True)
        ]
    )
    plain = replay_events(events)
    assert max(len(book) for market in plain.values() for book in market.books) > 25
    tape, index = build_tape([events])
    assert_tape_shows(jax.tree.map(np.asarray, tape), index, 0, plain)


@settings(max_examples=30, deadline=None)
@given(sessions)
def test_sessions_selected_from_a_tape_equal_a_tape_built_of_them(batches):
    batch = [make_events(changes, f"s{i}") for i, changes in enumerate([*batches, batches[0][:5]])]
    names = [events.session_id for events in batch]
    tape, index = build_tape(batch)
    for chosen in (names[-1:], names[::-1]):
        selected, built = (
            select_sessions(tape, index, chosen),
            build_tape([batch[names.index(name)] for name in chosen]),
        )
        assert jax.tree.structure(selected[0]) == jax.tree.structure(built[0])
        assert all(map(np.array_equal, jax.tree.leaves(selected[0]), jax.tree.leaves(built[0])))
        assert selected[1].tickers == built[1].tickers


def test_sessions_with_trades_selected_from_a_tape_equal_a_tape_built_of_them():
    source = "synthetic:sessions=3,markets=3,seconds=60,seed=3"
    whole, index = load_tape(source)
    assert len(whole.trades) > 20
    chosen = [index.sessions[i].session_id for i in (2, 0)]
    apart = {events.session_id: events for events in synthetic_events(source)}
    built, _ = build_tape([apart[name] for name in chosen])
    jax.tree.map(np.testing.assert_array_equal, select_sessions(whole, index, chosen)[0], built)


def test_markets_selected_from_a_tape_equal_a_tape_built_of_them():
    """The simulated markets of a session all begin with it, so that times count from the same start."""
    source = "synthetic:sessions=3,markets=4,seconds=60,seed=3"
    whole, index = load_tape(source)
    chosen = {index.sessions[2].session_id: ["SIM3-3-2", "SIM0-3-2"], index.sessions[0].session_id: ["SIM2-3-0"]}
    selected, narrowed = select_markets(whole, index, chosen)
    apart = {events.session_id: events for events in synthetic_events(source)}
    built, fewer = build_tape([keep_markets(apart[name], tickers) for name, tickers in chosen.items()])
    jax.tree.map(np.testing.assert_array_equal, selected, built)
    assert narrowed.tickers == fewer.tickers == ["SIM0-3-2", "SIM3-3-2", "SIM2-3-0"], "in the tape's order"
    for one, other in zip(narrowed.sessions, fewer.sessions, strict=True):
        assert (one.markets, one.rows, one.started_at_ms) == (other.markets, other.rows, other.started_at_ms)
    with pytest.raises(DataError, match="no session mon on this tape: expected one of"):
        select_markets(whole, index, {"mon": ["SIM0-3-0"]})
    with pytest.raises(DataError, match="no market SIM0-3-0: expected some of SIM0-3-2, SIM1"):
        select_markets(whole, index, {index.sessions[2].session_id: ["SIM0-3-0"]})
    with pytest.raises(DataError, match="no market is chosen"):
        select_markets(whole, index, {})


def keep_markets(events, tickers):
    """The events of some markets of a session."""
    numbers = [number for number, ticker in enumerate(events.tickers) if ticker in tickers]
    for columns in (events, events.trades):
        kept = np.isin(columns.market, numbers)
        for name, column in vars(columns).items():
            if isinstance(column, np.ndarray):
                setattr(columns, name, column[kept])
    return events


@settings(max_examples=20, deadline=None)
@given(sessions)
def test_no_batching_of_books_changes_them(batches):
    replayed = replay(make_events(batches[0]))
    whole, small = {}, {}
    for batch, found in ((1 << 17, whole), (7, small)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("loaders.replay.BATCH", batch)
            for rows, sides, top in top_entries(replayed, 4):
                found.update({(r, s): t.tolist() for r, s, t in zip(rows.tolist(), sides.tolist(), top, strict=True)})
    assert whole == small
    assert len(whole) == 2 * len(replayed.time_ms)


@pytest.mark.slow
@settings(max_examples=10, deadline=None)
@given(sessions)
def test_the_tape_finds_rows_and_highest_bids_as_a_search_through_all_rows_does(batches):
    tape, _ = build_tape([make_events(changes, f"s{i}") for i, changes in enumerate(batches)])
    host = jax.tree.map(np.asarray, tape)
    tracks, times = np.meshgrid(np.arange(len(host.track_start)), np.arange(-2, 64), indexing="ij")
    found = np.asarray(locate(tape, tracks, times))
    for track, start, length in zip(tracks, host.track_start, host.track_length, strict=True):
        expected = np.searchsorted(host.time_ms[start : start + length], times[0], side="right")
        assert found[track[0]].tolist() == expected.tolist()
    for market in range(tape.num_markets):
        start, length = int(host.track_start[market]), int(host.track_length[market])
        assert int(row_at(tape, market, -1)) == 0
        ranges = list(itertools.combinations_with_replacement(range(start, start + length), 2))
        ranges = np.resize(ranges, (300, 2))  # one shape, so that JAX compiles once
        for side in (0, 1):
            highest = np.asarray(highest_bid(tape, np.full(len(ranges), side), ranges[:, 0], ranges[:, 1]))
            best = host.price[:, side, 0]
            assert highest.tolist() == [int(best[a + 1 : b + 1].max(initial=0)) for a, b in ranges]


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("kxbtc15m-20260511T0531", 1500),
        ("kxbtc15m-20260514T0455", 1500),
        ("inxd-20230413", 1500),
        ("mlb-20260807", 999),
        ("kxbtc-20260418", 99),
    ],
)
def test_real_recordings_replay_as_in_plain_python(recordings, tmp_path, name, lines):
    with gzip.open(recordings / f"{name}.jsonl.gz", "rt") as file:
        head = list(itertools.islice(file, lines))
    path = tmp_path / f"{name}.jsonl"
    path.write_text("".join(head))
    tape, index = load_tape(path)
    assert_tape_shows(jax.tree.map(np.asarray, tape), index, 0, read_frames(head))


def random_sets(changes, markets):
    """Events of one session: sizes of random levels of random markets, one a millisecond."""
    rng = np.random.default_rng(0)
    none = np.zeros(0, np.int64)
    columns = {
        "market": rng.integers(0, markets, changes, np.int32),
        "time_ms": START + np.arange(changes),
        "kind": np.full(changes, Kind.SET, np.int8),
        "side": rng.integers(0, 2, changes, np.int8),
        "price": rng.integers(1, 50, changes, np.int32) * 100,
        "size": rng.integers(0, 300, changes) * 100,
    }
    tickers = [f"s-{m}" for m in range(markets)]
    return Events("s", tickers, **columns, trades=Trades(none, none, none, none, none), report=Report())


def test_groups_of_markets_give_the_same_tape_as_all_at_once(monkeypatch):
    whole, index = build_tape([random_sets(3000, 40)])
    for module, name, few in (("replay", "EVENTS", 200), ("replay", "BATCH", 150), ("tapes", "BATCH", 150)):
        monkeypatch.setattr(f"loaders.{module}.{name}", few)
    parts, other = build_tape([random_sets(3000, 40)])
    jax.tree.map(np.testing.assert_array_equal, whole, parts)
    assert index.sessions == other.sessions


def test_what_building_needs_beside_the_arrays_does_not_grow_with_the_deltas(monkeypatch):
    for name in ("replay.EVENTS", "replay.BATCH", "tapes.BATCH"):
        monkeypatch.setattr(f"loaders.{name}", 1 << 12)
    build_tape([random_sets(100, 40)])  # what is imported or cached once
    beside = {}
    for changes in (10_000, 40_000):
        events = [random_sets(changes, 40)]
        tracemalloc.start()
        tape, _ = build_tape(events.pop() for _ in range(1))
        beside[changes] = tracemalloc.get_traced_memory()[1] - sum(x.nbytes for x in jax.tree.leaves(tape))
        tracemalloc.stop()
    assert beside[40_000] - beside[10_000] < 40 * 30_000  # bytes; the arrays take 480 a change


def test_a_cpu_device_takes_over_the_memory_of_the_large_arrays(monkeypatch):
    allocate, memory = tapes._zeros, set()

    def noted(*arguments):
        array = allocate(*arguments)
        memory.add(array.ctypes.data)
        return array

    monkeypatch.setattr(tapes, "_zeros", noted)
    tape, _ = build_tape([random_sets(100, 2)])
    if tape.levels.device.platform != "cpu":
        pytest.skip("arrays are copied to another device")
    for array in (tape.levels, tape.record, tape.best_max, tape.rhythm):
        assert array.unsafe_buffer_pointer() in memory


def test_a_change_that_leaves_a_level_as_it_was_makes_a_row_but_no_entry():
    changes = [(0, 0, Kind.SET, 0, 5000, 700), (0, 5, Kind.ADD, 0, 5000, 300), (0, 5, Kind.ADD, 0, 5000, -300)]
    tape, _ = build_tape([make_events(changes, markets=1)])
    assert np.asarray(tape.track_length).tolist() == [2, 2]
    assert (np.asarray(tape.entries)[:, ROW] != END_OF_TIME).sum() == 1
    first, second = np.asarray(tape.entry)[1:3, 0, 0].tolist()
    assert first == second > 0


def test_a_level_of_a_fraction_of_a_contract_is_shown_with_size_zero():
    tape, index = build_tape([make_events([(0, 0, Kind.SET, 0, 5000, 27), (0, 0, Kind.SET, 0, 4900, 199)], markets=1)])
    assert book_at(tape, index, "s-0", START).yes_bids == [(50.0, 0), (49.0, 1)]
    assert np.asarray(tape.mark)[1].tolist() == [5000, 10_000]


def test_similar_tapes_have_the_same_shapes_and_padded_rows_are_empty_books_at_the_end_of_time():
    shapes = []
    for count in (230, 250):
        changes = [(0, i * 10, Kind.SET, 0, 5000, 100 * i) for i in range(count)]
        tape, _ = build_tape([make_events(changes, markets=1)])
        shapes.append(jax.tree.map(np.shape, tape))
        assert (np.asarray(tape.time_ms)[count + 1 : tape.price.shape[0]] == END_OF_TIME).all()
        assert (np.asarray(tape.price)[count + 1 :] == 0).all()
        assert (np.asarray(tape.mark)[count + 1 :] == [0, 10_000]).all()
    assert shapes[0] == shapes[1]


def test_bisections_suffice_for_a_burst_after_a_long_quiet_time():
    changes = [(0, 0, Kind.SET, 0, 5000, 100), *((0, 2**30 + i, Kind.ADD, 0, 5000, 100) for i in range(900))]
    tape, _ = build_tape([make_events(changes, markets=1)])
    times = np.array([0, 5, *range(2**30 - 1, 2**30 + 901)], np.int32)
    found = np.asarray(locate(tape, np.zeros(len(times), np.int32), times))
    assert found.tolist() == [1, 1, 1, *range(2, 902), 901]
    assert tape.bisections % 2 == 0
    assert tape.bisections > 0
    assert len(tape.grid) <= 2 * 1024 * 1.5


# -- what does not fit


def test_a_session_that_lasts_longer_than_int32_ms_is_refused():
    changes = [(0, 0, Kind.SET, 0, 5000, 100), (0, 2**31, Kind.SET, 0, 5000, 100)]
    with pytest.raises(DataError, match="session s lasts 2147483648 ms: expected less than"):
        build_tape([make_events(changes, markets=1)])


def test_a_size_that_does_not_fit_is_refused_by_market_and_price():
    with pytest.raises(
        DataError,
        match=r"session s: market s-1 shows 2147483648 contracts at 50\.01 cents: expected at most 2147483647",
    ):
        build_tape([make_events([(0, 0, Kind.SET, 0, 100, 1), (1, 0, Kind.SET, 1, 5001, 2**31 * 100)])])


def test_a_session_that_occurs_twice_is_refused():
    with pytest.raises(DataError, match="session s occurs twice"):
        build_tape([make_events([(0, 0, Kind.SET, 0, 100, 1)]), make_events([])])


def test_sessions_without_a_market_are_skipped_and_listed_and_unused_markets_named():
    empty = make_events([], "empty")
    tape, index = build_tape([empty, make_events([(1, 0, Kind.SET, 0, 100, 500)])])
    assert [info.session_id for info in index.skipped] == ["empty"]
    assert index.skipped[0].unused_tickers == ["empty-0", "empty-1", "empty-2"]
    assert (index.tickers, index.sessions[0].unused_tickers) == (["s-1"], ["s-0", "s-2"])
    assert (tape.num_markets, tape.num_sessions) == (1, 1)
    with pytest.raises(DataError, match=r"nothing to load.*found empty"):
        build_tape([make_events([], "empty")])
    with pytest.raises(DataError, match="no session at all"):
        build_tape([])


# -- book_at


def test_book_at_gives_the_book_after_the_last_change_at_or_before_a_time(tmp_path):
    frames = [
        old_snapshot("A", 1, [(8, 300), (22, 333)], [(54, 20)], START),
        old_delta("A", 2, "yes", 30, 7, START + 10),
    ]
    tape, index = load_tape(write(tmp_path / "a.jsonl", frames))
    assert book_at(tape, index, "A", START + 9).yes_bids == [(22.0, 333), (8.0, 300)]
    assert book_at(tape, index, "A", START + 10).yes_bids == [(30.0, 7), (22.0, 333), (8.0, 300)]
    assert book_at(tape, index, "A", START + 10**12).no_bids == [(54.0, 20)]
    with pytest.raises(DataError, match=f"A: no book at {START - 1}: its first change is at {START}"):
        book_at(tape, index, "A", START - 1)
    with pytest.raises(DataError, match="'B': no such market on this tape"):
        book_at(tape, index, "B", START)


def test_book_at_takes_the_session_that_covers_the_time(tmp_path):
    for number, name in enumerate("xyz"):
        begin = START + number * 1000
        frames = [
            snapshot("A", 1, [(10 + number, 5)], recv_ms=begin),
            delta("A", 2, "yes", 10 + number, 1, begin + 500),
        ]
        write(tmp_path / f"{name}.jsonl", frames)
    tape, index = load_tape(tmp_path)
    asked = (0, 500, 999, 1000, 1600, 2000, 99_999)
    prices = [book_at(tape, index, "A", START + t).yes_bids[0][0] for t in asked]
    assert prices == [10, 10, 10, 11, 11, 12, 12]


def test_book_at_agrees_with_the_exchange_tickers_of_real_recordings(recordings):
    """The exchange's own best prices and sizes at each ticker's own time; the script benchmarks/check_books.py asks all."""
    import orjson

    names = [
        f"kxbtc15m-20260{name}" for name in ("511T0531", "511T0533", "513T0552", "514T0107", "514T0455", "514T0431")
    ]
    paths = [recordings / f"{name}.jsonl.gz" for name in names]
    tape, index = load_tape(paths)
    prices, sizes = [], []
    for path in paths:
        with gzip.open(path) as file:
            frames = [orjson.loads(line) for line in file if b'"ticker"' in line]
        for msg in (frame["msg"] for frame in frames if frame["type"] == "ticker"):
            book = book_at(tape, index, msg["market_ticker"], msg["ts_ms"])
            bid, ask = (book.yes_bids or [(0.0, 0)])[0], (book.no_bids or [(0.0, 0)])[0]
            said = float(msg["yes_bid_dollars"]) * 100, 100 - float(msg["yes_ask_dollars"]) * 100
            prices.append(np.allclose((bid[0], ask[0]), said, atol=1e-6))
            sizes.append(
                prices[-1]
                and (bid[1], ask[1]) == (int(float(msg["yes_bid_size_fp"])), int(float(msg["yes_ask_size_fp"])))
            )
    assert len(prices) > 300
    assert np.mean(prices) >= 0.9995
    assert np.mean(sizes) >= 0.999


def test_reports_of_real_recordings_balance(recordings):
    report = read_recording(recordings / "inxd-20230410.jsonl.gz").report
    used = report.snapshots + report.deltas + report.trades + report.tickers
    assert report.rows_read == used + report.other + sum(report.dropped.values()) == 28_085
    assert (report.deltas, report.trades, report.sequence_gaps) == (27_291, 793, 0)
