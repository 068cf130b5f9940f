"""A stored tape comes back as it was, whole or not at all."""

import dataclasses

import jax
import numpy as np
import orjson
import pytest
from exchange_frames import START, delta, snapshot, write

from loaders import DataError, load_tape, read_store, write_store
from loaders.store import is_store


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
    for name in ("sessions", "tickers", "skipped", "summary"):
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
    changed = dataclasses.replace(built[0], mark=built[0].mark + 1)
    write_store(folder, changed, built[1])
    assert_same(read_store(folder), (changed, built[1]))
    assert [path.name for path in folder.parent.iterdir()] == ["store"]


def test_an_interrupted_write_leaves_the_old_store_and_nothing_else(built, tmp_path, monkeypatch):
    folder = tmp_path / "out" / "store"
    write_store(folder, *built)

    def full_disk(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_store(folder, *built)
    assert_same(read_store(folder), built)
    assert [path.name for path in folder.parent.iterdir()] == ["store"]


def test_a_folder_that_is_no_store_is_never_overwritten(built, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    for place in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(FileExistsError, match="expected no such path, an empty folder or a store"):
            write_store(place, *built)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "x"
    (tmp_path / "empty").mkdir()
    write_store(tmp_path / "empty", *built)


@pytest.mark.parametrize("name", ["price.npy", "index.json"])
def test_a_damaged_file_is_an_error_that_names_it(built, tmp_path, name):
    write_store(tmp_path / "store", *built)
    file = tmp_path / "store" / name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"{name}: checksum .* expected .*: build the store again"):
        read_store(tmp_path / "store")
    file.unlink()
    with pytest.raises(DataError, match=f"{name}: missing from the store"):
        read_store(tmp_path / "store")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version 0: expected kalshi-jax tape version 5"),
        ({"format": "zarr"}, "zarr"),
        ({"crc32": 7}, "unreadable"),
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
