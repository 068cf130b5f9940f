"""A run can be stopped at any moment and goes on to the same bits; what goes wrong stops it with its cause."""

import json
import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest
from rich.console import Console
from toy import Toy, ToyParams

from agents import training
from agents.evaluation import Windows
from agents.networks import ActorCritic
from agents.ppo import Layout
from agents.runs import RunFolder, TrainConfig, describe_data, load_run, make_environment, remember_settings
from agents.training import fit, shortest_episode, train
from loaders import load_tape

ENV = Toy(max_markets=1)
NETWORK = ActorCritic(ENV.num_actions, width=8)
LAYOUT = Layout(num_envs=8, rollout_length=4, epochs=1, minibatches=2)
WINDOWS = Windows(np.zeros((4, 1), np.int32), np.arange(4, dtype=np.int32))
UPDATES = 6
CONFIG = TrainConfig(
    source=("toy",),
    total_steps=UPDATES * LAYOUT.steps,
    num_envs=LAYOUT.num_envs,
    rollout_length=LAYOUT.rollout_length,
    evaluate_every=4,
    checkpoint_every=2,
    keep_checkpoints=2,
    learning_rate=1e-2,
)
QUIET = Console(quiet=True)


def run(path, params=None, **changes):
    config = replace(CONFIG, out=path, **changes)
    path.mkdir(exist_ok=True)
    params = params or ToyParams(episode_length=10)
    return fit(ENV, NETWORK, params, config, LAYOUT, [RunFolder(path, config.keep_checkpoints)], WINDOWS, QUIET)[0]


def learner_bits(path):
    """All arrays of the newest checkpoint."""
    manager = RunFolder(path).checkpoints()
    items = manager.restore(manager.latest_step())
    leaves = jax.tree_util.tree_leaves_with_path([items["weights"], items["rest"]])
    return {
        jax.tree_util.keystr(name): np.asarray(
            jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        )
        for name, x in leaves
    }


def figures(path):
    records = RunFolder(path).records()
    return [{name: value for name, value in record.items() if name != "steps_per_second"} for record in records]


def assert_same_run(one, other):
    first, second = learner_bits(one), learner_bits(other)
    assert first.keys() == second.keys()
    for name, bits in first.items():
        assert bits.tobytes() == second[name].tobytes(), name
    assert figures(one) == figures(other)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    return run(path), path


def test_a_run_leaves_its_metrics_checkpoints_and_evaluations(whole):
    result, path = whole
    assert result.finished
    assert (result.updates, result.steps) == (UPDATES, UPDATES * LAYOUT.steps)
    assert result.steps_per_second > 0
    assert result.compile_seconds > 0
    records = figures(path)
    assert [r["update"] for r in records if r["kind"] == "update"] == list(range(1, UPDATES + 1))
    assert [r["update"] for r in records if r["kind"] == "evaluation"] == [0, 4, 6]
    assert {"reward", "entropy", "kl", "learning_rate", "explained_variance"} <= records[1].keys()
    assert RunFolder(path).checkpoints().all_steps() == [4, 6]
    assert list((path / "tensorboard").iterdir())
    assert result.first_evaluation == records[0]["metrics"]
    assert (
        result.improvement()
        == result.last_evaluation["total_return"]["mean"] - result.first_evaluation["total_return"]["mean"]
    )


def test_ctrl_c_leaves_a_checkpoint_and_the_run_goes_on_to_the_same_bits(whole, tmp_path, monkeypatch):
    check = training.check_figures

    def interrupt(figures, update):
        if update == 3:
            os.kill(os.getpid(), signal.SIGINT)
        check(figures, update)

    monkeypatch.setattr(training, "check_figures", interrupt)
    stopped = run(tmp_path / "run")
    assert (stopped.finished, stopped.updates) == (False, 3)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert run(tmp_path / "run", resume=True).finished
    assert_same_run(whole[1], tmp_path / "run")


def test_a_crash_loses_no_more_than_the_updates_since_the_last_checkpoint(whole, tmp_path, monkeypatch):
    check = training.check_figures

    def crash(figures, update):
        if update == 6:
            raise RuntimeError("power cut")
        check(figures, update)

    monkeypatch.setattr(training, "check_figures", crash)
    with pytest.raises(RuntimeError, match="power cut"):
        run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "update", "upd')  # a line that was cut short
    monkeypatch.undo()
    assert run(tmp_path / "run", resume=True).finished
    assert_same_run(whole[1], tmp_path / "run")


def test_a_run_that_died_before_its_first_checkpoint_begins_again(whole, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"kind": "evaluation", "update": 0}\n')
    run(tmp_path / "run", resume=True)
    assert_same_run(whole[1], tmp_path / "run")


def test_resuming_a_finished_run_does_nothing(whole):
    before = (whole[1] / "metrics.jsonl").read_text()
    again = run(whole[1], resume=True)
    assert (again.finished, again.steps_per_second) == (True, 0)
    assert (whole[1] / "metrics.jsonl").read_text() == before


def test_a_figure_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(FloatingPointError, match=r"update 1: not finite: .*reward"):
        run(tmp_path / "run", ToyParams(prize=np.nan))


def test_episodes_shorter_than_the_rollout_stop_the_run(tmp_path):
    with pytest.raises(ValueError, match="smaller --rollout-length"):
        run(tmp_path / "run", ToyParams(episode_length=2))


def test_devices_that_are_not_there_are_not_promised(tmp_path):
    with pytest.raises(ValueError, match="devices is 99, but JAX has"):
        run(tmp_path / "run", devices=99)


# -- the folder and its settings


DATA = {"sessions": 1, "session_ids": ["a"], "markets": 1, "changes": 5, "synthetic": True}


def test_settings_come_back_as_they_were(tmp_path):
    config = replace(CONFIG, out=tmp_path / "run", order_sizes=(5, 10))
    remember_settings(RunFolder(tmp_path / "run"), config, DATA)
    assert load_run(tmp_path / "run") == (config, DATA)


def test_passwords_stay_out_of_the_folder(tmp_path):
    config = replace(CONFIG, source=("postgresql://reader:hunter2@db/sessions",))
    remember_settings(RunFolder(tmp_path), config, DATA)
    assert "hunter2" not in (tmp_path / "config.json").read_text()


def test_a_run_is_resumed_with_its_own_settings_and_data_only(tmp_path):
    folder, config = RunFolder(tmp_path), replace(CONFIG, resume=True)
    remember_settings(folder, CONFIG, DATA)
    remember_settings(folder, replace(config, total_steps=10**6, source=("moved",)), DATA)
    with pytest.raises(ValueError, match=r"began with learning_rate = 0\.01, but now it is 0\.5"):
        remember_settings(folder, replace(config, learning_rate=0.5), DATA)
    with pytest.raises(ValueError, match="began with changes = 5, but now it is 6"):
        remember_settings(folder, config, DATA | {"changes": 6})


def test_a_folder_with_a_run_is_not_overwritten_and_an_empty_one_not_resumed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(FileExistsError, match="--resume"):
        train(replace(CONFIG, out=tmp_path), QUIET)
    with pytest.raises(FileNotFoundError, match="no run to resume"):
        train(replace(CONFIG, out=tmp_path / "other", resume=True), QUIET)
    with pytest.raises(FileNotFoundError, match="not a run"):
        load_run(tmp_path / "other")
    with pytest.raises(FileNotFoundError, match="has no checkpoint"):
        RunFolder(tmp_path).restore_weights()
    with pytest.raises(ValueError, match="total_steps is 0"):
        replace(CONFIG, total_steps=0)


def test_the_shortest_episode_of_a_tape():
    tape, index = load_tape("synthetic:sessions=1,markets=2,seconds=90")
    assert describe_data(tape, index)["synthetic"]
    config = replace(CONFIG, episode_length=1000, decision_interval_ms=10_000)
    _, params, _ = make_environment(config, tape)
    assert shortest_episode(params) in (7, 8), "90 s of 10 s each, less one"
    _, params, _ = make_environment(replace(config, decision_interval_ms=0), tape)
    rows = np.asarray(tape.track_length)[:2]
    assert shortest_episode(params) == min(rows.min() - 1, 1000) - 1
