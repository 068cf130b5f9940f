"""A stored tape comes back as it was, whole or not at all, whoever is killed while writing it and whoever else writes."""

import dataclasses
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import orjson
import pytest
from exchange_frames import START, delta, snapshot, write

from loaders import DataError, load_tape, read_store, write_store
from loaders.store import LOCK, is_store, locked, read_manifest


@pytest.fixture
def built(tmp_path):
    frames = [
        snapshot("A", 1, [(8, 300)], [(54, 20)]),
        delta("A", 2, "yes", 8.5, 1.25, START + 4),
        delta("B", 3, "no", 1, 1),
    ]
    write(tmp_path / "recordings-empty.jsonl", [])
    return load_tape([write(tmp_path / "one.jsonl", frames), tmp_path / "recordings-empty.jsonl"])


def assert_same(one, other):
    assert jax.tree.structure(one[0]) == jax.tree.structure(other[0])
    for a, b in zip(jax.tree.leaves(one[0]), jax.tree.leaves(other[0]), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)
    for name in ("sessions", "tickers", "skipped"):
        assert getattr(one[1], name) == getattr(other[1], name)
    assert np.array_equal(one[1].session_of_market, other[1].session_of_market)


def test_a_stored_tape_and_index_come_back_equal(built, tmp_path):
    write_store(tmp_path / "new" / "store", *built)
    assert is_store(tmp_path / "new" / "store")
    assert_same(read_store(tmp_path / "new" / "store"), built)
    assert_same(load_tape(str(tmp_path / "new" / "store")), built)


def test_writing_again_replaces_the_store_and_leaves_nothing_beside_it(built, tmp_path):
    folder = tmp_path / "out" / "store"
    write_store(folder, *built)
    changed = dataclasses.replace(built[0], record=built[0].record + 1)
    write_store(folder, changed, built[1])
    assert_same(read_store(folder), (changed, built[1]))
    assert_nothing_but_one_tape(folder)


def assert_nothing_but_one_tape(folder):
    assert [path.name for path in folder.parent.iterdir()] == ["store"]
    assert {path.name for path in folder.iterdir()} == {LOCK, "manifest.json", read_manifest(folder)["data"]}


def test_an_interrupted_write_leaves_the_old_store_and_nothing_else(built, tmp_path, monkeypatch):
    folder = tmp_path / "out" / "store"
    write_store(folder, *built)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_store(folder, *built)
    assert_same(read_store(folder), built)
    assert_nothing_but_one_tape(folder)


def test_an_interrupted_write_leaves_a_store_of_another_version_whole_too(built, tmp_path, monkeypatch):
    folder = tmp_path / "store"
    monkeypatch.setattr("loaders.store.VERSION", 7)
    write_store(folder, *built)
    monkeypatch.undo()
    monkeypatch.setattr(os, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_store(folder, *built)
    monkeypatch.setattr("loaders.store.VERSION", 7)
    assert_same(read_store(folder), built)


def test_what_was_read_stays_readable_when_the_store_is_replaced_or_removed(built, tmp_path):
    folder = tmp_path / "store"
    write_store(folder, *built)
    tape, index = read_store(folder)
    write_store(folder, dataclasses.replace(built[0], record=built[0].record + 1), index)
    assert_same((tape, index), built)


def test_on_a_cpu_the_arrays_are_the_files_and_may_be_donated(built, tmp_path):
    write_store(tmp_path / "store", *built)
    tape, _ = read_store(tmp_path / "store")
    mapped = Path("/proc/self/maps")
    if jax.default_backend() != "cpu" or not mapped.exists():
        pytest.skip("needs a CPU backend and a system that lists what a process has mapped")
    assert read_manifest(tmp_path / "store")["data"] in mapped.read_text()
    add_one = jax.jit(lambda x: x + 1, donate_argnums=0)
    assert np.array_equal(add_one(tape.record), np.asarray(built[0].record) + 1)
    assert_same(read_store(tmp_path / "store"), built)


def run_writers(*arguments, wait=True):
    """Run store_writers.py; return what it printed."""
    command = [sys.executable, str(Path(__file__).with_name("store_writers.py")), *map(str, arguments)]
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True)
    if not wait:
        return process
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return output


def test_a_writer_killed_at_any_step_leaves_the_old_store_or_the_new_one(tmp_path):
    """The first write may leave none; what is left behind is gone after the next write that is let live."""
    for present, outcomes in (("none", {"none", "new"}), ("old", {"old", "new"})):
        *found, last = run_writers("killed-at-every-step", tmp_path / present / "store", present).split()
        assert len(found) > 20, "a kill before every step on a file"
        assert set(found) == outcomes
        assert found == sorted(found, key=["none", "old", "new"].index), (
            "there is one step at which it becomes the store"
        )
        assert last == "new"
        assert_nothing_but_one_tape(tmp_path / present / "store")


def test_a_writer_killed_at_any_moment_leaves_a_whole_store(tmp_path):
    found = run_writers("killed-at-random", tmp_path / "out" / "store").split()
    assert len(found) == 10
    assert set(found) <= {"old", "new"}
    assert_nothing_but_one_tape(tmp_path / "out" / "store")


def test_readers_find_a_whole_store_while_two_processes_write_it(built, tmp_path):
    folder = tmp_path / "out" / "store"
    write_store(folder, *built)
    writers = [run_writers("write", folder, name, 8, wait=False) for name in ("old", "new")]
    found = set()
    while any(writer.poll() is None for writer in writers):
        tape, index = read_store(folder)
        found.add(index.tickers[0])
        if index.tickers != ["A"]:
            value = ["OLD", "NEW"].index(index.tickers[0]) + 1
            assert all((array == value).all() for array in jax.tree.leaves(tape)), "of one writer, whole"
    assert [writer.wait() for writer in writers] == [0, 0]
    assert read_store(folder)[1].tickers in (["OLD"], ["NEW"]), "the last one wins"
    assert len(found) > 1
    assert_nothing_but_one_tape(folder)


def test_a_second_writer_waits_for_the_first(built, tmp_path):
    folder = tmp_path / "store"
    with locked(folder):
        second = threading.Thread(target=write_store, args=(folder, *built))
        second.start()
        second.join(0.1)
        assert second.is_alive()
        assert not is_store(folder)
    second.join()
    assert_same(read_store(folder), built)


def test_a_folder_that_is_no_store_is_never_overwritten(built, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(FileExistsError, match="expected no such path, an empty folder or a store"):
            write_store(place, *built)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    app = tmp_path / "app" / "manifest.json"
    app.parent.mkdir()
    app.write_text('{"name": "of a web application"}')
    with pytest.raises(FileExistsError, match="expected no such path, an empty folder or a store"):
        write_store(app.parent, *built)
    assert app.read_text() == '{"name": "of a web application"}'
    (tmp_path / "empty").mkdir()
    write_store(tmp_path / "empty", *built)


@pytest.mark.parametrize("name", ["levels.npy", "index.json"])
def test_a_damaged_file_is_an_error_that_names_it(built, tmp_path, name):
    write_store(tmp_path / "store", *built)
    file = tmp_path / "store" / read_manifest(tmp_path / "store")["data"] / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()  # never write to a file that may be mapped
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: checksum .* expected .*: build the store again"):
        read_store(tmp_path / "store")
    file.write_bytes(b"")
    with pytest.raises(DataError, match=f"{name}: checksum 00000000"):
        read_store(tmp_path / "store")
    file.unlink()
    with pytest.raises(DataError, match=f"{name}: missing from the store"):
        read_store(tmp_path / "store")


def test_a_flipped_bit_or_a_lost_end_anywhere_is_refused_or_makes_no_difference(built, tmp_path):
    folder = tmp_path / "store"
    write_store(folder, *built, {"a source": [1, 2]})
    files = [folder / "manifest.json", *sorted((folder / read_manifest(folder)["data"]).iterdir())]
    refused = 0
    for seed in range(150):
        rng = random.Random(seed)
        file = files[0] if seed % 3 == 0 else rng.choice(files)
        sound = file.read_bytes()
        broken = bytearray(sound)
        at = rng.randrange(len(broken))
        if seed % 5 == 0:
            del broken[at:]
        else:
            broken[at] ^= 1 << rng.randrange(8)
        file.unlink()  # never write to a file that may be mapped
        file.write_bytes(broken)
        try:
            assert_same(read_store(folder), built)
        except DataError as error:
            assert str(folder) in str(error)  # noqa: PT017 - it may also be no error
            refused += 1
        file.unlink()
        file.write_bytes(sound)
    assert refused > 75


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version 0: expected kalshi-jax tape version 7"),
        ({"format": "zarr"}, "zarr"),
        ({"crc32": 7}, "unreadable"),
        ({"crc32": {"levels.npy": "x"}}, "unreadable"),
        ({"crc32": {}}, r"index\.json: missing from the store: build it again"),
        ({"data": "tape-0"}, r"index\.json: missing from the store: build it again"),
    ],
)
def test_a_store_of_another_version_is_refused(built, tmp_path, change, message):
    write_store(tmp_path / "store", *built)
    manifest = tmp_path / "store" / "manifest.json"
    manifest.write_bytes(orjson.dumps(orjson.loads(manifest.read_bytes()) | change))
    with pytest.raises(DataError, match=message):
        read_store(tmp_path / "store")
    manifest.write_bytes(b"{")
    with pytest.raises(DataError, match="unreadable"):
        read_store(tmp_path / "store")
    manifest.unlink()
    with pytest.raises(DataError, match=r"no manifest\.json"):
        read_store(tmp_path / "store")
