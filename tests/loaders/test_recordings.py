"""Recordings become events: formats, times, sequence numbers, and everything that can be wrong with a file."""

import gzip
import json

import numpy as np
import pytest
from exchange_frames import START, delta, old_delta, old_snapshot, snapshot, write
from hypothesis import given, settings
from hypothesis import strategies as st

from loaders import SessionConfig, SessionDataLoader, book_at, load_tape
from loaders.events import DataError, Kind
from loaders.recordings import find_recordings, read_recording, session_id_of


def read(folder, frames, name="a.jsonl", **options):
    events = read_recording(write(folder / name, frames), **options)
    assert_every_row_accounted_for(events.report)
    return events


def assert_every_row_accounted_for(report):
    used = report.snapshots + report.deltas + report.trades + report.tickers
    assert report.rows_read == used + report.other + sum(report.dropped.values())


def changes(events):
    """Events as tuples, times from the start."""
    names = [events.tickers[m] for m in events.market]
    columns = (events.time_ms - START, events.kind, events.side, events.price, events.size)
    return list(zip(names, *(column.tolist() for column in columns), strict=True))


def test_a_snapshot_and_a_delta_of_the_new_format_are_exact(tmp_path):
    events = read(
        tmp_path, [snapshot("A", 1, [(0.1, 84684.46)], [(57, 1)]), delta("A", 2, "no", 99.99, -0.01, START + 7)]
    )
    assert changes(events) == [
        ("A", 0, Kind.CLEAR, 0, 0, 0),
        ("A", 0, Kind.SET, 0, 10, 8_468_446),
        ("A", 0, Kind.SET, 1, 5700, 100),
        ("A", 7, Kind.ADD, 1, 9999, -1),
    ]
    assert (events.report.rows_read, events.report.snapshots, events.report.deltas, events.report.epochs) == (
        2,
        1,
        1,
        1,
    )


def test_both_generations_of_the_format_mean_the_same(tmp_path):
    old = read(
        tmp_path,
        [old_snapshot("A", 1, [(8, 300), (22, 333)], [(54, 20)]), old_delta("A", 2, "yes", 96, -54, START + 9)],
    )
    new = read(
        tmp_path, [snapshot("A", 1, [(8, 300), (22, 333)], [(54, 20)]), delta("A", 2, "yes", 96, -54, START + 9)]
    )
    assert changes(old) == changes(new)


@pytest.mark.parametrize("ending", ["\n", "", "\n\n \n"])
def test_plain_and_gzipped_files_are_read_whatever_their_last_line_ends_in(tmp_path, ending):
    text = (
        "\n".join(json.dumps(f) for f in [snapshot("A", 1, [(8, 3)]), delta("A", 2, "yes", 8, 1)]) + ending
    ).encode()
    plain, one, two = (tmp_path / name for name in ("p.jsonl", "one.jsonl.gz", "two.jsonl.gz"))
    plain.write_bytes(text)
    one.write_bytes(gzip.compress(text))
    two.write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]))  # gzip files may be joined
    books = [changes(read_recording(path)) for path in (plain, one, two)]
    assert books[0] == books[1] == books[2]
    assert len(books[0]) == 3


def test_a_file_longer_than_a_block_is_read_whole(tmp_path):
    frames = [snapshot("A", 1, [(8, 3)])] + [delta("A", i, "yes", 8, 1, START + i) for i in range(2, 9000)]
    events = read(tmp_path, frames, "a.jsonl.gz")
    assert events.report.deltas == 8998
    assert events.size[2:].sum() == 899_800
    assert events.report.sequence_gaps == 0


def test_an_empty_file_has_no_events(tmp_path):
    events = read(tmp_path, [])
    assert len(events.kind) == 0
    assert events.tickers == []


# -- broken files


def test_a_cut_gzip_file_is_an_error_that_says_where_and_what_to_do(tmp_path):
    path = write(
        tmp_path / "cut.jsonl.gz",
        [snapshot("A", 1, [(8, 3)])] + [delta("A", i, "yes", i % 90 + 1, i) for i in range(2, 900)],
    )
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(
        DataError, match=r"cut\.jsonl\.gz:\d+: gzip stream ends early.*expected a complete.*skip_bad_rows=True"
    ):
        read_recording(path)
    events = read_recording(path, skip_bad_rows=True)
    assert 0 < events.report.deltas < 898
    assert events.report.dropped == {"gzip stream ends early or is damaged": 1}
    assert_every_row_accounted_for(events.report)


def test_a_damaged_gzip_file_is_an_error_and_what_comes_before_the_damage_can_be_used(tmp_path):
    frames = [snapshot("A", 1, [(8, 3)]), *(delta("A", i, "yes", i % 90 + 1, i) for i in range(2, 900))]
    path = write(tmp_path / "bad.jsonl.gz", frames)
    sound = path.read_bytes()
    for place, lines in ((-5, 899), (len(sound) // 2, None)):  # of the stored checksum; of the frames
        data = bytearray(sound)
        data[place] ^= 255
        path.write_bytes(data)
        with pytest.raises(DataError, match=rf"bad\.jsonl\.gz:{'900.*damaged' if lines else ''}.*skip_bad_rows=True"):
            read_recording(path)
        events = read_recording(path, skip_bad_rows=True)
        assert events.report.dropped["gzip stream ends early or is damaged"] == 1
        assert events.report.rows_read == lines + 1 if lines else events.report.rows_read > 100
        assert_every_row_accounted_for(events.report)


@pytest.mark.parametrize(
    "line",
    ['{"recv_ms": 17, "type": "orderbo', "[1, 2]", "7", "null", '{"recv_ms": NaN}', '{"a": 1}, {"b": 2}', "\x00"],
)
def test_a_line_that_is_no_object_is_an_error_that_names_it(tmp_path, line):
    frames = [snapshot("A", 1, [(8, 3)]), delta("A", 2, "yes", 8, 1), line]
    with pytest.raises(
        DataError, match=r"a\.jsonl:3: line is not a JSON object.*expected one exchange frame.*repair the line"
    ):
        read(tmp_path, frames)
    events = read(tmp_path, frames, skip_bad_rows=True)
    assert events.report.dropped == {"line is not a JSON object": 1}
    assert events.report.deltas == 1


# -- frames that make no sense


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"price_dollars": "0.0000"}, "price"),
        ({"price_dollars": "1.0000"}, "price"),
        ({"price_dollars": "-0.10"}, "price"),
        ({"price_dollars": "nan"}, "price"),
        ({"price_dollars": "cheap"}, "price"),
        ({"price_dollars": None}, "price"),
        ({"price_dollars": "0.12345"}, "price"),
        ({"price_dollars": [1]}, "price"),
        ({"price_dollars": True}, "price"),
        ({"delta_fp": True}, "size"),
        ({"delta_fp": "nan"}, "size"),
        ({"delta_fp": "inf"}, "size"),
        ({"delta_fp": "many"}, "size"),
        ({"delta_fp": "0.001"}, "size"),
        ({"delta_fp": "1e30"}, "size"),
        ({"delta_fp": None}, "size"),
        ({"side": "maybe"}, "side"),
        ({"side": None}, "side"),
        ({"side": ["yes"]}, "side"),
        ({"market_ticker": None}, "market_ticker"),
        ({"market_ticker": {"A": 1}}, "market_ticker"),
    ],
)
def test_a_delta_that_makes_no_sense_is_counted_under_its_reason(tmp_path, change, reason):
    bad = delta("A", 2, "yes", 8, 1)
    bad["msg"] |= change
    events = read(tmp_path, [snapshot("A", 1, [(8, 3)]), bad, delta("A", 3, "yes", 8, 2)])
    (found,) = events.report.dropped
    assert reason in found
    assert events.report.dropped[found] == 1
    assert events.report.deltas == 1
    assert events.report.sequence_gaps == 0


@pytest.mark.parametrize("kind", ["surprise", None, 7, ["orderbook_delta"]])
def test_a_frame_of_unknown_type_is_counted(tmp_path, kind):
    events = read(tmp_path, [snapshot("A", 1, [(8, 3)]), {"type": kind, "sid": 1, "seq": 2, "msg": "hello"}])
    assert events.report.dropped == {"unknown frame type": 1}


def test_a_delta_before_any_snapshot_is_counted(tmp_path):
    events = read(tmp_path, [delta("A", 1, "yes", 8, 1), snapshot("A", 2, [(8, 3)]), delta("B", 3, "yes", 8, 1)])
    assert events.report.dropped == {"delta before a snapshot of its market": 2}
    assert [kind for _, _, kind, *_ in changes(events)] == [Kind.CLEAR, Kind.SET]


@pytest.mark.parametrize(
    "levels",
    [
        [["0.50"]],
        [["0.50", "-1"]],
        [["0.00", "5"]],
        [["1.00", "5"]],
        [["x", "5"]],
        [["0.50", True]],
        [["0.50", "NaN"]],
        [["0.50", "1"], ["0.5", "2"]],  # which one?
        "0.5",
        [7],
        {"0.5": 1},
    ],
)
def test_an_unreadable_snapshot_ends_what_is_known_of_its_market(tmp_path, levels):
    bad = snapshot("A", 2, recv_ms=START + 5)
    bad["msg"]["yes_dollars_fp"] = levels
    good = snapshot("A", 4, [(9, 1)], recv_ms=START + 9)
    events = read(tmp_path, [snapshot("A", 1, [(8, 3)]), bad, delta("A", 3, "yes", 8, 1, START + 6), good])
    assert changes(events) == [
        ("A", 0, Kind.CLEAR, 0, 0, 0),
        ("A", 0, Kind.SET, 0, 800, 300),
        ("A", 5, Kind.CLEAR, 0, 0, 0),
        ("A", 9, Kind.CLEAR, 0, 0, 0),
        ("A", 9, Kind.SET, 0, 900, 100),
    ]
    assert events.report.dropped == {"snapshot with an unreadable level": 1, "delta before a snapshot of its market": 1}


def test_a_frame_without_any_time_is_counted(tmp_path):
    untimed = delta("A", 2, "yes", 8, 1)
    del untimed["recv_ms"], untimed["msg"]["ts_ms"]
    events = read(tmp_path, [snapshot("A", 1, [(8, 3)]), untimed])
    assert events.report.dropped == {"no time": 1}


def test_a_change_below_zero_leaves_the_level_empty_and_is_counted(tmp_path):
    frames = [
        snapshot("A", 1, [(8, 3)], [(50, 1)]),
        delta("A", 2, "yes", 8, -4, START + 5),
        delta("A", 3, "yes", 8, 2, START + 6),
    ]
    path = write(tmp_path / "a.jsonl", frames)
    tape, index = load_tape(path)
    assert index.sessions[0].report.negative_sizes == 1
    assert [book_at(tape, index, "A", START + ms).yes_bids for ms in (4, 5, 6)] == [[(8.0, 3)], [], [(8.0, 2)]]


def test_a_recording_of_one_row_loads_if_it_is_a_snapshot_and_says_why_not_if_it_is_none(tmp_path):
    tape, index = load_tape(write(tmp_path / "one.jsonl", [snapshot("A", 1, [(8, 3)])]))
    assert (index.tickers, index.sessions[0].rows, tape.num_markets) == (["A"], 1, 1)
    with pytest.raises(
        DataError,
        match=r"nothing to load: .* found two \(empty, no book; dropped {'delta before a snapshot of its market': 1}\)",
    ):
        load_tape(write(tmp_path / "two.jsonl", [delta("A", 1, "yes", 8, 3)]))


@pytest.mark.parametrize(("ms", "fits"), [(2**31 - 2, True), (2**31 - 1, False), (2**31, False), (2**51, False)])
def test_a_recording_that_spans_more_milliseconds_than_fit_is_refused_by_name(tmp_path, ms, fits):
    path = write(tmp_path / "long.jsonl", [snapshot("A", 1, [(8, 3)]), delta("A", 2, "yes", 8, 1, START + ms)])
    if fits:
        assert load_tape(path)[1].sessions[0].rows == 2
    else:
        with pytest.raises(
            DataError, match=rf"session long lasts {ms} ms: expected less than 2\*\*31 - 1 ms .* repair the times"
        ):
            load_tape(path)


@pytest.mark.parametrize("ms", [-1, 2**52, float("nan"), "noon", None, True])
def test_what_is_no_time_is_none(tmp_path, ms):
    """The recorder's clock stands in for the exchange's."""
    bad = delta("A", 2, "yes", 8, 1, recv_ms=START + 7)
    bad["msg"]["ts_ms"] = ms if ms == ms else "NaN"
    events = read(tmp_path, [snapshot("A", 1, [(8, 3)]), bad])
    assert (events.time_ms - START).tolist() == [0, 0, 7]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers(-(2**53), 2**53) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)
FIELDS = [
    "recv_ms",
    "type",
    "sid",
    "seq",
    "msg",
    "market_ticker",
    "side",
    "price_dollars",
    "delta_fp",
    "ts_ms",
    "ts",
    "yes_dollars_fp",
]


@settings(max_examples=200, deadline=None)
@given(damage=st.lists(st.tuples(st.integers(0, 5), st.sampled_from(FIELDS), json_values), max_size=5))
def test_any_damage_to_any_field_is_accounted_for(tmp_path_factory, damage):
    frames = [
        snapshot("A", 1, [(8, 3)], [(9, 1)]),
        *(delta("A", i, "yes", 8, 1, START + i) for i in range(2, 5)),
        snapshot("B", 5),
    ]
    frames.append(
        {
            "recv_ms": START,
            "type": "trade",
            "sid": 2,
            "msg": {"market_ticker": "A", "taker_side": "no", "count": 1, "yes_price": 8},
        }
    )
    for at, name, value in damage:
        inside = isinstance(frames[at].get("msg"), dict) and name not in frames[at]
        (frames[at]["msg"] if inside else frames[at])[name] = value
    events = read_recording(write(tmp_path_factory.mktemp("damaged") / "a.jsonl", frames), skip_bad_rows=True)
    assert_every_row_accounted_for(events.report)
    assert events.report.rows_read == len(frames)
    for market in range(len(events.tickers)):
        assert (np.diff(events.time_ms[events.market == market]) >= 0).all()


# -- sequence numbers


def test_a_gap_makes_all_books_of_its_subscription_unknown_until_each_has_a_snapshot(tmp_path):
    frames = [
        snapshot("A", 1, [(8, 3)]),
        snapshot("B", 2, [(8, 3)]),
        snapshot("C", 1, [(8, 3)], sid=2),
        delta("A", 4, "yes", 8, 1, START + 1),  # 3 is missing
        delta("B", 5, "yes", 8, 1, START + 2),
        delta("C", 2, "yes", 8, 1, START + 2, sid=2),
        snapshot("B", 6, [(7, 1)], recv_ms=START + 3),
        delta("B", 7, "yes", 7, 1, START + 4),
        delta("A", 8, "yes", 8, 1, START + 5),
    ]
    events = read(tmp_path, frames)
    assert events.report.sequence_gaps == 1
    assert events.report.dropped == {"delta after a sequence gap, before the next snapshot of its market": 3}
    after = [change for change in changes(events) if change[1] > 0]
    assert sorted(after) == [
        ("A", 1, Kind.CLEAR, 0, 0, 0),
        ("B", 1, Kind.CLEAR, 0, 0, 0),
        ("B", 3, Kind.CLEAR, 0, 0, 0),
        ("B", 3, Kind.SET, 0, 700, 100),
        ("B", 4, Kind.ADD, 0, 700, 100),
        ("C", 2, Kind.ADD, 0, 800, 100),
    ]


def test_acknowledgements_and_errors_use_sequence_numbers_too(tmp_path):
    ok = {"recv_ms": START, "type": "ok", "id": 4, "sid": 1, "seq": 2, "msg": {"market_tickers": ["A"]}}
    error = {"recv_ms": START, "type": "error", "sid": 1, "seq": 3, "msg": {"code": 8, "msg": "Unknown channel name"}}
    plain = {"recv_ms": START, "type": "subscribed", "id": 1, "msg": {"channel": "trade", "sid": 2}}
    events = read(tmp_path, [plain, snapshot("A", 1, [(8, 3)]), ok, error, delta("A", 4, "yes", 8, 1)])
    assert (events.report.sequence_gaps, events.report.other, events.report.deltas) == (0, 3, 1)


def test_a_restart_at_one_with_a_snapshot_is_a_new_epoch_and_no_gap(tmp_path):
    frames = [
        snapshot("A", 1, [(8, 3)]),
        snapshot("B", 2, [(8, 3)]),
        delta("A", 3, "yes", 8, 1, START + 1),
        snapshot("A", 1, [(9, 1)], recv_ms=START + 5),
        delta("A", 2, "yes", 9, 1, START + 6),
        delta("B", 3, "yes", 8, 1, START + 7),  # B was not subscribed again
    ]
    events = read(tmp_path, frames)
    assert (events.report.sequence_gaps, events.report.epochs, events.report.deltas) == (0, 2, 2)
    assert [change for change in changes(events) if change[0] == "B" and change[1] > 0] == [
        ("B", 5, Kind.CLEAR, 0, 0, 0)
    ]


def test_a_delta_that_restarts_at_one_is_a_gap(tmp_path):
    events = read(tmp_path, [snapshot("A", 1, [(8, 3)]), delta("A", 2, "yes", 8, 1), delta("A", 1, "yes", 8, 1)])
    assert events.report.sequence_gaps == 1
    assert events.report.deltas == 1


def test_a_skipped_line_is_a_gap(tmp_path):
    frames = [snapshot("A", 1, [(8, 3)]), '{"half', delta("A", 3, "yes", 8, 1), snapshot("A", 4, [(7, 2)])]
    events = read(tmp_path, frames, skip_bad_rows=True)
    assert events.report.sequence_gaps == 1
    assert events.report.deltas == 0
    assert events.report.snapshots == 2


# -- times


def test_a_delta_takes_the_exchange_clock_then_its_iso_time_then_the_recorder_clock(tmp_path):
    iso = delta("A", 3, "yes", 8, 1, ts="2023-11-14T22:13:21.145028Z")
    bare = delta("A", 4, "yes", 8, 1, recv_ms=START + 2000)
    del iso["msg"]["ts_ms"], bare["msg"]["ts_ms"]
    events = read(
        tmp_path, [snapshot("A", 1), delta("A", 2, "yes", 8, 1, START + 5, ts="2001-01-01T00:00:00Z"), iso, bare]
    )
    assert (events.time_ms - START).tolist() == [0, 5, 1145, 2000]


@pytest.mark.parametrize(("recv", "expected"), [(-100, -100), (40, 30)])
def test_a_snapshot_is_no_later_than_the_next_delta_of_its_market(tmp_path, recv, expected):
    frames = [
        snapshot("A", 1, [(8, 3)], recv_ms=START + recv),
        delta("B", 2, "yes", 8, 1, START),
        delta("A", 3, "yes", 8, 1, START + 30),
    ]
    assert changes(read(tmp_path, frames))[0][:2] == ("A", expected)


def test_a_snapshot_is_no_earlier_than_what_came_before_it_and_that_is_no_repair(tmp_path):
    events = read(
        tmp_path,
        [snapshot("A", 1, [(8, 3)]), delta("A", 2, "yes", 8, 1, START + 300), snapshot("A", 3, recv_ms=START + 60)],
    )
    assert changes(events)[-1] == ("A", 300, Kind.CLEAR, 0, 0, 0)
    assert events.report.times_repaired == 0


def test_times_that_run_backwards_are_raised_and_counted(tmp_path):
    times = [5, 9, 7, 3, 9, 10]
    frames = [snapshot("A", 1, [(8, 3)]), *(delta("A", i + 2, "yes", 8, 1, START + t) for i, t in enumerate(times))]
    events = read(tmp_path, frames)
    assert (events.time_ms - START).tolist()[2:] == [5, 9, 9, 9, 9, 10]
    assert events.report.times_repaired == 2


# -- strictness


@pytest.mark.parametrize(
    ("name", "frames", "message"),
    [
        (
            "dropped",
            [delta("A", 2, "maybe", 8, 1), delta("A", 3, "yes", 0, 1)],
            r"1 side neither .* \(first: line 3\); 1 price not",
        ),
        ("kind", [{"type": "surprise"}], r"1 unknown frame type \(first: line 3\)"),
        ("gap", [delta("A", 3, "yes", 8, 1)], r"1 sequence gaps \(first: line 3\); 1 delta after a sequence gap"),
        (
            "back",
            [delta("A", 2, "yes", 8, 1, START + 9), delta("A", 3, "yes", 8, 1)],
            r"1 times that ran backwards \(first: line 4\)",
        ),
        ("levels", [snapshot("A", 2, [(8, -3)])], r"1 snapshot with an unreadable level \(first: line 3\)"),
        ("negative", [delta("A", 2, "yes", 8, -9)], r"1 changes below a size of zero: expected"),
        ("crossed", [delta("A", 2, "yes", 99, 9)], rf"1 crossed books \(first: market A at {START}\): expected"),
        ("line", ["{"], r"1 line is not a JSON object \(first: line 3\)"),
    ],
)
def test_strict_loading_refuses_each_repair_and_names_its_first_row(tmp_path, name, frames, message):
    path = write(tmp_path / f"{name}.jsonl", ["", snapshot("A", 1, [(8, 3)], [(50, 1)]), *frames])
    assert load_tape(path, SessionConfig(skip_bad_rows=True))[1].tickers == ["A"]
    strict = SessionDataLoader(path, SessionConfig(skip_bad_rows=True, strict=True))
    for load in (strict.load, strict.catalogue):
        with pytest.raises(DataError, match=f"session {name}: {message}.*mend the source, or load it without strict"):
            load()


def test_strict_loading_takes_what_needs_no_repair(tmp_path):
    """Books that cross inside a timestamp, prints without a decrease, and changes after a known close are as they should be."""
    frames = [
        snapshot("A", 1, [(40, 5)], [(58, 1)]),
        delta("A", 2, "yes", 43, 1, START + 5),
        delta("A", 3, "no", 58, -1, START + 5),
        {
            "type": "trade",
            "recv_ms": START,
            "msg": {"market_ticker": "A", "taker_side": "no", "count": 1, "yes_price": 8},
        },
        {"type": "market_lifecycle_v2", "msg": {"market_ticker": "A", "close_ts": START // 1000 + 1}},
        delta("A", 4, "yes", 43, 1, START + 1000),
    ]
    _, index = load_tape(write(tmp_path / "a.jsonl", frames), SessionConfig(strict=True))
    report = index.sessions[0].report
    assert (report.crossed_inside, report.prints_unmatched) == (1, 1)
    assert report.dropped == {"delta at or after the close of its market": 1}


def test_the_real_recordings_load_strictly(recordings):
    for name in ("mlb-20260807", "kxbtc-20260418", "inxd-20230410"):
        assert load_tape(recordings / f"{name}.jsonl.gz", SessionConfig(strict=True))[1].sessions[0].session_id == name


# -- trades, names


def test_trades_of_both_formats_are_read_and_block_trades_are_not(tmp_path):
    def trade(**msg):
        return {"recv_ms": START + 3, "type": "trade", "sid": 2, "msg": {"market_ticker": "A"} | msg}

    new = {
        "yes_price_dollars": "0.3610",
        "no_price_dollars": "0.6390",
        "count_fp": "2.50",
        "taker_side": "no",
        "ts_ms": START + 1,
    }
    old = {"yes_price": 36, "no_price": 64, "count": 2, "taker_side": "yes", "ts": START // 1000}
    frames = [trade(**new), trade(**old), trade(**new, is_block_trade=True), trade(**(old | {"count": 0}))]
    events = read(tmp_path, frames)
    trades = events.trades
    assert (trades.time_ms - START).tolist() == [1, 3]
    assert trades.yes_price.tolist() == [3610, 3600]
    assert trades.size.tolist() == [250, 200]
    assert trades.taker_side.tolist() == [1, 0]
    assert (events.report.trades, events.report.other, sum(events.report.dropped.values())) == (2, 1, 1)


def test_recordings_are_found_by_path_folder_glob_and_list_once_each(tmp_path):
    for name in ("b.jsonl", "a.jsonl.gz", "notes.txt"):
        write(tmp_path / name, [])
    expected = [tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"]
    assert find_recordings(tmp_path) == find_recordings(f"{tmp_path}/*.jsonl*") == expected
    assert find_recordings([str(expected[1]), tmp_path]) == expected[::-1]
    assert [session_id_of(path) for path in expected] == ["a", "b"]
    with pytest.raises(FileNotFoundError, match="no recording there"):
        find_recordings(tmp_path / "absent*")
