"""An exported policy is the network, needs none of what made it, and refuses what it was not made for."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import agents.policy
from agents.cli import main
from agents.export import export_run, random_observation, write_policy
from agents.networks import ActorCritic, empty_memory, forget, forward, sample_actions
from agents.policy import DESCRIPTION, PROGRAM, hash_description, load_policy
from agents.runs import RunFolder, TrainConfig, make_agent, remember_settings
from kalshi_jax import MarketAgnosticKalshiEnv

M = 3
ENV = MarketAgnosticKalshiEnv(M, order_sizes=(5, 10), temporal_features=False, sequence_features=False)
RUN = {"settings": {"source": ["somewhere"]}, "data": {"synthetic": True}, "versions": {"jax": "1"}}


def write(folder, memory=0, precision="float32"):
    """Write a small agent; give its network, its weights, and the policy that was read back."""
    network = ActorCritic(ENV.num_actions, width=16, memory=memory, precision=precision)
    first = agents.policy.Schema.of(ENV, memory)
    observation = jax.tree.map(lambda x: x[0], random_observation(first, 1, seed=0))
    weights = jax.device_get(network.init(jax.random.key(1), observation, empty_memory(network, M)))
    # larger logits than at the beginning of a training, so that what is likeliest is not a matter of rounding
    weights["params"]["logits"]["kernel"] = 100 * weights["params"]["logits"]["kernel"]
    write_policy(folder, ENV, network, weights, RUN)
    return network, weights, load_policy(folder)


@pytest.fixture(scope="module", params=[0, 5], ids=["feed-forward", "recurrent"])
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    network, weights, policy = write(folder, memory=request.param)
    return network, jax.jit(partial(forward, network, weights)), policy, folder


@pytest.fixture(scope="module")
def feed_forward(tmp_path_factory):
    folder = tmp_path_factory.mktemp("feed-forward")
    write(folder)
    return folder


@pytest.fixture
def copy(feed_forward, tmp_path):
    """A policy to damage."""
    return shutil.copytree(feed_forward, tmp_path / "copy")


def some_memory(network, *batch):
    return jax.tree.map(lambda x: jax.random.normal(jax.random.key(7), x.shape), empty_memory(network, *batch, M))


def in_policy(policy, memory, *batch):
    """A network's memory as the policy takes it: an array also where nothing is remembered."""
    return policy.empty_memory(*batch) if isinstance(memory, tuple) else memory


def assert_close(found, expected, tolerance=1e-6):
    for one, other in zip(found, jax.tree.leaves(expected), strict=False):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("batch", [(), (1,), (3,), (64,), (2, 3)])
def test_a_policy_computes_what_the_network_does(exported, batch):
    network, apply, policy, _ = exported
    size = int(np.prod(batch))
    observation = random_observation(policy.schema, size, seed=size)
    observation = jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), observation)
    memory = some_memory(network, *batch)
    found = policy.forward(observation, in_policy(policy, memory, *batch))
    assert [x.shape for x in found] == [(*batch, M, 1, ENV.num_actions), batch, (*batch, M, network.memory)]
    assert_close(found, apply(observation, memory))


def test_memory_is_carried_from_call_to_call_and_forgotten_where_episodes_begin(exported):
    network, apply, policy, _ = exported
    theirs, ours = empty_memory(network, 4, M), policy.empty_memory(4)
    begins = np.array([False, True, False, True])
    for seed in range(3):
        observation = random_observation(policy.schema, 4, seed)
        expected = apply(observation, theirs)
        found = policy.forward(observation, ours)
        assert_close(found, expected)
        theirs, ours = forget(expected[2], begins), policy.forget(found[2], begins)
    assert (ours[begins] == 0).all()
    assert network.memory == 0 or (ours[~begins] != 0).all()


def test_the_likeliest_action_is_taken_or_one_is_drawn_as_in_training(exported):
    network, apply, policy, _ = exported
    observation, memory = random_observation(policy.schema, 200, seed=9), some_memory(network, 200)
    logits, _, after = apply(observation, memory)
    greedy, carried = policy.act(observation, in_policy(policy, memory, 200))
    assert (greedy.shape, greedy.dtype) == ((200, M, 1), np.int32)
    np.testing.assert_array_equal(greedy, jnp.argmax(logits, axis=-1))
    assert_close([carried], [after] if network.memory else [])
    drawn, _ = policy.act(observation, in_policy(policy, memory, 200), jax.random.key(3))
    np.testing.assert_array_equal(drawn, sample_actions(jax.random.key(3), logits)[0])
    assert 0.05 < np.mean(drawn != greedy) < 0.95
    assert np.take_along_axis(observation.action_mask, drawn[..., None], -1).all(), "only what is legal"


def test_half_precision_is_exported_as_it_is(tmp_path):
    network, weights, policy = write(tmp_path, memory=5, precision="bfloat16")
    observation, memory = random_observation(policy.schema, 3, seed=0), some_memory(network, 3)
    found, rounded = (
        policy.forward(observation, memory),
        jax.jit(partial(forward, network, weights))(observation, memory),
    )
    assert_close(found, rounded, tolerance=1e-4)
    whole = jax.jit(partial(forward, network.clone(precision="float32"), weights))(observation, memory)
    assert abs(found[1] - whole[1]).max() > 1e-3, "float32 would have been something else"


def test_a_policy_needs_jax_and_numpy_and_one_file(exported, tmp_path):
    network, apply, policy, folder = exported
    observation, memory = random_observation(policy.schema, 2, seed=5), some_memory(network, 2)
    shutil.copy(agents.policy.__file__, tmp_path / "alone.py")
    np.savez(tmp_path / "seen.npz", memory=in_policy(policy, memory, 2), **vars(observation))
    program = f"""
import sys
from types import SimpleNamespace
import numpy as np
from alone import load_policy
seen = dict(np.load("seen.npz"))
memory = seen.pop("memory")
logits, value, memory = load_policy({str(folder)!r}).forward(SimpleNamespace(**seen), memory)
np.savez("computed.npz", logits=logits, value=value, memory=memory)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    imported = set(ran.stdout.split())
    assert {"jax", "numpy", "alone"} <= imported
    assert not imported & {"flax", "orbax", "optax", "gymnax", "flatbuffers", "kalshi_jax", "loaders", "agents"}
    assert_close(np.load(tmp_path / "computed.npz").values(), apply(observation, memory))


def test_the_description_says_what_goes_in_and_where_it_comes_from(exported):
    network, _, policy, folder = exported
    description = json.loads((folder / DESCRIPTION).read_text())
    assert policy.description == description
    schema = description["schema"]
    assert tuple(schema["features"]) == ENV.feature_names
    assert tuple(schema["portfolio"]) == ENV.portfolio_names
    assert schema["actions"][:2] == ["HOLD", "BUY_YES_NOW_5"]
    assert (schema["market_slots"], schema["order_sizes"], schema["memory"]) == (M, [5, 10], network.memory)
    assert description["run"] == RUN
    assert description["program"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert description["exported_by"]["jax"] == jax.__version__
    assert all(len(digest) == 64 for digest in description["sha256"].values())


# -- what is refused


def rewrite(folder, change):
    """Change the description of a policy, and its own hash with it."""
    file = folder / DESCRIPTION
    description = json.loads(file.read_text())
    change(description)
    description["sha256"][DESCRIPTION] = hash_description(description)
    file.write_text(json.dumps(description))


def test_a_damaged_policy_is_not_loaded(copy):
    program = bytearray((copy / PROGRAM).read_bytes())
    program[len(program) // 2] ^= 1
    (copy / PROGRAM).write_bytes(program)
    with pytest.raises(ValueError, match=r"sha256 of policy\.bin is \w{64}, expected \w{64}: export the run again"):
        load_policy(copy)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('"yes_mid"', '"yes_mud"', r"sha256 of policy\.json"),
        ('"somewhere"', '"elsewhere"', r"sha256 of policy\.json"),
        ('"version": 1', '"version": 2', "kalshi-jax policy version 2: expected kalshi-jax policy version 1"),
        ('"kalshi-jax policy"', '"poem"', "poem version 1: expected"),
        ('"sha256": {', '"sha": {', r"policy\.json: unreadable \(KeyError\('sha256'\)\)"),
        ('"format"', "format", r"policy\.json: unreadable \(JSONDecodeError"),
    ],
)
def test_a_description_that_was_changed_is_not_believed(copy, old, new, reason):
    text = (copy / DESCRIPTION).read_text()
    assert old in text
    (copy / DESCRIPTION).write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=reason):
        load_policy(copy)


def test_a_schema_of_another_policy_is_not_believed(copy):
    rewrite(copy, lambda description: description["schema"]["features"].reverse())
    with pytest.raises(ValueError, match="sha256 of schema"):
        load_policy(copy)


def test_a_program_of_another_age_of_jax_is_named(copy):
    rewrite(copy, lambda description: description["program"].update(calling_convention=99))
    with pytest.raises(ValueError, match=rf"calling convention 99: jax {jax.__version__} knows \d+ to \d+"):
        load_policy(copy)


@pytest.mark.parametrize("name", [DESCRIPTION, PROGRAM])
def test_a_folder_that_is_no_policy_is_named(copy, name):
    (copy / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"has no {name}: name a folder that `kalshi-jax export` has written"):
        load_policy(copy)


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "market",
            lambda x: x[..., :-1],
            r"market of shape \(2, 3, 11\): expected \(2, 3, 12\), 3 market slots by 12 fea",
        ),
        ("market", lambda x: x[:, :2], r"market of shape \(2, 2, 12\): expected \(2, 3, 12\)"),
        (
            "portfolio",
            lambda x: x[:1],
            r"portfolio of shape \(1, 25\): expected \(2, 25\), 25 figures behind the batch \(2,\)",
        ),
        (
            "action_mask",
            lambda x: x[..., :9],
            r"action_mask of shape \(2, 3, 1, 9\): expected \(2, 3, 1, 17\), .* 17 actions",
        ),
    ],
)
def test_an_observation_of_another_schema_is_refused(feed_forward, name, change, reason):
    policy = load_policy(feed_forward)
    observation = random_observation(policy.schema, 2, seed=0)
    other = replace(observation, **{name: change(getattr(observation, name))})
    with pytest.raises(ValueError, match=reason):
        policy.act(other, policy.empty_memory(2))


def test_a_memory_of_another_batch_is_refused(feed_forward):
    policy = load_policy(feed_forward)
    with pytest.raises(ValueError, match=r"memory of shape \(3, 0\): expected \(2, 3, 0\), 3 market slots by 0 units"):
        policy.act(random_observation(policy.schema, 2, seed=0), policy.empty_memory())


@pytest.mark.parametrize(
    ("name", "at", "reason"),
    [
        ("market", (1, 2, 0), r"market\[1, 2, 0\] \(yes_mid\) is nan: expected finite numbers; do not trade"),
        ("portfolio", (0, 24), r"portfolio\[0, 24\] \(time_left\) is nan"),
    ],
)
def test_a_number_that_is_not_finite_is_named(feed_forward, name, at, reason):
    policy = load_policy(feed_forward)
    observation = random_observation(policy.schema, 2, seed=0)
    getattr(observation, name)[at] = np.nan
    with pytest.raises(ValueError, match=reason):
        policy.act(observation, policy.empty_memory(2))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_markets": 2}, "market_slots of 2, the policy 3"),
        ({"temporal_features": True}, "features of 28 entries, the policy 12 entries"),
        ({"order_sizes": (5, 20)}, "order_sizes with 20 at place 1, the policy 10"),
    ],
)
def test_an_environment_that_differs_from_the_run_is_named(feed_forward, change, reason):
    policy = load_policy(feed_forward)
    policy.check_environment(ENV)
    with pytest.raises(ValueError, match=f"the environment has {reason}: make it as the run's was"):
        policy.check_environment(MarketAgnosticKalshiEnv(**{**vars(ENV), **change}))


# -- from a run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run, as training leaves it, without the training."""
    path = tmp_path_factory.mktemp("runs") / "run"
    config = TrainConfig(source=("toy",), out=path, width=8, temporal_features=False, sequence_features=False)
    folder, (env, network) = RunFolder(path), make_agent(config)
    data = {"sessions": 1, "session_ids": ["a"], "markets": 1, "changes": 5, "synthetic": True}
    remember_settings(folder, config, data)
    observation = random_observation(agents.policy.Schema.of(env, 0), 1, seed=0)
    weights = network.init(jax.random.key(0), observation, ())
    folder.checkpoints().save(1, args=ocp.args.Composite(weights=ocp.args.StandardSave(weights)))
    folder.checkpoints().wait_until_finished()
    return path


def test_a_run_is_exported_timed_and_exported_again(run, capsys, tmp_path):
    main(["export", str(run), "--json"])
    result = json.loads(capsys.readouterr().out)
    policy = load_policy(run / "policy")
    assert result["policy"] == str(run / "policy")
    assert result["largest_difference"] < 1e-6
    assert 0 < result["median_ms"] <= result["slowest_percent_ms"] < 1000 * result["compile_seconds"]
    assert result["size_bytes"] == sum(file.stat().st_size for file in (run / "policy").iterdir())
    assert policy.description["run"]["settings"]["width"] == 8
    assert policy.description["run"]["data"]["changes"] == 5
    before = (run / "policy" / PROGRAM).read_bytes()
    main(["export", str(run)])
    text = capsys.readouterr().out
    assert "for cpu, cuda, tpu" in text
    assert "A decision takes" in text
    assert (run / "policy" / PROGRAM).read_bytes() == before, "the same run gives the same policy"
    assert b".py" not in before, "no paths of the machine that wrote it"
    assert export_run(run, tmp_path / "deep" / "policy").policy == tmp_path / "deep" / "policy"


@pytest.mark.parametrize("change", [lambda x: x + 0.1, lambda x: x * np.nan], ids=["another", "nan"])
def test_a_policy_that_is_not_the_network_is_not_handed_over(run, tmp_path, monkeypatch, change):
    whole = agents.export.write_policy

    def other_weights(folder, env, network, weights, about):
        return whole(folder, env, network, jax.tree.map(change, weights), about)

    monkeypatch.setattr(agents.export, "write_policy", other_weights)
    with pytest.raises(FloatingPointError, match="differed from the network by"):
        export_run(run, tmp_path)
    with pytest.raises(FileNotFoundError):
        load_policy(tmp_path)


def test_what_is_no_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path)])
    assert "is not a run" in capsys.readouterr().err
