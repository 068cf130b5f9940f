"""The loader and the fast environment equal the oracle, field by field and step by step, on random and recorded books."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.data import DATA, recordings_folder
from tests.reference.books import DOLLAR
from tests.reference.compare import Setting, Source, check_rows, compare, load
from tests.reference.frames import delta, numbered, random_frames, snapshot, write_recording

SMALL = (  # both message generations, 1 to 12 markets, all kinds of exchange time
    "mlb-20260807",
    "kxbtc-20260418",
    "inxd-20230410",
    "kxbtc15m-20260511T0531",
    "kxbtc15m-20260513T0552",
    "kxbtc15m-20260514T0431",
)
LARGE = (*SMALL, "inxd-20230413", "kxbtc15m-20260513T1259", "kxbtc15m-20260513T1640", "kxbtc15m-20260514T0438")

RUIN = [  # NO comes to be bid at 99 and nobody bids for the YES bought at 50
    snapshot(0, {40: 900}, {50: 900}),
    delta(50, "yes", 1, 1),
    snapshot(90, {}, {99: 900}),
    *(delta(100 + i, "no", 1, 1) for i in range(20)),
]

LARGE_ORDERS = Setting(order_sizes=(500,), orders_per_market=2, maker_rate=175, mark="exit")
SETTINGS = {
    "event clock": Setting(),
    "event clock, five slots, fees for resting": Setting(slots=5, maker_rate=175, order_sizes=(5, 10, 20)),
    "event clock, two large orders": LARGE_ORDERS,
    "100 ms, log queue, little cash": Setting(
        queue_model="log", decision_interval_ms=100, initial_cash=12 * DOLLAR, maker_rate=175, hold_cancels=False
    ),
    "1 s, two orders, small and large, that stay, power queue": Setting(
        decision_interval_ms=1000,
        order_sizes=(10, 500),
        orders_per_market=2,
        hold_cancels=False,
        taker_flat=70,
        maker_flat=25,
        initial_cash=500 * DOLLAR,
        queue_model="power",
        queue_exponent=1,
    ),
    "event clock, 30 ms on the way, two orders, optimistic queue": Setting(
        latency_ms=30,
        orders_per_market=2,
        order_sizes=(5, 100),
        maker_rate=175,
        remembered_levels=4,
        queue_model="optimistic",
    ),
    "1 s, 250 ms on the way, three slots, filled by what shows": Setting(
        latency_ms=250,
        decision_interval_ms=1000,
        slots=3,
        hold_cancels=False,
        queue_model="power",
        order_sizes=(10, 500),
        certain_fill="displayed",
    ),
    "5 s, five slots, two orders, filled by what shows, little cash": Setting(
        slots=5,
        orders_per_market=2,
        order_sizes=(5, 10, 20),
        decision_interval_ms=5000,
        initial_cash=60 * DOLLAR,
        mark="exit",
        maker_rate=175,
        hold_cancels=False,
        certain_fill="displayed",
    ),
}


def recordings(names: tuple[str, ...]) -> list[Path]:
    """The real recordings, or a skipped test where there are none."""
    return [recordings_folder() / f"{name}.jsonl.gz" for name in names]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """One tape, so that each setting compiles once: an account's ruin, random sessions, and recordings if they are there.

    Markets of the random sessions close, from before their first event to after the session's last one, and settle in all ways.
    """
    folder = tmp_path_factory.mktemp("generated")
    paths = [write_recording(folder / "ruin.jsonl", numbered(RUIN))]
    closes = json.loads((DATA / "markets.json").read_text()) if DATA.is_dir() else {}
    for i in range(12):
        tickers = [f"{letter}{i}" for letter in "ABCDEFG"[: 1 + i % 7]]
        frames = random_frames(i, tickers, moments=150 + 100 * (i % 7), fixed=i % 2 == 1)
        begin, end = frames[0]["recv_ms"], frames[-1]["recv_ms"]
        for j, ticker in enumerate(tickers[1:] if i % 3 else tickers):
            close = begin + (end - begin) * (-1, 20, 40, 60, 80, 99, 120)[(i + j) % 7] // 100
            result = ("yes", "no", "scalar", "void", None)[(i + 2 * j) % 5]
            closes[ticker] = {"close_time": iso(close), "result": result, "settlement_value_dollars": "0.3725"}
        paths.append(write_recording(folder / f"random-{i}.jsonl", frames))
    (folder / "closes.json").write_text(json.dumps(closes))
    return load(paths + (recordings(SMALL) if DATA.is_dir() else []), folder / "closes.json")


def iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")


@pytest.fixture
def generated(source: Source) -> list[int]:
    """Random sessions of both generations, with what recordings seldom have: trades through, empty books, new snapshots."""
    return [i for i, name in enumerate(source.names) if name.startswith("random")]


@pytest.fixture
def recorded(source: Source) -> list[int]:
    return [source.names.index(path.name.split(".")[0]) for path in recordings(SMALL)]


def test_rows_equal_the_oracles(source):
    assert check_rows(source) > 3000


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_equal_the_oracles_on_generated_books(source, generated, name):
    tally = compare(source, generated, SETTINGS[name])
    assert min(tally.trades, tally.maker_contracts, tally.resting) > 0, tally


@pytest.mark.parametrize("name", [name for name in SETTINGS if "two" in name])
def test_steps_equal_the_oracles_on_real_books(source, recorded, name):
    tally = compare(source, recorded, SETTINGS[name])
    assert min(tally.trades, tally.resting) > 0, tally


def test_a_ruined_account_ends_where_the_oracles_does(source):
    all_of_it = 500 * 5000 + 87_500  # 500 YES at 50 cents and their fee
    tally = compare(source, [0], replace(LARGE_ORDERS, initial_cash=all_of_it, wild=0.0))
    assert tally.ends["terminated"] > 0, tally


@pytest.mark.slow
def test_long_episodes_on_real_recordings_equal_the_oracles():
    """A part of what `benchmarks/check_steps.py` does at length."""
    source = load(recordings(LARGE), DATA / "markets.json")
    assert check_rows(source) > 100_000
    longer = Setting(episodes=40, steps=1000, wild=0.0, near_end=0.3, maker_rate=175)
    tallies = [
        compare(source, range(len(source.sessions)), replace(longer, slots=m, decision_interval_ms=ms))
        for m, ms in ((1, 1000), (5, 0))
    ]
    assert sum(tally.episodes for tally in tallies) == 80
    assert sum(tally.steps for tally in tallies) > 25_000, tallies
    assert sum(sum(tally.results.values()) for tally in tallies) > 0, tallies
