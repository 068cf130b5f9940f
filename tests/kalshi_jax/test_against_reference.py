"""The loader and the fast environment equal the oracle, field by field and step by step, on random and recorded books."""

from __future__ import annotations

from dataclasses import replace
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

LARGE_ORDERS = Setting(order_sizes=(500,), orders_per_market=2, maker_rate=175, mark="exit", remembered_levels=128)
SETTINGS = {
    "event clock": Setting(),
    "event clock, five slots, fees for resting": Setting(slots=5, maker_rate=175, order_sizes=(5, 10, 20)),
    "event clock, two large orders": LARGE_ORDERS,
    "100 ms, little cash": Setting(decision_interval_ms=100, initial_cash=12 * DOLLAR, maker_rate=175),
    "1 s, two orders, small and large, that stay": Setting(
        decision_interval_ms=1000,
        order_sizes=(10, 500),
        orders_per_market=2,
        hold_cancels=False,
        taker_flat=70,
        maker_flat=25,
        initial_cash=500 * DOLLAR,
    ),
    "event clock, power queue, fees for resting": Setting(queue_model="power", maker_rate=175, order_sizes=(5, 100)),
    "1 s, two orders, power queue, n = 1": Setting(
        queue_model="power", queue_exponent=1, orders_per_market=2, decision_interval_ms=1000, hold_cancels=False
    ),
    "100 ms, log queue": Setting(queue_model="log", decision_interval_ms=100, hold_cancels=False),
    "event clock, optimistic queue, three slots": Setting(queue_model="optimistic", slots=3, hold_cancels=False),
    "5 s, five slots, two orders, little cash": Setting(
        slots=5,
        orders_per_market=2,
        order_sizes=(5, 10, 20),
        decision_interval_ms=5000,
        initial_cash=60 * DOLLAR,
        mark="exit",
        maker_rate=175,
    ),
}


def recordings(names: tuple[str, ...]) -> list[Path]:
    """The real recordings, or a skipped test where there are none."""
    return [recordings_folder() / f"{name}.jsonl.gz" for name in names]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """One tape, so that each setting compiles once: an account's ruin, random sessions, and recordings if they are there."""
    folder = tmp_path_factory.mktemp("generated")
    paths = [write_recording(folder / "ruin.jsonl", numbered(RUIN))]
    for i in range(12):
        frames = random_frames(i, "ABCDEFG"[: 1 + i % 7], moments=150 + 100 * (i % 7), fixed=i % 2 == 1)
        paths.append(write_recording(folder / f"random-{i}.jsonl", frames))
    return load(paths + (recordings(SMALL) if DATA.is_dir() else []))


@pytest.fixture
def generated() -> range:
    """Random sessions of both generations, with what recordings seldom have: trades through, empty books, new snapshots."""
    return range(1, 13)


@pytest.fixture
def recorded(source: Source) -> range:
    return range(13, 13 + len(recordings(SMALL)))


def test_rows_equal_the_oracles(source):
    assert check_rows(source) > 3000


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_equal_the_oracles_on_generated_books(source, generated, name):
    tally = compare(source, generated, SETTINGS[name])
    assert min(tally.trades, tally.maker_contracts, tally.resting) > 0, tally


@pytest.mark.parametrize("name", [name for name in SETTINGS if "two" in name or "queue" in name])
def test_steps_equal_the_oracles_on_real_books(source, recorded, name):
    tally = compare(source, recorded, SETTINGS[name])
    assert min(tally.trades, tally.resting) > 0, tally


def test_a_ruined_account_ends_where_the_oracles_does(source):
    all_of_it = 500 * 5000 + 87_500  # 500 YES at 50 cents and their fee
    tally = compare(source, [0], replace(LARGE_ORDERS, initial_cash=all_of_it, wild=0.0))
    assert tally.ends["terminated"] > 0, tally


@pytest.mark.slow
def test_five_hundred_episodes_of_a_thousand_steps_equal_the_oracles():
    source = load(recordings(LARGE))
    assert check_rows(source) > 100_000
    longer = Setting(episodes=125, steps=1000, wild=0.0)
    tallies = [
        compare(source, range(len(source.sessions)), replace(longer, slots=m, decision_interval_ms=ms, maker_rate=rate))
        for m, ms, rate in ((1, 0, 0), (1, 1000, 175), (5, 0, 175), (5, 1000, 0))
    ]
    assert sum(tally.episodes for tally in tallies) == 500
    assert sum(tally.steps for tally in tallies) > 200_000, tallies
