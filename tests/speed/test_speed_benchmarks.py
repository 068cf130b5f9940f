"""The speed benchmarks on tiny sizes: what they count is what a plain count says, and their reports hold what they promise."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from agents.ppo import ENVS
from agents.runs import TrainConfig
from benchmarks import latency, loading, peers, rollouts, steps_per_sec
from benchmarks.measure import mesh_over
from benchmarks.rollouts import Setting
from kalshi_jax.tape import NO_ROW
from loaders import load_tape
from loaders.events import Kind
from tests.reference.frames import delta, snapshot, write_recording

SOURCE = "synthetic:sessions=1,markets=2,seconds=120"
STEPS = 16


def plain_count(tape, state, until_ms):
    """Rows of each episode's markets after its first decision, up to `until_ms` i32[E]."""
    time_ms, first, rows = (np.asarray(x) for x in (tape.time_ms, tape.track_start, tape.track_length))
    total = 0
    for markets, begin, end in zip(np.asarray(state.markets), np.asarray(state.now_ms), until_ms, strict=True):
        for market in markets[markets >= 0]:
            times = time_ms[first[market] : first[market] + rows[market]]
            total += int(((times > begin) & (times <= end)).sum())
    return total


@pytest.mark.slow
def test_rows_passed_are_those_of_a_plain_count(tmp_path):
    """On a fixed clock they depend on the beginnings alone. Market B begins later, while episodes are under way."""
    frames = [snapshot(0, {40: 100}, {55: 100}), snapshot(5_000, {30: 100}, {65: 100}, "B")]
    frames += [delta(at, "yes", 40, 1) for at in range(100, 20_000, 100)]
    frames += [delta(at, "no", 65, 1, "B") for at in range(5_050, 20_000, 100)]
    recording = write_recording(tmp_path / "two.jsonl", sorted(frames, key=lambda frame: frame["recv_ms"]))
    tape, _ = load_tape(recording)
    world = rollouts.kalshi_world(
        tape, Setting(16, markets=2, changes=4, features="book", actions="wait", episode_length=33)
    )
    program = rollouts.prepare_steps(world, 16, STEPS, devices=1)
    state = jax.device_get(program.carry[1])
    assert (state.row == NO_ROW).any()
    (figures,) = rollouts.time_programs([program], 1)
    found = rollouts.counts(world, program)
    assert (program.runs, figures["transitions"]) == (2, 16 * STEPS)
    steps = STEPS * 2  # one run is the warm-up
    until = np.asarray(state.now_ms) + steps * found["interval_ms"]
    assert (until < np.asarray(state.end_ms)).all(), "no episode ends"
    assert found["rows_per_step"] * 16 * steps == pytest.approx(plain_count(tape, state, until))
    assert found["slots_used"] == 2
    assert found["resting_share"] > 0.3, "orders rest"


@pytest.mark.slow
def test_steps_that_end_an_episode_are_left_out_of_the_count():
    tape, _ = load_tape(SOURCE)
    world = rollouts.kalshi_world(tape, Setting(2, changes=0, features="book", episode_length=4))
    program = rollouts.prepare_steps(world, 2, 32, devices=1)
    program.run()
    found = rollouts.counts(world, program)
    assert found["rows_per_step"] == 1, "the event clock passes a row a step; a reset passes none"
    assert found["interval_ms"] == 0


@pytest.mark.slow
def test_the_report_of_steps_per_second_is_json_with_all_fields(tmp_path, capsys):
    options = {"transitions": 64, "repetitions": 2, "devices": 1, "copy_mb": 1, "at_episodes": 4}
    config = steps_per_sec.Config((SOURCE,), only=("features",), features=("book",), **options)
    report = json.loads(json.dumps(steps_per_sec.run(config), allow_nan=False))
    assert {"cpu", "cores", "backend", "device", "versions", "date"} <= report["machine"].keys()
    assert {"jax", "jaxlib", "flax", "gymnax", "python"} <= report["machine"]["versions"].keys()
    assert report["settings"]["source"] == SOURCE
    (row,) = report["slices"]["features"]
    assert (row["episodes"], row["features"], row["devices"], row["transitions"]) == (4, "book", 1, 4 * 16)
    assert row["run_s"]["min"] <= row["run_s"]["median"] <= row["run_s"]["max"]
    assert row["steps_per_s"] == pytest.approx(64 / row["run_s"]["median"])
    assert row["cartpole_ratio"] == pytest.approx(row["steps_per_s"] / row["cartpole_steps_per_s"])
    assert row["rows_per_s"] == pytest.approx(row["rows_per_step"] * row["steps_per_s"])
    assert row["bandwidth_share"] > 0
    assert row["compile_s"] > 0
    assert row["memory_bytes"] > 0
    changes = steps_per_sec.relative([row, row | {"steps_per_s": 3 * row["steps_per_s"]}])
    assert [each["of_first"] for each in changes] == [1, pytest.approx(3)]
    report["slices"] |= {"episodes": [row], "changes": changes, "compile": [{"program": "x", "cold_s": 2, "warm_s": 1}]}
    steps_per_sec.print_tables(report)
    steps_per_sec.draw(report, tmp_path / "speed.png")
    assert "CartPole" in capsys.readouterr().out
    assert (tmp_path / "speed.png").read_bytes()[:4] == b"\x89PNG"


def test_more_features_and_markets_move_more_bytes():
    tape, _ = load_tape(SOURCE)

    def size(**changed):
        world = rollouts.kalshi_world(tape, Setting(1, **changed))
        return rollouts.step_bytes(world.env, world.inputs[0])

    assert size(features="book") < size(features="time") < size(features="all") < size(markets=5)


@pytest.mark.slow
def test_cartpole_learns_under_the_same_ppo():
    program = rollouts.prepare_ppo(TrainConfig((), num_envs=8), None, devices=1)
    assert program.run() == 8 * 32
    assert np.isfinite(program.found["loss"])


def test_a_cache_makes_compiling_warm(tmp_path):
    def heavy(x):
        for i in range(30):
            x = jax.numpy.sort(x * i) @ x
        return x

    found = rollouts.measure_compiling(jax.jit(heavy), (jax.numpy.ones((8, 8)),), str(tmp_path))
    assert found["warm_s"] < found["cold_s"]
    assert any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        (steps_per_sec, "episodes", (0,)),
        (steps_per_sec, "features", ()),
        (steps_per_sec, "ppo_episodes", 6),
        (steps_per_sec, "devices", -1),
        (latency, "calls", 0),
        (latency, "intervals_ms", (-1,)),
        (loading, "deltas", -1),
        (loading, "repetitions", 0),
        (peers, "episodes", 0),
    ],
)
def test_a_wrong_option_is_named(module, name, value):
    with pytest.raises(ValueError, match=f"{name}=.*expected"):
        module.Config(**{name: value})


def test_a_plot_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"plot=.*expected the slice episodes or changes"):
        steps_per_sec.Config(only=("features",), plot=Path("speed.png"))


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match="devices=99: expected at most"):
        mesh_over(ENVS, 99, 1)


@pytest.mark.slow
def test_latency_times_every_call_on_every_clock():
    report = latency.run(latency.Config((SOURCE,), (1,), (1000,), features="book", calls=3, warm_up=1))
    calls = ["step", "transition", "reset", "observation", "policy", "gymnasium step", "gymnasium reset"]
    assert [row["call"] for row in report["rows"]] == calls
    for row in report["rows"]:
        assert (row["markets"], row["interval_ms"], row["calls"]) == (1, 1000, 3)
        assert 0 < row["median_us"] <= row["p95_us"] <= row["p99_us"]
    json.dumps(report, allow_nan=False)


def test_a_generated_session_has_the_markets_and_deltas_asked_for():
    events = loading.generate_session(0, markets=3, deltas=50, seed=1)
    snapshot = 1 + sum(map(len, loading.LEVELS.values()))
    assert len(events.market) == 3 * snapshot + 50
    assert (events.kind == Kind.CLEAR).sum() == len(events.tickers) == 3
    assert (np.diff(events.time_ms) >= 0).all()
    assert loading.LEVELS[0].max() + loading.LEVELS[1].max() < 100, "no book crosses"


@pytest.mark.slow
def test_loading_measures_files_and_the_database_apart():
    report = loading.run(loading.Config((SOURCE,), sessions=2, markets=3, deltas=(50, 0), repetitions=1))
    files, database = report["rows"]
    tape, index = load_tape(SOURCE)
    assert files["rows"] == int(np.asarray(tape.track_length)[: tape.num_markets].sum())
    assert files["deltas"] == sum(session.deltas for session in index.sessions)
    assert (database["sessions"], database["markets"], database["deltas"]) == (2, 6, 100)
    for row in report["rows"]:
        assert row["bytes_per_row"] == pytest.approx(sum(row["bytes_per_row_by_array"].values()))
        assert row["peak_bytes"] >= row["peak_before_bytes"] > 0
        assert min(row["load_s"]["median"], row["store_load_s"]["median"], row["write_store_s"], row["to_device_s"]) > 0
    loading.print_tables(report)
    json.dumps(report, allow_nan=False)
