"""A run can be stopped at any moment and goes on to the same bits; what goes wrong stops it with its cause."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from toy import Toy, ToyParams

from agents import training
from agents.evaluation import Windows
from agents.journal import worries
from agents.networks import ActorCritic
from agents.ppo import Layout, Learner
from agents.runs import RunFolder, TrainConfig, describe_data, load_run, make_environment, remember_settings
from agents.training import Arena, curriculum, fit, shortest_episode, train
from loaders import SessionInfo, Stage, load_tape

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


def run_all(path, params=None, validation=None, weights=None, network=NETWORK, **changes):
    config = replace(CONFIG, out=path, **changes)
    path.mkdir(exist_ok=True)
    params = params or ToyParams(episode_length=10)
    folder = RunFolder(path, config.keep_checkpoints)
    folders = folder.of_seeds(config.seeds_used) if config.seeds > 1 else [folder]
    for part in folders:
        part.path.mkdir(exist_ok=True)
    return fit(ENV, network, params, config, LAYOUT, folders, WINDOWS, QUIET, validation, weights)


def run(path, params=None, **changes):
    (result,) = run_all(path, params, **changes)
    return result


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


# -- several agents, held-out markets, stages, processes


def test_agents_of_several_seeds_train_as_each_does_alone(whole, tmp_path):
    results = run_all(tmp_path / "run", seeds=2)
    assert [result.run.name for result in results] == ["seed-0", "seed-1"]
    assert_same_run(whole[1], tmp_path / "run" / "seed-0")
    run(tmp_path / "alone", seed=1)
    assert_same_run(tmp_path / "alone", tmp_path / "run" / "seed-1")


def test_of_several_agents_one_that_saved_less_is_waited_for(tmp_path):
    run_all(tmp_path / "whole", seeds=2)
    run_all(tmp_path / "run", seeds=2, total_steps=4 * LAYOUT.steps)
    shutil.rmtree(tmp_path / "run" / "seed-1" / "checkpoints" / "4")  # as if killed between the two
    assert [r.updates for r in run_all(tmp_path / "run", seeds=2, resume=True)] == [UPDATES, UPDATES]
    kept = figures(tmp_path / "run" / "seed-1")
    assert [r["update"] for r in kept if r["kind"] == "update"] == list(range(1, UPDATES + 1))


def test_the_best_checkpoint_is_that_which_earned_most_on_markets_held_out(tmp_path, monkeypatch):
    plain, judged = training.evaluate, []
    earned = (
        0.0,
        1.0,
        0.0,
        5.0,
        0.0,
        3.0,
    )  # on the training windows and those held out by turns, after 0, 4 and 6 updates

    def pretend(env, network, weights, params, windows, *rest, **more):
        (outcome,) = plain(env, network, weights, params, windows, *rest, **more)
        if windows is not WINDOWS:
            outcome.metrics["total_return"] = np.full((1, 4), earned[len(judged)])
        judged.append(0)
        return [outcome]

    monkeypatch.setattr(training, "evaluate", pretend)
    held_out = Arena(ToyParams(episode_length=10), Windows(WINDOWS.markets, WINDOWS.start_ms + 7))
    result = run(tmp_path / "run", validation=held_out)
    folder = RunFolder(tmp_path / "run")
    assert result.best_validation["update"] == folder.best().latest_step() == 4
    assert result.best_validation["metrics"]["total_return"]["mean"] == 5.0
    newest, best = folder.restore_weights(newest=True), folder.restore_weights()
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(newest), jax.tree.leaves(best), strict=True))
    assert {r["update"] for r in folder.records() if r["kind"] == "validation"} == {0, 4, 6}


def test_the_curriculum_draws_from_other_sessions_as_the_run_goes_on(monkeypatch):
    tape, index = load_tape("synthetic:sessions=3,markets=2,seconds=60")
    stages = iter([Stage.STABLE, Stage.MODERATE, Stage.ALL])
    monkeypatch.setattr(SessionInfo, "stage", property(lambda session: next(stages)))
    weights = curriculum(replace(CONFIG, decision_interval_ms=0), tape, index)
    shares = [np.diff(np.asarray(weights(progress)), prepend=0).reshape(3, 2).sum(1) for progress in (0.0, 0.3, 0.9)]
    np.testing.assert_allclose(shares[0], [1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(shares[1], [0, 1, 0], atol=1e-6)
    assert (shares[2] > 0.2).all()


def test_what_should_worry_is_explained_once(whole, tmp_path):
    names = ("HOLD", "BUY_YES_NOW")
    first = {"entropy": 2.0, "actions": [0.5, 0.5]}
    assert worries(first, first, names) == {}
    found = worries(first, {"entropy": 0.01, "actions": [0.99, 0.01]}, names)
    assert "entropy has collapsed to 0.0100 nats (2.00 at first)" in found["entropy"]
    assert "99% of all decisions are HOLD" in found["action"]
    assert "whatever it sees" in worries(first, {"entropy": 1.0, "actions": [0.02, 0.98]}, names)["action"]
    run(tmp_path / "run", learning_rate=3.0, entropy_weight=0.0)  # far too fast
    told = [r["about"] for r in figures(tmp_path / "run") if r["kind"] == "warning"]
    assert 1 <= len(told) == len(set(told))


@pytest.mark.slow
def test_two_processes_train_what_one_does_on_two_devices(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    cluster = {"JAX_NUM_CPU_DEVICES": "1", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    members = [("together", cluster | {"JAX_PROCESS_ID": str(i)}) for i in range(2)]
    members.append(("alone", {"JAX_NUM_CPU_DEVICES": "2"}))
    program, root = [sys.executable, str(Path(__file__).with_name("two_devices.py"))], str(Path(__file__).parents[2])
    processes = [
        subprocess.Popen([*program, str(tmp_path / name)], env=os.environ | {"PYTHONPATH": root} | its, stderr=-1)
        for name, its in members
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    for newest in (True, False):
        here, there = (RunFolder(tmp_path / name).restore_weights(newest) for name in ("together", "alone"))
        chex.assert_trees_all_close(here, there, rtol=1e-5, atol=1e-6)
    kept = [r["update"] for r in figures(tmp_path / "together") if r["kind"] == "update"]
    assert kept == list(range(1, UPDATES + 1)), "the first process wrote, and only it"


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


def test_a_checkpoint_of_another_version_is_refused_but_its_weights_are_there(tmp_path):
    zero = jnp.zeros(2)
    saved = Learner({"w": zero}, zero, {"taken": zero}, (), zero, zero, zero, zero, updates=jnp.int32(3))
    folder = RunFolder(tmp_path)
    folder.save(saved)
    with pytest.raises(ValueError, match=r"checkpoint of update 3 does not hold what this version trains: .*--resume"):
        folder.restore(saved.replace(env_states={"taken": (zero, zero)}), 3)
    assert folder.restore_weights().keys() == {"w"}


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
