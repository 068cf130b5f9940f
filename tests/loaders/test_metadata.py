"""Metadata files: both shapes, every kind of result and fee schedule, and clear errors for what makes no sense."""

import json

import pytest

from kalshi_jax.tape import VOID
from loaders import DataError, MarketFacts, SessionConfig, load_tape, read_metadata, read_store, write_store
from loaders.exchange_sim import SimConfig
from loaders.metadata import facts_of_lifecycle
from loaders.sim_frames import write_frames
from tests.data import data_folder
from tests.reference.frames import delta, snapshot, write_recording


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_an_object_by_ticker_gives_close_times_and_results(tmp_path):
    facts = read_metadata(
        write(
            tmp_path / "m.json",
            {
                "A": {"close_time": "2026-05-11T05:45:00Z", "result": "yes", "strike": 1.5},
                "B": {"close_time": "2026-05-11T05:45:00.250+02:00", "result": "no"},
                "C": {"result": "scalar", "settlement_value_dollars": "0.3725"},
                "D": {"result": "scalar", "settlement_value": 37},
                "E": {"result": "void", "close_time": None},
                "F": {"result": ""},
            },
        )
    )
    assert facts.of("A") == MarketFacts(close_ms=1_778_478_300_000, result=10_000)
    assert facts.of("B") == MarketFacts(close_ms=1_778_471_100_250, result=0)
    assert [facts.of(ticker).result for ticker in "CDEF"] == [3725, 3700, VOID, None]
    assert facts.of("G") is None


def test_answers_of_the_exchange_are_read_as_they_are_and_a_series_gives_its_markets_their_fees(tmp_path):
    answers = {
        "markets": [
            {"ticker": "S-1", "close_time": "2026-05-11T05:45:00Z", "result": "yes"},
            {"ticker": "S-2", "fee_type": "none"},
            {"ticker": "T-1", "result": "no"},
        ],
        "series": [{"ticker": "S", "fee_type": "quadratic_with_maker_fees", "fee_multiplier": 2}],
    }
    facts = read_metadata(write(tmp_path / "m.json", answers))
    assert (facts.of("S-1").taker_rate, facts.of("S-1").maker_rate, facts.of("S-1").result) == (1400, 350, 10_000)
    assert (facts.of("S-2").taker_rate, facts.of("S-2").maker_rate) == (0, 0)
    assert (facts.of("S-3").taker_rate, facts.of("S-3").maker_rate) == (
        1400,
        350,
    )  # a market that only its series knows
    assert (facts.of("T-1").taker_rate, facts.of("T-1").maker_rate) == (700, 0)


@pytest.mark.parametrize(
    ("record", "fees"),
    [
        ({"fee_type": "quadratic"}, (700, 0, 0, 0)),
        ({"fee_type": "quadratic", "fee_multiplier": "0.5"}, (350, 0, 0, 0)),
        ({"fee_type": "quadratic_with_maker_fees"}, (700, 0, 175, 0)),
        ({"fee_type": "quadratic_with_combo_maker_fees"}, (700, 0, 350, 0)),
        ({"fee_type": "flat"}, (0, 70, 0, 70)),
        ({"fee_type": "flat", "fee_multiplier": 2}, (0, 140, 0, 140)),
        ({"fee_type": "none"}, (0, 0, 0, 0)),
        ({}, (700, 0, 0, 0)),
    ],
)
def test_every_fee_schedule(tmp_path, record, fees):
    facts = read_metadata(write(tmp_path / "m.json", {"A": record})).of("A")
    assert (facts.taker_rate, facts.taker_flat, facts.maker_rate, facts.maker_flat) == fees


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "no JSON"),
        ("[1]", "expected an object of markets by ticker"),
        ({"A": 3}, "A: 3: expected an object"),
        ({"markets": [{"result": "yes"}]}, "without its ticker"),
        ({"markets": [], "series": "all"}, "'all': expected records in a list or by ticker"),
        ({"series": {}, "markets": True}, "True: expected records in a list or by ticker"),
        ({"A": {"result": ["yes"]}}, "market A: result=['yes']: expected yes, no, void, scalar or null"),
        ({"A": {"fee_type": ["flat"]}}, "fee_type=['flat']: expected one of quadratic"),
        ({"A": {"close_time": "noon"}}, "market A: close_time='noon': expected an ISO time"),
        ({"A": {"close_time": 1.5}}, "close_time=1.5"),
        ({"A": {"result": "maybe"}}, "market A: result='maybe': expected yes, no, void, scalar or null"),
        ({"A": {"result": "scalar"}}, "settlement_value=None"),
        ({"A": {"result": "scalar", "settlement_value_dollars": "1.2"}}, "settlement_value_dollars='1.2'"),
        ({"A": {"result": "scalar", "settlement_value_dollars": "0.33333"}}, "0.33333"),
        ({"A": {"fee_type": "free"}}, "fee_type='free': expected one of quadratic"),
        ({"A": {"fee_type": "quadratic", "fee_multiplier": -1}}, "fee_multiplier=-1"),
        ({"A": {"fee_type": "quadratic", "fee_multiplier": "NaN"}}, "fee_multiplier='NaN'"),
        ({"A": {"fee_type": "quadratic_with_maker_fees", "fee_multiplier": 0.5}}, "fee_multiplier=0.5"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path, content, message):
    with pytest.raises(DataError) as error:
        read_metadata(write(tmp_path / "m.json", content))
    assert message in str(error.value)


def test_a_store_keeps_what_the_metadata_said_and_takes_no_other(tmp_path):
    known = write(tmp_path / "m.json", {"SIM0-0-0": {"result": "scalar", "settlement_value": 40, "fee_type": "flat"}})
    tape, index = load_tape("synthetic:sessions=1,markets=2,seconds=30", SessionConfig(metadata=known))
    assert tape.market_result[0] == 4000
    assert tape.market_fee.tolist() == [[0, 70, 0, 70], [700, 0, 0, 0]]
    write_store(tmp_path / "store", tape, index)
    assert read_store(tmp_path / "store")[1].sessions == index.sessions
    with pytest.raises(DataError, match="a store has its own"):
        load_tape(tmp_path / "store", SessionConfig(metadata=known))


def test_the_real_metadata_settles_the_markets_whose_close_was_recorded():
    folder = data_folder()
    name = "kxbtc15m-20260513T1259"
    tape, index = load_tape(folder / "recordings" / f"{name}.jsonl.gz", SessionConfig(metadata=folder / "markets.json"))
    session = index.sessions[0]
    assert tape.market_result.tolist() == [10_000, 10_000, -3], "the third market had just opened"
    assert (session.settled, sum(session.report.dropped.values())) == (2, 862)
    report = session.report
    used = report.snapshots + report.deltas + report.trades + report.tickers + report.other
    assert report.rows_read == used + sum(report.dropped.values())


def test_a_recording_tells_by_its_lifecycle_messages_when_its_markets_close_and_how(tmp_path):
    """A simulated session settles alike, loaded directly or from the frames that the exchange would have sent."""
    config = SimConfig(sessions=1, markets=3, seconds=60, seed=4)
    write_frames(config, tmp_path / "synthetic-4-0.jsonl.gz")
    recorded, direct = load_tape(tmp_path / "synthetic-4-0.jsonl.gz"), load_tape(config.spec)
    assert set(recorded[0].market_result.tolist()) == {0, 10_000}
    for name in ("market_result", "market_close_ms", "market_fee"):
        assert getattr(recorded[0], name).tolist() == getattr(direct[0], name).tolist()
    assert recorded[1].sessions[0].markets == direct[1].sessions[0].markets


def test_lifecycle_messages_say_only_what_makes_sense_and_the_last_word_counts():
    known = MarketFacts(close_ms=5_000, maker_rate=175)
    for message, facts in (
        ({"close_ts": 9}, MarketFacts(close_ms=9_000, maker_rate=175)),
        ({"close_ts": "soon", "result": "perhaps"}, known),
        ({"close_ts": True, "result": ["yes"]}, known),
        ({"close_ts": 2**62}, known),
        ({"result": "no"}, MarketFacts(close_ms=5_000, result=0, maker_rate=175)),
        ({"result": "scalar", "settlement_value": "0.3700"}, MarketFacts(5_000, 3_700, maker_rate=175)),
        ({"result": "scalar"}, known),
        ({}, known),
    ):
        assert facts_of_lifecycle(message, known) == facts


def test_markets_of_which_only_the_lifecycle_speaks_are_no_markets_of_the_recording(tmp_path):
    frames = [snapshot(0, {40: 5}, {50: 5}), delta(5, "yes", 40, 1)]
    told = [
        {
            "recv_ms": 3,
            "type": "market_lifecycle_v2",
            "sid": 9,
            "msg": {"market_ticker": t, "result": "yes", "close_ts": 1},
        }
        for t in ("A", "B")
    ]
    _, index = load_tape(write_recording(tmp_path / "r.jsonl", [*frames, *told]))
    assert (index.tickers, index.sessions[0].unused_tickers) == (["A"], [])
