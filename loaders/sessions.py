"""Sessions: which ones to load, and the loader that brings them from any source to a Tape."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kalshi_jax import EnvParams, MarketAgnosticKalshiEnv
from kalshi_jax.tape import Tape
from loaders.catalogue import SessionFilter
from loaders.events import DataError, Events
from loaders.index import SessionInfo, TapeIndex
from loaders.metadata import Metadata, read_metadata
from loaders.recordings import find_recordings, read_recordings, session_id_of
from loaders.sim_config import SYNTHETIC
from loaders.store import is_store, read_store
from loaders.strict import refuse_repairs
from loaders.tapes import Progress, build_tape, replay_session, select_sessions

Source = str | Path | Sequence[str | Path]
POSTGRES = ("postgresql://", "postgres://")


@dataclass(frozen=True)
class SessionConfig:
    """Which sessions to load; and how episodes shall be drawn from them, which loading only carries for its caller."""

    session_id: int | str | None = None  # load this session alone
    session_pool: tuple[int | str, ...] = ()  # load these; empty: every session of the source
    max_markets: int = 5  # market slots of an episode
    episode_length: int = 1000  # steps
    start_offset: int = 0  # changes at the head of a market in which no episode begins
    temporal_features: bool = True
    skip_bad_rows: bool = False  # leave out and count broken lines of a recording instead of refusing the file
    strict: bool = False  # refuse a session with anything left out, repaired or missing: see `refuse_repairs`
    metadata: str | Path | None = None  # a file of close times, results and fees: see `read_metadata`
    filter: SessionFilter = field(default_factory=SessionFilter)  # and of those, sessions that meet these conditions

    def environment(self, tape: Tape, **settings: Any) -> tuple[MarketAgnosticKalshiEnv, EnvParams]:
        """Make the environment and the parameters that this asks for; `settings` are further ones of `make_params`."""
        env = MarketAgnosticKalshiEnv(max_markets=self.max_markets, temporal_features=self.temporal_features)
        own = {"episode_length": self.episode_length, "start_offset": self.start_offset}
        return env, env.make_params(tape, **own | settings)

    @property
    def session_ids(self) -> tuple[str, ...]:
        """The sessions asked for by either field; empty: all."""
        chosen = self.session_pool if self.session_id is None else (self.session_id,)
        return tuple(map(str, chosen))

    @property
    def wanted(self) -> SessionFilter:
        """The conditions that sessions must meet; those asked for by id are not skipped for being marked."""
        return replace(self.filter, skip_marked=False) if self.session_ids else self.filter


def load_tape(
    source: Source, config: SessionConfig | None = None, progress: Progress | None = None
) -> tuple[Tape, TapeIndex]:
    """Load sessions of a source into one tape. See `SessionDataLoader`."""
    return SessionDataLoader(source, config, progress).load()


class SessionDataLoader:
    """Loads whole sessions, each in one pass over its source.

    Args:
        source: a recording, a folder or glob of them or a list of these; a `postgresql://` URL; a store folder; or
            "synthetic:..." for the simulated exchange.
        config: which sessions; default: all.
        progress: called with sessions done, sessions in all (0: unknown) and the last one's id.
    """

    def __init__(self, source: Source, config: SessionConfig | None = None, progress: Progress | None = None):
        one = not isinstance(source, str | Path) and len(source) == 1
        self.source: Source = source[0] if one else source  # type: ignore[index]
        self.config = config or SessionConfig()
        self.progress = progress

    def load(self) -> tuple[Tape, TapeIndex]:
        """Load the chosen sessions.

        Raises:
            DataError: a session is not there, or what is there cannot be used.
            FileNotFoundError: no file is there.
        """
        store = self._store()
        if store is not None and self.config.metadata is not None:
            raise DataError(
                f"metadata={self.config.metadata}: a store has its own; give the file when building the store"
            )
        if store is None:
            sessions, total = self._events()
            return build_tape(self._with_facts(sessions), self.progress, total, self.config.wanted, self.config.strict)
        tape, index = self._choose(store, *read_store(store))
        self.check([*index.sessions, *index.skipped])
        return tape, index

    def _choose(self, store: Path, tape: Tape, index: TapeIndex) -> tuple[Tape, TapeIndex]:
        """Choose of a store's sessions those that are asked for; the same as reading its source would give."""
        wanted, on_tape = self.config.wanted, dict.fromkeys(info.session_id for info in index.sessions)
        met = self._met(store, index)
        kept = dict.fromkeys(i.session_id for i in met if i.session_id in on_tape and not wanted.skips(i))
        if list(kept) == list(on_tape) and len(met) == len(on_tape) + len(index.skipped):
            return tape, index
        if not kept:
            found = ", ".join(f"session {info.session_id} is left out ({', '.join(info.marks)})" for info in met)
            raise DataError(f"nothing to load: {found or f'no session of {store} meets {wanted}'}; choose others")
        tape, index = select_sessions(tape, index, kept)
        return tape, replace(index, skipped=[info for info in met if info.session_id not in kept])

    def _met(self, store: Path, index: TapeIndex) -> list[SessionInfo]:
        """List the sessions of a store that are asked for and meet the conditions, whatever their marks."""
        known = {info.session_id: info for info in [*index.sessions, *index.skipped]}
        asked = dict.fromkeys(self.config.session_ids or known)
        if unknown := [name for name in asked if name not in known]:
            raise DataError(f"no session {', '.join(unknown)} in {store}: expected one of {', '.join(known)}")
        return list(filter(self.config.wanted.meets, map(known.__getitem__, asked)))

    def catalogue(self) -> list[SessionInfo]:
        """List the chosen sessions, with what was found in each, without building their tape."""
        store = self._store()
        if store is not None:
            met = self._met(store, read_store(store)[1])
            return self.check([info for info in met if not self.config.wanted.skips(info)])
        sessions, total = self._events()
        infos: list[SessionInfo] = []
        numbers = itertools.count(1)
        for events in self._with_facts(sessions):
            infos += self.check(list(filter(self.config.wanted.passes, [replay_session(events)[0]])))
            if self.progress:
                self.progress(next(numbers), total, events.session_id)
            del events  # not to be kept while the next session is read
        return infos

    def check(self, infos: list[SessionInfo]) -> list[SessionInfo]:
        """Refuse sessions with repairs where that is asked for.

        Raises:
            DataError: the first session that needed one.
        """
        for info in infos if self.config.strict else ():
            refuse_repairs(info.session_id, info.report)
        return infos

    def recordings(self) -> list[Path]:
        """List the chosen recordings of a source that has such.

        Raises:
            DataError: one that is asked for is not there, or the source is a list with something else in it.
            FileNotFoundError: no file is there.
        """
        source, wanted = self.source, self.config.session_ids
        for part in [source] if isinstance(source, str | Path) else source:
            if "://" in str(part) or str(part).startswith(SYNTHETIC) or is_store(part):
                from loaders.postgres import redact

                raise DataError(
                    f"{redact(str(part))}: expected recordings only in a list of sources; load a postgresql:// URL, a store or "
                    "synthetic:... by itself"
                )
        paths = find_recordings(source)
        if not wanted:
            return paths
        by_id = {session_id_of(path): path for path in paths}
        unknown = [name for name in wanted if name not in by_id]
        if unknown:
            raise DataError(f"no session {', '.join(unknown)} in {source}: expected one of {', '.join(by_id)}")
        return [by_id[name] for name in wanted]

    def _with_facts(self, sessions: Iterable[Events]) -> Iterator[Events]:
        """Add what the metadata file says to what the sessions themselves know."""
        metadata = Metadata({}, {}) if self.config.metadata is None else read_metadata(self.config.metadata)
        for events in sessions:
            said = {ticker: facts for ticker in events.tickers if (facts := metadata.of(ticker)) is not None}
            yield replace(events, facts=events.facts | said)
            del events  # not to be kept while the next session is read

    def _store(self) -> Path | None:
        if isinstance(self.source, str) and self.source.startswith((*POSTGRES, SYNTHETIC)):
            return None
        return Path(self.source) if isinstance(self.source, str | Path) and is_store(self.source) else None

    def _events(self) -> tuple[Iterable[Events], int]:
        """Open the source: events session by session, and their number (0: unknown)."""
        source, wanted = self.source, self.config.session_ids
        if isinstance(source, str) and source.startswith(POSTGRES):
            from loaders.postgres import list_sessions, read_postgres

            if not self.config.wanted.rules_out_unread:
                return read_postgres(source, wanted or None), len(wanted)
            may_pass = {str(row.session_id): self.config.wanted.may_pass(row) for row in list_sessions(source)}
            chosen = [name for name in wanted or may_pass if may_pass.get(name, True)]
            return read_postgres(source, chosen), len(chosen)
        if isinstance(source, str) and source.startswith(SYNTHETIC):
            from loaders.exchange_sim import synthetic_events

            return _choose(synthetic_events(source), wanted, source), len(wanted)
        paths = self.recordings()
        return read_recordings(paths, self.config.skip_bad_rows), len(paths)


def _choose(sessions: Iterable[Events], wanted: tuple[str, ...], source: str) -> Iterator[Events]:
    """Pass on the sessions asked for; an error at the end if there was none of that name."""
    there = []
    for events in sessions:
        there.append(events.session_id)
        if not wanted or events.session_id in wanted:
            yield events
        del events  # not to be kept while the next session is simulated
    if unknown := [name for name in wanted if name not in there]:
        raise DataError(f"no session {', '.join(unknown)} in {source}: expected one of {', '.join(there)}")
