"""Every condition of a filter and every sort does what it says, on any source, and bad values are explained."""

from dataclasses import fields

import pytest
from exchange_frames import START, delta, snapshot, write

from loaders import DataError, SessionConfig, SessionDataLoader, SessionFilter, load_tape, write_store
from loaders.catalogue import SORTS, parse_time, sort_sessions
from loaders.embedded import write_session
from loaders.exchange_sim import SimConfig, simulate_session
from loaders.postgres import SessionRow, list_sessions

DAY = 86_400_000


@pytest.fixture
def folder(tmp_path):
    """Sessions a day apart: `calm` (1 market, spread 2), `wide` (2 markets, spread 10, busier), `still`, `nothing`."""
    write(tmp_path / "calm.jsonl", _session(START, "A", 60, step=10_000))
    wide = [f for market in ("B", "C") for f in _session(START + DAY, market, 52, step=1000)]
    for seq, frame in enumerate(sorted(wide, key=lambda f: f["recv_ms"]), start=1):
        frame["seq"] = seq
    write(tmp_path / "wide.jsonl", sorted(wide, key=lambda f: f["seq"]))
    write(tmp_path / "still.jsonl", [snapshot("D", 1, [(40, 5)], [(58, 1)], START + 2 * DAY)])
    write(tmp_path / "nothing.jsonl", [])
    return tmp_path


def _session(begin, ticker, ask, step):
    yield snapshot(ticker, 1, [(40 if ask == 52 else 58, 5)], [(100 - ask if ask == 60 else 50, 1)], begin - 250)
    for n in range(1, 11):
        yield delta(ticker, 1 + n, "yes", 30, 1, begin + step * n)


def chosen(source, **conditions):
    found = SessionDataLoader(source, SessionConfig(filter=SessionFilter(**conditions))).catalogue()
    return {info.session_id for info in found}


EVERY = {"calm", "wide", "still", "nothing"}
CASES = [
    ({}, EVERY),
    ({"least_changes": 1}, {"calm", "wide"}),
    ({"least_changes": 11}, {"wide"}),
    ({"least_markets": 1}, {"calm", "wide", "still"}),
    ({"least_markets": 2}, {"wide"}),
    ({"most_markets": 1}, EVERY - {"wide"}),
    ({"most_spread": 2.0}, {"calm", "still"}),
    ({"most_spread": 1.9}, set()),
    ({"least_activity": 0.5}, {"wide"}),
    ({"least_activity": 0.05}, {"calm", "wide"}),
    ({"least_quality": 0.3}, {"calm", "wide", "still"}),
    ({"since": str(START + 1)}, {"wide", "still"}),
    ({"until": str(START + DAY - 1000)}, {"calm", "nothing"}),
    ({"since": "2023-11-15", "until": "2023-11-16"}, {"wide"}),
    ({"status": ("unknown",)}, EVERY),
    ({"status": ("closed", "error")}, set()),
    ({"environment": ("production",)}, set()),
    ({"synthetic": "only"}, set()),
    ({"synthetic": "none"}, EVERY),
    ({"skip_marked": True}, {"calm", "wide"}),
]


@pytest.mark.parametrize(("conditions", "expected"), CASES)
def test_each_condition_chooses(folder, conditions, expected):
    assert chosen(folder, **conditions) == expected


def test_each_condition_is_tested():
    assert {name for conditions, _ in CASES for name in conditions} == {field.name for field in fields(SessionFilter)}


def test_a_tape_holds_what_the_filter_lets_pass_from_files_and_from_a_store(folder):
    write_store(folder / "store", *load_tape(folder))
    for source in (folder, folder / "store"):
        for conditions, ids in (({"least_activity": 0.5}, ["wide"]), ({"skip_marked": True}, ["calm", "wide"])):
            config = SessionConfig(filter=SessionFilter(**conditions))
            tape, index = load_tape(source, config)
            assert [info.session_id for info in index.sessions] == ids
            assert tape.num_sessions == len(ids)
        with pytest.raises(DataError, match=r"nothing to load.*least_changes=1000"):
            load_tape(source, SessionConfig(filter=SessionFilter(least_changes=1000)))
        by_name = SessionConfig(session_pool=("still", "calm"), filter=SessionFilter(skip_marked=True))
        assert [info.session_id for info in load_tape(source, by_name)[1].sessions] == ["still", "calm"]


def test_sessions_skipped_for_their_marks_stay_listed_and_those_that_are_ruled_out_do_not(folder):
    write_store(folder / "store", *load_tape(folder))
    for source in (folder, folder / "store"):
        _, index = load_tape(source, SessionConfig(filter=SessionFilter(skip_marked=True)))
        assert {info.session_id: list(info.marks) for info in index.skipped} == {
            "still": ["empty"],
            "nothing": ["empty", "no book"],
        }
        _, index = load_tape(source, SessionConfig(filter=SessionFilter(least_changes=1)))
        assert not index.skipped


def test_strict_loading_does_not_judge_sessions_that_the_filter_rules_out(folder):
    write(folder / "broken.jsonl", [snapshot("B", 1, [(40, 1)], [(50, 1)]), delta("B", 3, "yes", 41, 1, START)])
    write_store(folder / "store", *load_tape(folder))
    for source in (folder, folder / "store"):
        for load in (load_tape, lambda *args: SessionDataLoader(*args).catalogue()):
            load(source, SessionConfig(strict=True, filter=SessionFilter(least_changes=1)))
            with pytest.raises(DataError, match=r"session broken: .* sequence gaps"):
                load(source, SessionConfig(strict=True))


SORTED = {
    "start": ["nothing", "calm", "wide", "still"],
    "session": ["calm", "nothing", "still", "wide"],
    "duration": ["calm", "wide", "nothing", "still"],
    "markets": ["wide", "calm", "still", "nothing"],
    "changes": ["wide", "calm", "nothing", "still"],
    "activity": ["wide", "calm", "nothing", "still"],
    "spread": ["calm", "still", "wide", "nothing"],
    "volatility": ["calm", "nothing", "still", "wide"],
    "quality": ["wide", "calm", "still", "nothing"],
}


@pytest.mark.parametrize("by", SORTS)
def test_each_sort_orders(folder, by):
    catalogue = SessionDataLoader(folder).catalogue()
    assert [info.session_id for info in sort_sessions(catalogue, by)] == SORTED[by]
    turned = sort_sessions(catalogue, by, reverse=True)
    assert [SORTS[by](info) for info in turned] == sorted((SORTS[by](info) for info in catalogue), reverse=True)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"status": ("open",)}, "status 'open': expected one of active, closed, error, unknown"),
        ({"environment": ("prod",)}, "environment 'prod': expected one of local, production"),
        ({"synthetic": "maybe"}, "synthetic 'maybe': expected any, none or only"),
        ({"since": "tomorrow"}, "time 'tomorrow': expected 2026-05-13"),
        ({"until": "2026-13-01"}, "time '2026-13-01': expected"),
        ({"since": "2026-05-14", "until": "2026-05-13"}, "since '2026-05-14' is not before until '2026-05-13'"),
        ({"since": "2026-05-14", "until": "2026-05-14"}, "no session passes"),
        ({"least_changes": -1}, "least_changes -1: expected a number that is 0 or more"),
        ({"least_markets": -1}, "least_markets -1"),
        ({"most_markets": -1}, "most_markets -1"),
        ({"most_spread": float("nan")}, "most_spread nan"),
        ({"least_activity": -0.5}, r"least_activity -0\.5"),
        ({"least_quality": 1.5}, r"least_quality 1\.5: expected 0 to 1"),
        ({"least_markets": 3, "most_markets": 2}, "most_markets 2: no session passes, for least_markets is 3"),
    ],
)
def test_values_that_make_no_sense_are_named(conditions, message):
    with pytest.raises(DataError, match=message):
        SessionFilter(**conditions)


def test_an_unknown_sort_is_named():
    with pytest.raises(DataError, match="sort 'size': expected one of start, session"):
        sort_sessions([], "size")


def test_moments_are_read_in_utc():
    assert parse_time("1778682600000") == 1778682600000
    assert parse_time("2026-05-13T14:30:00") == 1778682600000
    assert parse_time("2026-05-13T16:30:00+02:00") == 1778682600000
    assert parse_time("2026-05-13") == parse_time("20260513") == 1778630400000
    with pytest.raises(DataError, match="time '2026': expected"):  # not two seconds after 1970 began
        parse_time("2026")


ROW = SessionRow(1, START, START + 1000, "closed", "production", False, 2, 1, 100)


@pytest.mark.parametrize(
    ("conditions", "changed", "reads"),
    [
        ({}, {}, True),
        ({"status": ("error",)}, {}, False),
        ({"status": ("error",)}, {"status": "error"}, True),
        ({"environment": ("unknown",)}, {"environment": ""}, True),
        ({"environment": ("paper",)}, {}, False),
        ({"least_changes": 101}, {}, False),
        ({"synthetic": "none"}, {"synthetic": True}, False),
        ({"synthetic": "only"}, {"synthetic": True}, True),
        ({"since": str(START + 30_000)}, {}, True),  # its clock may be a little off
        ({"since": str(START + 100_000)}, {}, False),
        ({"since": str(START + 100_000)}, {"ended_at_ms": None}, True),  # its first change may be any time
        ({"until": str(START)}, {}, True),
        ({"until": str(START - 100_000)}, {}, False),
        ({"skip_marked": True}, {}, True),
        ({"skip_marked": True}, {"environment": "test"}, False),
        ({"skip_marked": True}, {"environment": "test", "synthetic": True}, True),
        ({"skip_marked": True}, {"deltas": 0}, False),
        ({"least_markets": 50, "most_spread": 1.0, "least_quality": 0.9}, {}, True),  # only reading tells
    ],
)
def test_a_listed_session_is_read_unless_its_row_rules_it_out(conditions, changed, reads):
    wanted = SessionFilter(**conditions)
    assert wanted.may_pass(SessionRow(**vars(ROW) | changed)) == reads
    assert wanted.rules_out_unread or reads


def test_only_sessions_that_may_pass_are_read_from_a_database(database, monkeypatch):
    from loaders import postgres

    for number in range(3):
        events = simulate_session(SimConfig(sessions=3, markets=1, seconds=20), number).events
        events.synthetic = number == 2
        events.environment = ("production", "test", "local")[number]
        write_session(database, events)
    read = []

    def spy(url, session_ids=None):
        read.extend(session_ids)
        return real(url, session_ids)

    real = postgres.read_postgres
    monkeypatch.setattr(postgres, "read_postgres", spy)
    assert chosen(database, skip_marked=True, synthetic="none") == {"1"}
    assert read == ["1"]
    read.clear()
    assert chosen(database, environment=("local", "test")) == {"2", "3"}
    assert read == ["2", "3"]
    read.clear()
    named = SessionConfig(session_pool=(3, 2, 1), filter=SessionFilter(least_changes=1, skip_marked=True))
    assert [info.session_id for info in load_tape(database, named)[1].sessions] == ["3", "2", "1"]
    assert read == ["3", "2", "1"]
    with pytest.raises(DataError, match="no session 9"):
        SessionDataLoader(database, SessionConfig(session_id=9, filter=SessionFilter(least_changes=1))).catalogue()
    with pytest.raises(DataError, match=r"no session at all that meets status=\('error',\)"):
        load_tape(database, SessionConfig(filter=SessionFilter(status=("error",))))
    assert len(list_sessions(database)) == 3
