"""No market crosses from one part of a split to another, whatever the sessions; and a split that leaks is found out."""

from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, replace

import numpy as np
import orjson
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from kalshi_jax.tape import OPEN
from loaders import DataError, MarketInfo, Report, SessionDataLoader, SessionInfo, TapeIndex, load_tape
from loaders.metadata import series_of
from loaders.splits import PARTS, Split, check_split, split_sessions
from loaders.statistics import MarketStatistics, SessionStatistics
from loaders.tapes import select_markets


def session(name, start, end, rows):
    """A session of markets with so many rows: {ticker: rows}."""
    markets = [MarketInfo(None, OPEN, (700, 0, 0, 0), MarketStatistics(n, 1.0, 1.0, 1.0, 0.0)) for n in rows.values()]
    total = sum(rows.values())
    return SessionInfo(name, start, end, list(rows), markets, [], total, "", "", False, Report(), SessionStatistics())


def index_of(*sessions):
    tickers = [ticker for info in sessions for ticker in info.tickers]
    return TapeIndex(list(sessions), tickers, np.repeat(np.arange(len(sessions)), [len(s.tickers) for s in sessions]))


def days(*rows):
    """Sessions a, b, c, ... one a day, ten hours each."""
    return index_of(*(session("abcdefghij"[i], i * 24, i * 24 + 10, some) for i, some in enumerate(rows)))


tickers = st.builds("{}-{}".format, st.sampled_from("WXYZ"), st.integers(0, 12))
recorded = st.tuples(
    st.integers(0, 60),
    st.sampled_from([0, 1, 2, 2, 15]),
    st.dictionaries(tickers, st.integers(1, 100), min_size=1, max_size=5),
)
shares = st.sampled_from([0.05, 0.15, 0.3, 0.45])


@contextmanager
def suppress_too_little():
    """Let pass that there is too little to split, and nothing else."""
    try:
        yield
    except DataError as error:
        if not str(error).startswith("split by"):
            raise


@settings(max_examples=200)
@given(
    st.lists(recorded, min_size=3, max_size=16),
    st.sampled_from(["time", "series", "both"]),
    shares,
    shares,
    st.integers(0, 3),
)
def test_no_market_crosses(drawn, by, validation, test, seed):
    sessions = {f"s{i}": (start, start + length) for i, (start, length, _) in enumerate(drawn)}
    index = index_of(*(session(f"s{i}", a, a + n, rows) for i, (a, n, rows) in enumerate(drawn)))
    split = None
    with suppress_too_little():
        split = split_sessions(index, by, validation=validation, test=test, seed=seed)
    event(f"{by}: {'split' if split else 'too little'}")
    if split is None:
        return
    homes = {}
    for part, markets in split.parts.items():
        assert markets
        for name in markets:
            for ticker in markets[name]:
                homes.setdefault(ticker, set()).add(part)
    assert all(len(parts) == 1 for parts in homes.values()), "a market is in one part"
    if by != "time":
        series = {}
        for ticker, parts in homes.items():
            series.setdefault(ticker[0], set()).update(parts)
        assert all(len(parts) == 1 for parts in series.values()), "and so is a series"
    if by != "series":
        spans = [[sessions[name] for name in split.parts[part]] for part in PARTS]
        assert max(end for _, end in spans[0]) < min(start for start, _ in spans[1])
        assert max(end for _, end in spans[1]) < min(start for start, _ in spans[2])
    placed = Counter(
        (name, ticker)
        for markets in (*split.parts.values(), split.left_out)
        for name, some in markets.items()
        for ticker in some
    )
    assert placed == Counter((info.session_id, ticker) for info in index.sessions for ticker in info.tickers)
    assert Split.from_json(orjson.loads(orjson.dumps(asdict(split)))) == split


def test_by_time_parts_have_their_shares_and_begin_at_starts_of_sessions():
    index = days(*({f"W-{i}": 10} for i in range(10)))
    split = split_sessions(index, validation=0.2, test=0.1)
    assert [len(markets) for markets in split.parts.values()] == [7, 2, 1]
    assert (split.boundaries_ms, split.left_out) == ((7 * 24, 9 * 24), {})
    assert list(split.test) == ["j"]


def test_a_market_recorded_twice_stays_where_it_has_most_rows():
    index = days({"W-0": 50, "W-9": 5}, {"W-9": 7, "W-1": 5}, {"W-9": 6, "W-2": 5})
    split = split_sessions(index, validation=0.3, test=0.3)
    assert split.parts == {"train": {"a": ["W-0"]}, "validation": {"b": ["W-9", "W-1"]}, "test": {"c": ["W-2"]}}
    assert split.left_out == {"a": ["W-9"], "c": ["W-9"]}


def test_a_session_under_way_at_a_boundary_is_left_out():
    long = session("long", 0, 30, {"W-5": 1})
    index = index_of(long, *days(*({f"W-{i}": 100} for i in range(3))).sessions)
    split = split_sessions(index, validation=0.33, test=0.33)
    assert split.left_out == {"long": ["W-5"]}
    assert [list(markets) for markets in split.parts.values()] == [["a"], ["b"], ["c"]]


def test_by_series_the_largest_stays_for_training_and_sessions_are_divided():
    index = days({"W-0": 80, "X-0": 10}, {"Y-1": 10, "W-1": 10})
    split = split_sessions(index, "series", validation=0.1, test=0.1)
    assert split.train == {"a": ["W-0"], "b": ["W-1"]}
    assert sorted(split.held_out) == [("X",), ("Y",)]
    named = split_sessions(index, "series", series=(["W"], ["X"]))
    assert named.parts == {"train": {"b": ["Y-1"]}, "validation": {"a": ["W-0"], "b": ["W-1"]}, "test": {"a": ["X-0"]}}


def test_by_both_training_knows_neither_the_time_nor_the_series():
    index = days(*({f"W-{i}": 100, f"X-{i}": 10, f"Y-{i}": 10} for i in range(3)))
    split = split_sessions(index, "both", validation=0.33, test=0.33, series=(["X"], ["Y"]))
    assert split.parts == {"train": {"a": ["W-0"]}, "validation": {"b": ["X-1"]}, "test": {"c": ["Y-2"]}}
    assert split.left_out == {"a": ["X-0", "Y-0"], "b": ["W-1", "Y-1"], "c": ["W-2", "X-2"]}


WHOLE = days({"W-0": 5, "X-0": 5}, {"W-1": 5}, {"W-2": 5, "Y-2": 5})
TIMELY = Split({"a": ["W-0"]}, {"b": ["W-1"]}, {"c": ["W-2"]}, {}, (24, 48), None)
SERIAL = Split({"a": ["W-0"]}, {"a": ["X-0"]}, {"c": ["Y-2"]}, {}, None, (("X",), ("Y",)))


@pytest.mark.parametrize(
    ("leak", "message"),
    [
        (
            replace(TIMELY, test={"a": ["W-0"]}),
            r"market W-0 crosses: it is in the train part \(session a\) and in the test",
        ),
        (replace(SERIAL, train={"a": ["W-0"], "c": ["Y-2"]}, test={}), "series Y crosses: it belongs to the test part"),
        (
            replace(SERIAL, validation={"a": ["X-0"], "b": ["W-1"]}),
            r"series W crosses.*train part, but the validation part has its market W-1 \(session b\)",
        ),
        (
            replace(TIMELY, train={"b": ["W-1"]}, validation={"a": ["W-0"]}),
            "times cross: session b of the train part runs until 34, session a of the validation part begins at 0",
        ),
        (replace(TIMELY, validation={}, train={"c": ["Y-2"]}), "times cross: session c of the train part"),
        (replace(TIMELY, test={"z": ["W-2"]}), "the test part has session z, which is not on this tape"),
        (replace(TIMELY, test={"c": ["W-7"]}), "the test part has market W-7, which session c has not"),
    ],
)
def test_a_leak_is_named(leak, message):
    check_split(TIMELY, WHOLE)
    check_split(SERIAL, WHOLE)
    with pytest.raises(DataError, match=message):
        check_split(leak, WHOLE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"by": "day"}, "by 'day': expected time, series or both"),
        ({"validation": 0.6, "test": 0.5}, r"validation 0\.6 and test 0\.5: expected shares"),
        ({"test": 0}, "test 0: expected shares"),
        ({"series": ("X", "Y")}, "a split by time holds out none"),
        ({"by": "series", "series": (["X"], ["Q"])}, "series 'Q' is on no market of this tape: expected.*W, X, Y"),
        ({"by": "series", "series": (["X"], ["X"])}, "series 'X' is named twice"),
        ({"by": "series", "series": (["W", "X"], ["Y"])}, "no market is left for train of 5 in 3 sessions"),
        ({"by": "series", "series": ([], ["Y"])}, "no market is left for validation"),
        ({"by": "both", "series": (["X"], ["Y"])}, "no market is left for validation"),
    ],
)
def test_what_cannot_be_split_is_explained(arguments, message):
    with pytest.raises(DataError, match=message):
        split_sessions(WHOLE, **arguments)


def test_too_little_to_split_is_explained():
    with pytest.raises(DataError, match="2 different starts of sessions: expected at least 3"):
        split_sessions(days({"W-0": 1}, {"W-1": 1}))
    with pytest.raises(DataError, match=r"2 series on this tape \(W, X\): expected at least 3"):
        split_sessions(days({"W-0": 1, "X-1": 1}), "series")


def test_the_tapes_of_the_parts_share_no_market():
    tape, index = load_tape("synthetic:sessions=4,markets=3,seconds=60")
    for by in ("time", "series"):
        split = split_sessions(index, by, validation=0.25, test=0.25)
        tapes = [select_markets(tape, index, markets) for markets in split.parts.values()]
        for (part, chosen), markets in zip(tapes, split.parts.values(), strict=True):
            assert chosen.tickers == [ticker for some in markets.values() for ticker in some]
            assert part.num_markets == len(chosen.tickers)
        assert len({ticker for _, chosen in tapes for ticker in chosen.tickers}) == sum(
            len(chosen.tickers) for _, chosen in tapes
        )


def test_real_recordings_split_by_time_and_by_series(recordings):
    names = (
        "inxd-20230410",
        "kxbtc-20260418",
        "*0511T0531",
        "*0511T0533",
        "*0513T0552",
        "*0514T0107",
        "*0514T0455",
        "mlb",
    )
    paths = [path for name in names for path in sorted(recordings.glob(f"{name}*.jsonl.gz"))]
    index = index_of(*SessionDataLoader(paths).catalogue())
    by_time = split_sessions(index, validation=0.2, test=0.3)
    held = [{ticker for some in markets.values() for ticker in some} for markets in by_time.parts.values()]
    assert min(map(len, held)) > 0
    assert not held[0] & held[1] | held[1] & held[2] | held[0] & held[2]
    shared = {t for t, n in Counter(index.tickers).items() if n > 1}
    assert shared, "recordings that follow one another share the market that is open"
    by_series = split_sessions(index, "series", series=(["INXD"], ["KXBTC"]))
    assert {series_of(ticker) for some in by_series.train.values() for ticker in some} >= {"KXBTC15M", "KXMLBGAME"}
    assert list(by_series.test) == ["kxbtc-20260418"]
