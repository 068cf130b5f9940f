"""The fit: its statistics mean what they say, and the presets are like what they were fitted to."""

import json

import numpy as np
import pytest

from benchmarks import fit_simulation
from benchmarks.fit_simulation import OBSERVED_MS, observe, recorded, summarize
from loaders.events import Events, Kind, Report, Trades
from loaders.exchange_sim import simulate_session
from loaders.sim_config import SimConfig
from loaders.sim_frames import write_frames


def session(*rows):
    """Make a session of one market from (ms, kind, side, cents, contracts) rows."""
    ms, kind, side, cents, contracts = (np.array(column) for column in zip(*rows, strict=True))
    none = Trades(*(np.zeros(0, np.int64) for _ in range(5)))
    zeros = np.zeros(len(rows), np.int32)
    return Events("one", ["M"], zeros, ms, kind, side, cents * 100, contracts * 100, none, Report())


def test_the_statistics_of_a_book_that_is_known():
    sample = observe(
        session(
            (0, Kind.CLEAR, 0, 0, 0),
            (0, Kind.SET, 0, 40, 10),
            (0, Kind.SET, 0, 38, 5),
            (0, Kind.SET, 1, 57, 20),
            (1_000, Kind.ADD, 0, 41, 4),  # joins a better price: 4 contracts, gone at 7 s
            (3_000, Kind.ADD, 1, 57, 6),  # joins 20 others: never gone
            (5_000, Kind.ADD, 0, 41, -3),
            (7_000, Kind.ADD, 0, 41, -1),
            (70_000, Kind.CLEAR, 0, 0, 0),
        ),
        volume=2.0,
    )
    assert sample.spread.tolist() == [3, 2, 2, 2, 3]
    assert sample.shown_ms.tolist() == [1_000, 2_000, 2_000, 2_000, 63_000]
    assert sample.seconds == 70
    assert sample.depth.tolist() == [
        [10, 4, 4, 1, 10, 20, 20, 26, 26, 26],
        [15, 19, 19, 16, 15, 20, 20, 26, 26, 26],
    ]
    assert sample.joining.tolist() == [4, 6]
    assert sample.life_ms.tolist() == [6_000, OBSERVED_MS]
    assert sample.moves.tolist() == [0.5 - 0.5]
    assert (sample.left, sample.traded) == (4, 2)
    statistics = summarize([sample, sample])
    assert statistics["spread, cents: mean"] == pytest.approx((64 * 3 + 6 * 2) / 70)
    assert statistics["changes a second"] == 5 / 70
    assert statistics["queue gone within 10 s, %"] == 50
    assert statistics["traded, % of what leaves"] == 50


def test_times_near_the_ends_of_the_price_range_do_not_count():
    sample = observe(
        session(
            (0, Kind.CLEAR, 0, 0, 0),
            (0, Kind.SET, 0, 5, 10),
            (0, Kind.SET, 1, 80, 10),
            (1_000, Kind.ADD, 0, 12, 4),
            (3_000, Kind.ADD, 1, 80, -10),
            (7_000, Kind.CLEAR, 0, 0, 0),
        )
    )
    assert sample.seconds == 2
    assert sample.spread.tolist() == [8]
    assert np.isnan(sample.traded)


def test_queues_last_as_long_as_a_walk_through_the_deltas_says():
    events = simulate_session(SimConfig(markets=2, seconds=150, seed=4, rate=4.0), 0).events
    sizes, waiting, best, lives = {}, [], {}, []
    rows = list(zip(events.market, events.time_ms, events.kind, events.side, events.price, events.size, strict=True))
    end_ms = events.time_ms[-1]
    position = 0
    while position < len(rows):
        market, now = rows[position][:2]
        moment = [row for row in rows[position:] if row[:2] == (market, now)]
        last = position + len(moment)
        assert all(row[:2] == (market, now) for row in rows[position:last])
        position = last
        before = dict(sizes)
        for _, _, kind, side, price, size in moment:
            if kind == Kind.CLEAR:
                sizes = {level: n for level, n in sizes.items() if level[0] != market}
            else:
                level = (market, side, price)
                sizes[level] = size if kind == Kind.SET else sizes.get(level, 0) + size
        for level in {level for level in (*before, *sizes) if level[0] == market}:
            change = sizes.get(level, 0) - before.get(level, 0)
            for queue in waiting:
                if queue[0] == level and change < 0 and queue[1] > 0:
                    queue[1] += change
                    if queue[1] <= 0:
                        queue[3] = now
        best = {
            side: max((p for (m, s, p), n in sizes.items() if (m, s) == (market, side) and n), default=0)
            for side in (0, 1)
        }
        if not all(1_000 <= price <= 9_000 for price in best.values()) or moment[0][2] == Kind.CLEAR:
            continue
        for side in (0, 1):
            level = (market, side, best[side])
            if sizes[level] > before.get(level, 0) and end_ms - now >= OBSERVED_MS:
                waiting.append([level, sizes[level], now, None])
    lives = [min(gone - joined, OBSERVED_MS) if gone else OBSERVED_MS for _, _, joined, gone in waiting]
    assert len(lives) > 50
    assert sorted(observe(events).life_ms.tolist()) == sorted(int(life) for life in lives)


def test_a_recording_without_prints_tells_its_volume_by_tickers(tmp_path):
    path = tmp_path / "sim.jsonl.gz"
    simulated = write_frames(SimConfig(markets=2, seconds=120, seed=2), path)
    traded = simulated.events.trades.size.sum() / 100
    assert 0.5 * traded < fit_simulation.traded_volume(path) <= traded


CLOSE = {  # statistic -> how many times as much the preset may show
    "spread, cents: mean": 1.5,
    "at the best, contracts: 50%": 2.0,
    "best 5 levels, contracts: 50%": 1.5,
    "changes a second": 1.3,
    "gap, ms: 90%": 1.5,
    "gap, ms: 99%": 1.5,
    "queue gone within 60 s, %": 1.3,
    "mid moves in 10 s, cents": 1.5,
}
MEASURED = {  # benchmarks/results/fit_simulation.md
    "crypto": (1.21, 570, 3906, 66.4, 37, 127, 100, 6.11),
    "index": (2.82, 252, 2504, 1.13, 2592, 13193, 79.5, 0.98),
}


@pytest.mark.parametrize("name", MEASURED)
def test_presets_are_like_what_they_were_fitted_to(name):
    config = SimConfig.preset(name, markets=1 if name == "crypto" else 2)
    fitted = summarize([observe(simulate_session(config, number).events) for number in range(2)])
    for (statistic, factor), measured in zip(CLOSE.items(), MEASURED[name], strict=True):
        assert measured / factor < fitted[statistic] < measured * factor, statistic


def test_recordings_measure_as_published(recordings):
    paths = sorted(recordings.glob("inxd-*.jsonl.gz"))
    measured = summarize(list(recorded(paths)))
    for statistic, published in zip(CLOSE, MEASURED["index"], strict=True):
        assert measured[statistic] == pytest.approx(published, rel=0.01)


def test_the_benchmark_prints_a_table_and_json(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(fit_simulation, "FILES", {"crypto": "none-*", "index": "none-*"})
    monkeypatch.setattr(fit_simulation.SimConfig, "preset", lambda name, sessions: SimConfig(sessions, 1, 90))
    out = tmp_path / "fit.md"
    assert fit_simulation.main(["--sessions", "1", "--save", str(out)]) == 0
    assert "| | crypto: fitted | index: fitted |" in capsys.readouterr().out
    assert "| spread, cents: mean |" in out.read_text()
    assert fit_simulation.main(["--sessions", "1", "--only", "crypto", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report) == ["crypto"]
    assert report["crypto"]["recordings"] == 0
