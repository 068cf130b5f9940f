"""The store: a built tape as a folder of .npy files and a manifest, so that the second load only maps files.

    STORE/manifest.json       format, version, the folder of the data, the checksums of its files, what they were made from
    STORE/tape-1f0a.../       index.json and one .npy file an array
    STORE/.kalshi-jax-lock    held by the process that writes; empty

Data folders never change once written. A new store is a new data folder, and becomes the store when the manifest that names it
replaces the old one in a single step: whenever a writer dies, the store is the old one or the new one. Who has opened the old one
goes on reading its files after they are removed. What dead writers leave behind, the next writer removes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from kalshi_jax.tape import Tape
from loaders.events import DataError, Report
from loaders.index import MarketInfo, SessionInfo, TapeIndex
from loaders.statistics import MarketStatistics, SessionStatistics
from loaders.tapes import to_device

FORMAT, VERSION = "kalshi-jax tape", 7
MANIFEST, INDEX, LOCK = "manifest.json", "index.json", ".kalshi-jax-lock"
DATA = "tape-"  # how the names of data folders begin


def is_store(folder: str | Path) -> bool:
    """Tell whether a folder holds a stored tape."""
    return (Path(folder) / MANIFEST).is_file()


def write_store(folder: str | Path, tape: Tape, index: TapeIndex, made_from: Mapping[str, Any] | None = None) -> None:
    """Write a tape and its index to a folder, in place of a store that is there; waits for another process that writes there.

    Args:
        folder: the store.
        tape: to store.
        index: of the tape.
        made_from: what the tape was built from, as JSON; see `loaders.cached`.

    Raises:
        FileExistsError: something else than a store is there.
    """
    with locked(folder):
        replace_store(folder, tape, index, made_from)


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Hold the place of a store while writing there; the lock ends with the process, however that ends.

    Raises:
        FileExistsError: something else than a store is there.
    """
    folder = Path(folder)
    ours = _said(folder, "format") == FORMAT or (folder / LOCK).is_file()
    if folder.exists() and not ours and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: expected no such path, an empty folder or a store to replace; choose another --out"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace_store(folder: str | Path, tape: Tape, index: TapeIndex, made_from: Mapping[str, Any] | None = None) -> None:
    """Do what `write_store` does; the caller holds the lock."""
    folder = Path(folder)
    _remove_data(folder, keep=_said(folder, "data"))
    building = folder / f"{DATA}{uuid.uuid4().hex}"
    building.mkdir()
    try:
        for name in Tape.array_names():
            with (building / f"{name}.npy").open("wb") as file:
                np.save(file, np.asarray(getattr(tape, name)))
                file.flush()
                os.fsync(file.fileno())
        _write(building / INDEX, orjson.dumps({"bisections": tape.bisections, **_index_to_json(index)}))
        files = {file.name: _checksum(file) for file in sorted(building.iterdir())}
        manifest = {"format": FORMAT, "version": VERSION, "data": building.name, "crc32": files, "made_from": made_from}
        new = folder / f"{MANIFEST}.new"
        _write(new, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        _sync_folder(building)
        os.replace(new, folder / MANIFEST)
        _sync_folder(folder)  # before the old data goes: a power failure must not leave the old manifest without them
    finally:
        _remove_data(folder, keep=_said(folder, "data"))


def read_store(folder: str | Path) -> tuple[Tape, TapeIndex]:
    """Read a stored tape; on a CPU its arrays are the files themselves, mapped.

    Raises:
        DataError: the folder is no store, of another version, or damaged.
    """
    folder = Path(folder)
    while True:
        manifest = read_manifest(folder)
        try:
            return _read_data(folder / manifest["data"], manifest["crc32"])
        except DataError:
            if read_manifest(folder) == manifest:  # else it was replaced meanwhile: read the new one
                raise


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Read what a store says of itself.

    Returns:
        `data`, the name of its data folder; `crc32`, checksums by file name; `made_from`, as given to `write_store`.

    Raises:
        DataError: the folder is no store, or of another version.
    """
    file = Path(folder) / MANIFEST
    try:
        manifest = orjson.loads(file.read_bytes())
        found = manifest["format"], manifest["version"]
        if found == (FORMAT, VERSION):
            sums = {name: int(value) for name, value in manifest["crc32"].items()}
            return {"data": str(manifest["data"]), "crc32": sums, "made_from": manifest["made_from"]}
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST}: expected a folder written by `kalshi-jax build`") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: unreadable ({error!r}): build the store again") from error
    raise DataError(
        f"{folder}: {found[0]} version {found[1]}: expected {FORMAT} version {VERSION}; build the store again"
    )


def _read_data(folder: Path, sums: Mapping[str, int]) -> tuple[Tape, TapeIndex]:
    files = [folder / INDEX, *(folder / f"{name}.npy" for name in Tape.array_names())]
    for file in files:
        if file.name not in sums or not file.is_file():
            raise DataError(f"{file}: missing from the store: build it again")
    try:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            for file, found in zip(files, threads.map(_checksum, files), strict=True):
                if found != sums[file.name]:
                    raise DataError(
                        f"{file}: checksum {found:08x}, expected {sums[file.name]:08x}: build the store again"
                    )
        arrays = {file.stem: np.load(file, mmap_mode="r", allow_pickle=False) for file in files[1:]}
        index = orjson.loads(files[0].read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: missing from the store: build it again") from None
    host_index = _index_from_json(index, np.array(arrays["market_session"]))
    return to_device(arrays, index["bisections"]), host_index


def _said(folder: Path, name: str) -> str:
    """Give what the manifest of a store says under a name, whatever its version; empty if it does not tell."""
    try:
        return str(orjson.loads((folder / MANIFEST).read_bytes())[name])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _remove_data(folder: Path, keep: str) -> None:
    for data in folder.glob(f"{DATA}*"):
        if data.name != keep:
            shutil.rmtree(data, ignore_errors=True)


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(file: Path) -> int:
    return zlib.crc32(np.memmap(file, np.uint8, "r").data) if file.stat().st_size else 0


def _index_to_json(index: TapeIndex) -> dict[str, list]:
    return {"sessions": [asdict(s) for s in index.sessions], "skipped": [asdict(s) for s in index.skipped]}


def _index_from_json(data: dict[str, list], market_session: np.ndarray) -> TapeIndex:
    def market(values: dict) -> MarketInfo:
        statistics = MarketStatistics(**values["statistics"])
        return MarketInfo(**{**values, "fees": tuple(values["fees"]), "statistics": statistics})

    def session(values: dict) -> SessionInfo:
        parts = {
            "report": Report(**values["report"]),
            "markets": [market(m) for m in values["markets"]],
            "statistics": SessionStatistics.from_json(values["statistics"]),
        }
        return SessionInfo(**{**values, **parts})

    sessions, skipped = ([session(values) for values in data[name]] for name in ("sessions", "skipped"))
    return TapeIndex(sessions, [ticker for session in sessions for ticker in session.tickers], market_session, skipped)
