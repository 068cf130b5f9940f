"""The fast environment and the loader equal the oracle, field by field and step by step, on random and recorded books."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference.books import DOLLAR
from tests.reference.compare import Setting, Source, check_rows, compare, load
from tests.reference.frames import random_frames, write_recording

RECORDINGS = Path(__file__).parents[3] / "shared" / "data" / "recordings"
SMALL = (  # both message generations, 1 to 12 markets, both kinds of exchange time
    "mlb-20260807",
    "kxbtc-20260418",
    "inxd-20230410",
    "kxbtc15m-20260511T0531",
    "kxbtc15m-20260513T0552",
    "kxbtc15m-20260514T0431",
)
LARGE = (*SMALL, "inxd-20230413", "kxbtc15m-20260513T1259", "kxbtc15m-20260513T1640", "kxbtc15m-20260514T0438")

SETTINGS = {
    "event clock": Setting(),
    "event clock, five slots, fees for resting": Setting(slots=5, maker_rate=175, order_sizes=(5, 10, 20)),
    "100 ms, little cash": Setting(decision_interval_ms=100, initial_cash=12 * DOLLAR, maker_rate=175),
    "1 s, two orders, orders stay": Setting(
        decision_interval_ms=1000, orders_per_market=2, hold_cancels=False, maker_rate=175, maker_flat=25
    ),
    "1 s, five slots, two orders, little cash": Setting(
        slots=5,
        orders_per_market=2,
        order_sizes=(5, 10, 20),
        decision_interval_ms=1000,
        initial_cash=60 * DOLLAR,
        mark="exit",
    ),
    "5 s, large orders, exit marks": Setting(
        decision_interval_ms=5000, order_sizes=(500,), mark="exit", initial_cash=400 * DOLLAR, taker_flat=70
    ),
    "event clock, large orders": Setting(order_sizes=(500,), orders_per_market=2, maker_rate=175),
}


def recordings(names: tuple[str, ...]) -> Source:
    paths = [RECORDINGS / f"{name}.jsonl.gz" for name in names]
    if missing := [path.name for path in paths if not path.exists()]:
        pytest.skip(f"real recordings are not beside this checkout ({RECORDINGS}: no {', '.join(missing)})")
    return load(paths)


@pytest.fixture(scope="module")
def small() -> Source:
    return recordings(SMALL)


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Random sessions of both generations, with what recordings seldom have: trades through, empty books, new snapshots."""
    folder = tmp_path_factory.mktemp("generated")
    sessions = [
        random_frames(seed, "ABCDEFG"[: 1 + seed % 7], moments=150 + 100 * (seed % 7), fixed=seed % 2 == 1)
        for seed in range(12)
    ]
    return load([write_recording(folder / f"random-{i}.jsonl", frames) for i, frames in enumerate(sessions)])


def test_rows_of_generated_recordings_equal_the_oracles(generated):
    assert check_rows(generated) > 3000


def test_rows_of_real_recordings_equal_the_oracles(small):
    assert check_rows(small) > 40_000


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_equal_the_oracles_on_generated_books(generated, name):
    tally = compare(generated, SETTINGS[name])
    assert min(tally.trades, tally.maker_contracts, tally.resting) > 0, tally


@pytest.mark.parametrize("name", SETTINGS)
def test_steps_equal_the_oracles_on_real_books(small, name):
    tally = compare(small, SETTINGS[name])
    assert min(tally.trades, tally.maker_contracts, tally.resting) > 0, tally


@pytest.mark.slow
def test_five_hundred_episodes_of_a_thousand_steps_equal_the_oracles():
    source = recordings(LARGE)
    tallies = [
        compare(
            source,
            Setting(slots=slots, decision_interval_ms=interval, episodes=125, steps=1000, maker_rate=rate, wild=0.0),
        )
        for slots, interval, rate in ((1, 0, 0), (1, 1000, 175), (5, 0, 175), (5, 1000, 0))
    ]
    assert sum(tally.episodes for tally in tallies) == 500
    assert sum(tally.steps for tally in tallies) > 250_000, tallies
