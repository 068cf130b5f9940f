"""The loader finds its source, loads the sessions asked for, and says what it found."""

import gzip
import json
import time
import weakref
from dataclasses import replace

import jax
import numpy as np
import pytest
from exchange_frames import START, delta, snapshot, write

from loaders import DataError, SessionConfig, SessionDataLoader, exchange_sim, load_tape, write_store
from loaders.exchange_sim import SimConfig, simulate_session
from loaders.sim_frames import write_frames


@pytest.fixture
def folder(tmp_path):
    """Three sessions, a day apart."""
    for number, name in enumerate(("mon", "tue", "wed")):
        begin = START + number * 86_400_000
        frames = [
            snapshot("A", 1, [(40, 5)], [(58, 1)], begin),
            delta("A", 2, "yes", 40 + number, 1, begin + 500),
            snapshot("B", 3, recv_ms=begin),
        ]
        write(tmp_path / f"{name}.jsonl.gz", frames)
    return tmp_path


def ids(loaded):
    return [session.session_id for session in loaded[1].sessions]


def test_a_path_a_folder_a_glob_and_a_list_are_sources(folder):
    assert ids(load_tape(folder / "tue.jsonl.gz")) == ["tue"]
    assert ids(load_tape(str(folder))) == ids(load_tape(f"{folder}/*.jsonl.gz")) == ["mon", "tue", "wed"]
    assert ids(load_tape([folder / "wed.jsonl.gz", f"{folder}/m*"])) == ["wed", "mon"]
    with pytest.raises(FileNotFoundError, match="no recording there"):
        load_tape(folder / "thu.jsonl")


def test_session_id_and_session_pool_choose_sessions(folder):
    assert ids(load_tape(folder, SessionConfig(session_id="tue"))) == ["tue"]
    assert ids(load_tape(folder, SessionConfig(session_pool=("wed", "mon")))) == ["wed", "mon"]
    with pytest.raises(DataError, match=r"no session 7 in .*: expected one of mon, tue, wed"):
        load_tape(folder, SessionConfig(session_id=7))


def test_sessions_of_the_simulated_exchange_are_chosen_too_and_unknown_ones_are_named():
    spec = "synthetic:sessions=2,markets=1,seconds=10"
    (_, second) = (info.session_id for info in SessionDataLoader(spec).catalogue())
    assert ids(load_tape(spec, SessionConfig(session_id=second))) == [second]
    with pytest.raises(DataError, match=f"no session 7 in {spec}: expected one of .*{second}"):
        load_tape(spec, SessionConfig(session_pool=(second, 7)))


def test_a_store_is_a_source_of_all_or_some_of_its_sessions(folder):
    empty = write(folder / "nothing.jsonl", [])
    write_store(folder / "store", *load_tape([folder, empty]))
    assert ids(load_tape(folder / "store")) == ids(load_tape([folder / "store"])) == ["mon", "tue", "wed"]
    for chosen in (("wed", "mon"), ("tue", "nothing"), ("mon", "tue", "wed", "nothing")):
        config = SessionConfig(session_pool=chosen)
        stored, built = load_tape(folder / "store", config), load_tape(folder, config)
        assert jax.tree.structure(stored[0]) == jax.tree.structure(built[0])
        assert all(map(np.array_equal, jax.tree.leaves(stored[0]), jax.tree.leaves(built[0])))
        assert (stored[1].sessions, stored[1].skipped) == (built[1].sessions, built[1].skipped)
        assert stored[1].tickers == built[1].tickers
    with pytest.raises(DataError, match=r"no session thu in .*store: expected one of mon, tue, wed, nothing"):
        load_tape(folder / "store", SessionConfig(session_id="thu"))
    with pytest.raises(DataError, match=r"session nothing is left out \(empty, no book\)"):
        load_tape(folder / "store", SessionConfig(session_id="nothing"))
    chosen = SessionDataLoader(folder / "store", SessionConfig(session_id="tue")).catalogue()
    assert [info.session_id for info in chosen] == ["tue"]
    with pytest.raises(DataError, match=r"no session thu in .*store: expected one of mon, tue, wed, nothing"):
        SessionDataLoader(folder / "store", SessionConfig(session_id="thu")).catalogue()


def test_sources_of_different_kinds_are_never_mixed(folder):
    for other in ("synthetic:seed=1", "postgresql://localhost/x"):
        with pytest.raises(DataError, match="expected recordings only in a list"):
            load_tape([folder / "mon.jsonl.gz", other])


def test_the_catalogue_says_what_loading_says(folder):
    seen = []
    loader = SessionDataLoader(folder, progress=lambda *args: seen.append(args))
    catalogue = loader.catalogue()
    assert seen == [(1, 3, "mon"), (2, 3, "tue"), (3, 3, "wed")]
    assert catalogue == loader.load()[1].sessions
    assert seen[3:] == seen[:3]
    tuesday = catalogue[1]
    assert (tuesday.session_id, tuesday.started_at_ms, tuesday.seconds) == ("tue", START + 86_400_000, 0.5)
    assert (len(tuesday.tickers), tuesday.deltas, tuesday.rows, tuesday.report.dropped) == (2, 1, 3, {})
    assert tuesday.statistics.spread_cents == 2.0


def test_the_catalogue_counts_the_prints_that_loading_counts(tmp_path):
    spec = "synthetic:sessions=1,markets=1,seconds=60,rate=20,noise=0.2"
    config = SimConfig.parse(spec)
    write_frames(replace(config, seed=3), tmp_path / "a.jsonl.gz")
    lines = gzip.decompress((tmp_path / "a.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    trades = [i for i, line in enumerate(lines) if json.loads(line)["type"] == "trade"]
    lines[trades[0]] = lines[trades[0]].replace('"count_fp":"', '"count_fp":"9')  # more than can have left its level
    write(tmp_path / "b.jsonl", lines)
    (info,) = SessionDataLoader(tmp_path / "b.jsonl").catalogue()
    assert info.report.prints_unmatched > 0
    assert info.report == load_tape(tmp_path / "b.jsonl")[1].sessions[0].report


@pytest.mark.parametrize("work", [SessionDataLoader.load, SessionDataLoader.catalogue])
def test_a_session_is_let_go_of_before_the_next_is_read(monkeypatch, work):
    read, kept = [], []

    def spy(*args):
        kept.append([column() is not None for column in read])
        session = simulate_session(*args)
        read.append(weakref.ref(session.events.price))
        return session

    monkeypatch.setattr(exchange_sim, "simulate_session", spy)
    work(SessionDataLoader("synthetic:sessions=3,markets=1,seconds=10"))
    assert kept == [[], [False], [False, False]]


def test_crossed_books_are_counted_inside_and_after_a_timestamp(tmp_path):
    frames = [
        snapshot("A", 1, [(40, 5)], [(58, 1)]),
        delta("A", 2, "yes", 42, 1, START + 5),  # crossed
        delta("A", 3, "yes", 43, 1, START + 5),  # still
        delta("A", 4, "no", 58, -1, START + 5),  # resolved
        delta("A", 5, "no", 60, 1, START + 9),  # crossed, and stays
    ]
    (info,) = SessionDataLoader(write(tmp_path / "a.jsonl", frames)).catalogue()
    assert (info.report.crossed_inside, info.report.crossed_after) == (2, 1)


@pytest.mark.slow
def test_all_real_recordings_are_whole(recordings):
    """The figures of the data's own description; a load of everything takes well under a minute."""
    began = time.process_time()
    catalogue = SessionDataLoader(recordings).catalogue()
    assert time.process_time() - began < 60
    reports = [info.report for info in catalogue]
    assert sum(report.deltas for report in reports) == 2_014_716
    assert sum(report.sequence_gaps + report.repaired + report.negative_sizes for report in reports) == 0
    assert not any(report.dropped for report in reports)
    assert len(reports) == 39
    assert sum(report.crossed_after for report in reports) == 0
    assert sum(report.crossed_inside for report in reports) > 0
    crypto = [info for info in catalogue if info.session_id.startswith("kxbtc15m-")]
    assert (len(crypto), sum(info.deltas for info in crypto)) == (35, 1_962_242)


def test_a_config_makes_the_environment_that_it_describes():
    tape, _ = load_tape("synthetic:sessions=1,markets=2,seconds=60")
    config = SessionConfig(max_markets=2, episode_length=7, start_offset=30, temporal_features=False)
    env, params = config.environment(tape, latency_ms=5)
    assert (env.max_markets, env.temporal_features) == (2, False)
    assert (int(params.episode_length), int(params.start_offset), int(params.latency_ms)) == (7, 30, 5)
    assert int(config.environment(tape, episode_length=9)[1].episode_length) == 9
