"""Loading through a store: read while it is up to date, built again when what it was made from has changed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from kalshi_jax.tape import Tape
from loaders.events import DataError
from loaders.index import TapeIndex
from loaders.sessions import POSTGRES, SessionConfig, SessionDataLoader, Source
from loaders.sim_config import SYNTHETIC, SimConfig
from loaders.store import is_store, locked, read_manifest, read_store, replace_store
from loaders.tapes import Progress

# What of a SessionConfig makes no difference to the tape; of the metadata file, the content counts.
ELSEWHERE = ("max_markets", "episode_length", "start_offset", "temporal_features", "strict", "metadata")


def cached_tape(
    source: Source,
    store: str | Path,
    config: SessionConfig | None = None,
    progress: Progress | None = None,
    rebuild: bool = False,
) -> tuple[Tape, TapeIndex, str]:
    """Load a source from its store, which is written first if it is absent, damaged or older than the source.

    Of several processes that find it so, one builds the store while the others wait for it.

    Args:
        source: recordings, a `postgresql://` URL or "synthetic:...": see `SessionDataLoader`.
        store: folder of the store.
        config: which sessions.
        progress: told while the source is read.
        rebuild: build the store in any case.

    Returns:
        The tape, its index, and why the store was built: empty if it was up to date.

    Raises:
        DataError: the source is a store itself, or cannot be used.
        FileExistsError: something else than a store is in its place.
    """
    loader = SessionDataLoader(source, config, progress)
    made_from = fingerprint(loader)  # before the source is read: what changes meanwhile is seen next time
    found = "to build it again was asked for" if rebuild else _read(store, made_from)
    if isinstance(found, str):
        with locked(store):
            if not rebuild:
                found = _read(store, made_from)  # another process may have built it meanwhile
            if isinstance(found, str):
                tape, index = loader.load()
                replace_store(store, tape, index, made_from)
                return tape, index, found
    tape, index = found
    loader.check([*index.sessions, *index.skipped])
    return tape, index, ""


def fingerprint(loader: SessionDataLoader) -> dict[str, Any]:
    """Say what a loader's tape would be made from, as JSON by name: equal as long as the tape would be.

    A file is known by its path, size and time of change; a database by the numbers of rows of its sessions, but for those that
    the conditions rule out unread; the simulated exchange by its configuration.

    Raises:
        DataError: the source is a store, or not there.
        FileNotFoundError: no file is there.
    """
    source, config = loader.source, loader.config
    made_from = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    files = [] if config.metadata is None else [Path(config.metadata)]
    if isinstance(source, str) and source.startswith(POSTGRES):
        from loaders.postgres import list_sessions, redact

        asked = config.session_ids
        chosen = [s for s in list_sessions(source) if not asked or str(s.session_id) in asked]
        made_from["database"] = redact(source)
        made_from |= {
            f"session {session.session_id}": asdict(session) for session in chosen if config.wanted.may_pass(session)
        }
    elif isinstance(source, str) and source.startswith(SYNTHETIC):
        made_from["simulated exchange"] = SimConfig.parse(source).spec
    elif isinstance(source, str | Path) and is_store(source):
        raise DataError(f"{source}: is a store already: expected recordings, a database or the simulated exchange")
    else:
        files += loader.recordings()
    for file in files:
        status = file.stat()
        made_from[str(file.resolve())] = [status.st_size, status.st_mtime_ns]
    return orjson.loads(orjson.dumps(made_from, default=str))


def _read(store: str | Path, made_from: dict[str, Any]) -> tuple[Tape, TapeIndex] | str:
    """Read a store if it is up to date; else say why it is not."""
    if not is_store(store):
        return "there was none"
    try:
        was = read_manifest(store)["made_from"] or {}
        names = [name for name in {**made_from, **was} if made_from.get(name) != was.get(name)]
        if names:
            how = "is gone" if names[0] not in made_from else "is new" if names[0] not in was else "has changed"
            return f"{names[0]} {how}" + (f", and {len(names) - 1} more" if len(names) > 1 else "")
        return read_store(store)
    except DataError as error:
        return str(error)
