"""A source is read from its store while that is up to date, and only then."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from database import execute
from exchange_frames import START, delta, snapshot, write

from agents.cli import main
from loaders import DataError, SessionConfig, SessionFilter, cached_tape, read_store
from loaders.embedded import write_session
from loaders.exchange_sim import SimConfig, synthetic_events
from loaders.store import read_manifest


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("mon", "tue"):
        write(tmp_path / "in" / f"{name}.jsonl", [snapshot("A", 1, [(40, 5)]), delta("A", 2, "yes", 41, 1, START + 9)])
    return tmp_path


def test_the_second_load_reads_what_the_first_one_built(folder):
    first = cached_tape(folder / "in", folder / "store")
    assert first[2] == "there was none"
    data = read_manifest(folder / "store")["data"]
    second = cached_tape(str(folder / "in"), folder / "store")
    assert second[2] == ""
    assert read_manifest(folder / "store")["data"] == data, "nothing was written"
    assert all(map(np.array_equal, jax.tree.leaves(second[0]), jax.tree.leaves(first[0])))
    assert second[1].sessions == first[1].sessions


def test_a_source_that_changed_is_read_again_and_the_reason_is_given(folder):
    def why(config=None, **options):
        """Load twice; the second time nothing has changed."""
        reason = cached_tape(folder / "in", folder / "store", config, **options)[2]
        assert cached_tape(folder / "in", folder / "store", config)[2] == ""
        return reason.replace(str((folder / "in").resolve()), "in")

    assert why() == "there was none"
    write(folder / "in" / "wed.jsonl", [snapshot("B", 1, [(40, 5)])])
    assert why() == "in/wed.jsonl is new"
    write(folder / "in" / "wed.jsonl", [snapshot("B", 1, [(40, 6)])])
    assert why() == "in/wed.jsonl has changed"
    assert len(read_store(folder / "store")[1].sessions) == 3
    (folder / "in" / "wed.jsonl").unlink()
    assert why() == "in/wed.jsonl is gone"
    facts = folder / "facts.json"
    facts.write_text("{}")
    assert why(SessionConfig(metadata=facts)) == f"{facts.resolve()} is new"
    facts.write_text('{"A": {"result": "yes"}}')
    assert why(SessionConfig(metadata=facts)) == f"{facts.resolve()} has changed"
    assert why() == f"{facts.resolve()} is gone"
    assert why(SessionConfig(skip_bad_rows=True)) == "skip_bad_rows has changed"
    assert why(SessionConfig(skip_bad_rows=True, session_pool=("mon",))).startswith("session_pool has changed, and")
    assert why() != ""
    assert why(SessionConfig(episode_length=7, strict=True)) == "", "the tape would be the same"
    assert why(rebuild=True) == "to build it again was asked for"


def test_a_damaged_store_and_one_of_another_version_are_built_again(folder):
    tape, *_ = cached_tape(folder / "in", folder / "store")
    manifest = folder / "store" / "manifest.json"
    file = folder / "store" / read_manifest(folder / "store")["data"] / "levels.npy"
    file.write_bytes(file.read_bytes()[:-1])
    again, _, why = cached_tape(folder / "in", folder / "store")
    assert "levels.npy: checksum" in why
    assert np.array_equal(again.price, tape.price)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 1}))
    assert "version 1: expected" in cached_tape(folder / "in", folder / "store")[2]
    manifest.write_text("{")
    assert "unreadable" in cached_tape(folder / "in", folder / "store")[2]
    assert cached_tape(folder / "in", folder / "store")[2] == ""


def test_a_failed_build_leaves_the_store_that_was_there(folder):
    cached_tape(folder / "in", folder / "store")
    write(folder / "in" / "wed.jsonl", ["{"])
    with pytest.raises(DataError, match=r"wed\.jsonl:1: line is not a JSON object"):
        cached_tape(folder / "in", folder / "store")
    assert len(read_store(folder / "store")[1].sessions) == 2


def test_a_stored_session_with_repairs_is_refused_when_strict(folder):
    write(folder / "in" / "mon.jsonl", [snapshot("A", 1, [(40, 5)]), delta("A", 2, "yes", 41, -1, START + 9)])
    cached_tape(folder / "in", folder / "store")
    with pytest.raises(DataError, match="session mon: 1 changes below a size of zero"):
        cached_tape(folder / "in", folder / "store", SessionConfig(strict=True))


def test_a_store_is_no_source_of_a_store(folder):
    cached_tape(folder / "in", folder / "store")
    with pytest.raises(DataError, match="store: is a store already"):
        cached_tape(folder / "store", folder / "other")


def test_the_simulated_exchange_is_known_by_its_configuration(tmp_path):
    spec = "synthetic:sessions=1,markets=1,seconds=20"
    assert cached_tape(spec, tmp_path / "store")[2] == "there was none"
    assert cached_tape(f"{spec},seed=0", tmp_path / "store")[2] == "", "0 is the default"
    assert cached_tape(f"{spec},seed=1", tmp_path / "store")[2] == "simulated exchange has changed"


def test_a_database_is_known_by_its_sessions_and_their_rows(database, tmp_path):
    first, second = synthetic_events(SimConfig(sessions=2, markets=1, seconds=20))
    number = write_session(database, first)
    one = SessionConfig(session_id=number)
    assert (
        cached_tape(database, tmp_path / "one", one)[2]
        == cached_tape(database, tmp_path / "all")[2]
        == "there was none"
    )
    assert cached_tape(database, tmp_path / "all")[2] == ""
    other = write_session(database, second)
    assert cached_tape(database, tmp_path / "all")[2] == f"session {other} is new"
    assert cached_tape(database, tmp_path / "one", one)[2] == "", "it is of the first session only"


def test_a_session_that_the_filter_rules_out_may_go_on_growing(database, tmp_path):
    closed, active = synthetic_events(SimConfig(sessions=2, markets=1, seconds=20))
    write_session(database, closed)
    config = SessionConfig(filter=SessionFilter(status=("closed",)))
    assert cached_tape(database, tmp_path / "store", config)[2] == "there was none"
    number = write_session(database, active)
    execute(database, f"UPDATE rl_orderbook_sessions SET status = 'active' WHERE session_id = {number}")
    assert cached_tape(database, tmp_path / "store", config)[2] == ""
    execute(database, f"UPDATE rl_orderbook_sessions SET status = 'closed' WHERE session_id = {number}")
    assert cached_tape(database, tmp_path / "store", config)[2] == f"session {number} is new"


BUILD = """
import sys
from loaders import cached_tape
print(cached_tape(sys.argv[1], sys.argv[2])[2] or "up to date")
"""


def test_of_two_processes_that_want_a_store_one_builds_it_and_the_other_waits(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    source = "synthetic:sessions=1,markets=2,seconds=400"
    command = [sys.executable, "-c", BUILD, source, str(tmp_path / "store")]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(process.communicate(timeout=120)[0].strip() for process in both)
    assert said == ["there was none", "up to date"]


def test_build_says_whether_it_did_anything(folder, capsys):
    def build(*options):
        main(["build", str(folder / "in"), "--out", str(folder / "store"), *options])
        return capsys.readouterr().out

    assert "built, for there was none" in build()
    assert "up to date, left as it is" in build()
    assert json.loads(build("--json"))["built"] is None
    assert json.loads(build("--json", "--force"))["built"] == "to build it again was asked for"
