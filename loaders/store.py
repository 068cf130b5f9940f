"""The store: a built tape as a folder of .npy files and a manifest, so that the second load only maps files.

The folder appears whole or not at all: it is written beside its place and then renamed. Every file's checksum is in the
manifest and is verified when it is read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import zlib
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import orjson

from kalshi_jax.tape import Tape
from loaders.events import DataError, Report
from loaders.index import MarketInfo, SessionInfo, TapeIndex
from loaders.statistics import MarketStatistics, SessionStatistics
from loaders.tapes import to_device

FORMAT, VERSION = "kalshi-jax tape", 5
MANIFEST, INDEX = "manifest.json", "index.json"


def is_store(folder: str | Path) -> bool:
    """Tell whether a folder holds a stored tape."""
    return (Path(folder) / MANIFEST).is_file()


def write_store(folder: str | Path, tape: Tape, index: TapeIndex) -> None:
    """Write a tape and its index to a folder, in place of a store that is there.

    Raises:
        FileExistsError: something else than a store is there.
    """
    folder = Path(folder)
    if folder.exists() and not is_store(folder) and (folder.is_file() or any(folder.iterdir())):
        raise FileExistsError(
            f"{folder}: expected no such path, an empty folder or a store to replace; choose another --out"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for name in _array_names():
            np.save(building / f"{name}.npy", np.asarray(getattr(tape, name)))
        (building / INDEX).write_bytes(orjson.dumps(_index_to_json(index)))
        files = {file.name: _checksum(file) for file in sorted(building.iterdir())}
        manifest = {"format": FORMAT, "version": VERSION, "bisections": tape.bisections, "crc32": files}
        (building / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        building.chmod(0o755)  # mkdtemp made it private
        if folder.exists():
            replaced = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
            os.replace(folder, replaced)
            os.replace(building, folder)
            shutil.rmtree(replaced)
        else:
            os.replace(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)  # it is gone if all went well


def read_store(folder: str | Path) -> tuple[Tape, TapeIndex]:
    """Read a stored tape.

    Raises:
        DataError: the folder is no store, of another version, or damaged.
    """
    folder = Path(folder)
    if not is_store(folder):
        raise DataError(f"{folder}: no {MANIFEST}: expected a folder written by `kalshi-jax build`")
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
        found, version = manifest["format"], manifest["version"]
        bisections, sums = int(manifest["bisections"]), dict(manifest["crc32"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / MANIFEST}: unreadable ({error!r}): build the store again") from error
    if (found, version) != (FORMAT, VERSION):
        raise DataError(
            f"{folder}: {found} version {version}: expected {FORMAT} version {VERSION}; build the store again"
        )
    arrays = {}
    for file in [INDEX, *(f"{name}.npy" for name in _array_names())]:
        if file not in sums or not (folder / file).is_file():
            raise DataError(f"{folder / file}: missing from the store: build it again")
        if (found_sum := _checksum(folder / file)) != sums[file]:
            raise DataError(
                f"{folder / file}: checksum {found_sum:08x}, expected {sums[file]:08x}: build the store again"
            )
        if file != INDEX:
            arrays[file.removesuffix(".npy")] = np.load(folder / file, mmap_mode="r", allow_pickle=False)
    index = _index_from_json(orjson.loads((folder / INDEX).read_bytes()), np.array(arrays["market_session"]))
    return to_device(arrays, bisections), index


def _checksum(file: Path) -> int:
    total = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            total = zlib.crc32(block, total)
    return total


def _array_names() -> list[str]:
    return [field.name for field in fields(Tape) if field.name != "bisections"]


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
