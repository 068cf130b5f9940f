"""The session database: sessions read through asyncpg, one streamed query for snapshots and one for deltas.

The database belongs to someone else: every transaction is read-only, has a time limit and sees one state of it. Deltas
come as a binary COPY of fixed-width rows, which NumPy reads without touching a row in Python. Some sessions are read side
by side; one whose server goes away is read again from its start once the server is back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

import asyncpg
import numpy as np

from loaders.connections import PATIENCE_S, PostgresError, Server, ServerGone, event_loop, redact, watch
from loaders.events import Events
from loaders.session_rows import LARGEST, NULL, UNITS, DeltaRows, SnapshotRow, events_from_rows

SESSIONS, SNAPSHOTS, DELTAS = "rl_orderbook_sessions", "rl_orderbook_snapshots", "rl_orderbook_deltas"
_ROW = ["id", "session_id", "market_ticker", "timestamp_ms", "sequence_number"]
COLUMNS = {  # what reading needs; the recorder's other columns may be there or not
    SESSIONS: [
        "session_id",
        "market_tickers",
        "started_at",
        "ended_at",
        "status",
        "environment",
        "connection_metadata",
    ],
    SNAPSHOTS: [*_ROW, "yes_bids", "yes_asks", "no_bids", "no_asks"],
    DELTAS: [*_ROW, "side", "price", "old_size", "new_size"],
}
CONNECTIONS = 2  # sessions read side by side
ATTEMPTS = 4  # at one session: it may be what brings the server down
CHUNK_BYTES = 4 << 20  # COPY data held before it is turned into columns
COPY_HEADER = 19  # bytes: signature, flags, no extension
_SYNTHETIC = "coalesce(connection_metadata::jsonb ->> 'synthetic', '') = 'true'"
_SESSION_QUERY = f"SELECT session_id, status::text, environment::text, {_SYNTHETIC} AS synthetic FROM {SESSIONS}"


@dataclass(frozen=True)
class SessionRow:
    """A session as the database lists it; rows are counted, since its own counters can be wrong."""

    session_id: int
    started_at_ms: int  # epoch ms
    ended_at_ms: int | None  # None: still open, or the recorder died
    status: str  # active, closed, error; empty: NULL
    environment: str  # local, production, paper, test; empty: NULL
    synthetic: bool  # written by the simulated exchange
    markets: int
    snapshots: int
    deltas: int


def read_postgres(
    url: str,
    session_ids: Sequence[int | str] | None = None,
    *,
    connections: int = CONNECTIONS,
    patience_s: float = PATIENCE_S,
    statement_timeout_s: float = 600.0,
) -> Iterator[Events]:
    """Read sessions in order, the next ones already while one is worked on; works inside a running event loop too.

    Args:
        url: `postgresql://user:password@host:port/database`.
        session_ids: sessions to read, in this order; None: all of them.
        connections: sessions read side by side, fewer if the server takes no more connections; as many are in memory.
        patience_s: a server that goes away is waited for so long; each session is then read again from its start, which
            its report counts. 0: no second attempt.
        statement_timeout_s: the server ends a query that takes longer.

    Yields:
        Events of one session, empty ones included.

    Raises:
        PostgresError: no connection, a missing table or column, an unknown session, or a server that went away.
    """
    with event_loop() as run:
        stream = stream_postgres(
            url,
            session_ids,
            connections=connections,
            patience_s=patience_s,
            statement_timeout_s=statement_timeout_s,
        )
        while (events := run(_next(stream))) is not None:
            yield events
            del events  # not to be kept while the next session is waited for


async def stream_postgres(
    url: str,
    session_ids: Sequence[int | str] | None = None,
    *,
    connections: int = CONNECTIONS,
    patience_s: float = PATIENCE_S,
    statement_timeout_s: float = 600.0,
) -> AsyncGenerator[Events, None]:
    """Read sessions as `read_postgres` does, for callers that are asynchronous themselves."""
    if connections < 1:
        raise ValueError(f"connections={connections}: expected 1 or more")
    server = Server(url, patience_s, statement_timeout_s)
    ahead: deque[asyncio.Task[Events]] = deque()
    more: asyncio.Task[None] | None = None
    try:
        connection = await server.connect()
        types = await watch(server, connection, _column_types(connection, url))
        rows = await watch(server, connection, _fetch(connection, f"{_SESSION_QUERY} ORDER BY 1", statement_timeout_s))
        sessions = _choose_sessions(rows, url, session_ids)
        server.free.put_nowait(connection)
        more = asyncio.create_task(server.connect_more(min(connections, len(sessions))))
        for session in sessions:
            ahead.append(asyncio.create_task(_load_session(server, session, types[DELTAS])))
            if len(ahead) == connections:
                yield await ahead.popleft()
        while ahead:
            yield await ahead.popleft()
    finally:
        tasks = [*ahead] if more is None else [*ahead, more]
        for task in tasks:
            task.cancel()
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


def list_sessions(url: str, *, statement_timeout_s: float = 600.0) -> list[SessionRow]:
    """List all sessions of a database in order of id; raises like `read_postgres`."""
    with event_loop() as run:
        return run(fetch_sessions(url, statement_timeout_s=statement_timeout_s))


async def fetch_sessions(url: str, *, statement_timeout_s: float = 600.0) -> list[SessionRow]:
    """List all sessions, as `list_sessions` does, for callers that are asynchronous themselves."""
    query = f"""
        SELECT session_id, (extract(epoch FROM started_at) * 1000)::int8 AS started_at_ms,
            (extract(epoch FROM ended_at) * 1000)::int8 AS ended_at_ms, coalesce(status::text, '') AS status,
            coalesce(environment::text, '') AS environment, {_SYNTHETIC} AS synthetic,
            coalesce(cardinality(market_tickers), 0) AS markets,
            coalesce(s.number, 0) AS snapshots, coalesce(d.number, 0) AS deltas
        FROM {SESSIONS}
        LEFT JOIN (SELECT session_id, count(*) AS number FROM {SNAPSHOTS} GROUP BY 1) s USING (session_id)
        LEFT JOIN (SELECT session_id, count(*) AS number FROM {DELTAS} GROUP BY 1) d USING (session_id)
        ORDER BY session_id"""
    server = Server(url, PATIENCE_S, statement_timeout_s)
    try:
        connection = await server.connect()
        await watch(server, connection, _column_types(connection, url))
        rows = await watch(server, connection, _fetch(connection, query, statement_timeout_s))
        return [SessionRow(**dict(row)) for row in rows]
    finally:
        server.close()


async def _next(stream: AsyncIterator[Events]) -> Events | None:
    return await anext(stream, None)


# -- queries


async def _column_types(connection: asyncpg.Connection, url: str) -> dict[str, dict[str, str]]:
    """Look up the columns of the three tables and their types; say which are missing."""
    query = """
        SELECT attname, format_type(atttypid, NULL) FROM pg_attribute
        WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped"""
    types: dict[str, dict[str, str]] = {table: dict(await connection.fetch(query, table)) for table in COLUMNS}
    missing = [f"table {table}" for table, columns in types.items() if not columns] + [
        f"column {table}.{name}"
        for table, columns in types.items()
        if columns
        for name in COLUMNS[table]
        if name not in columns
    ]
    if missing:
        raise PostgresError(
            f"{redact(url)} is not a session database: no {', no '.join(missing)}; "
            "check the database's name and the search_path of the login"
        )
    return types


async def _begin(connection: asyncpg.Connection, statement_timeout_s: float) -> None:
    """Begin a transaction that sees one state of the database, cannot change it and is not waited for without end.

    No context manager ends it: if the server goes away, its rollback would fail too and hide the reason.
    """
    await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    await connection.execute(f"SET LOCAL statement_timeout = {round(statement_timeout_s * 1000)}")


async def _fetch(connection: asyncpg.Connection, query: str, statement_timeout_s: float) -> list[asyncpg.Record]:
    await _begin(connection, statement_timeout_s)
    rows = await connection.fetch(query)
    await connection.execute("COMMIT")
    return rows


def _choose_sessions(
    rows: list[asyncpg.Record], url: str, session_ids: Sequence[int | str] | None
) -> list[asyncpg.Record]:
    if session_ids is None:
        return rows
    by_id = {str(row["session_id"]): row for row in rows}
    unknown = [str(wanted) for wanted in session_ids if str(wanted) not in by_id]
    if unknown:
        some = ", ".join(list(by_id)[:5]) + (", ..." if len(by_id) > 5 else "")
        there = f"it has {len(by_id)} sessions: {some}" if by_id else "it has none"
        raise PostgresError(f"no session {', '.join(unknown)} in {redact(url)}; {there}")
    return [by_id[str(wanted)] for wanted in session_ids]


async def _load_session(server: Server, session: asyncpg.Record, types: dict[str, str]) -> Events:
    """Read one session over the next free connection, from its start again where the server goes away and comes back."""
    connection = await server.free.get()  # only one that is good goes back: an error ends the load
    attempt = 1
    while True:
        try:
            rows = await watch(server, connection, _read_rows(server, connection, session["session_id"], types))
            break
        except ServerGone as gone:
            if attempt == ATTEMPTS:
                raise PostgresError(f"{gone}, {attempt} times at session {session['session_id']}") from None
            connection = await server.reconnect(connection, gone)
            attempt += 1
    server.free.put_nowait(connection)
    events = await asyncio.to_thread(
        events_from_rows,
        str(session["session_id"]),
        *rows,
        status=session["status"] or "",
        environment=session["environment"] or "",
        synthetic=session["synthetic"],
    )
    events.report.read_again = attempt - 1
    return events


async def _read_rows(
    server: Server, connection: asyncpg.Connection, session_id: int, types: dict[str, str]
) -> tuple[list[str], DeltaRows, list[SnapshotRow]]:
    """Read tickers, deltas and snapshots of a session in a transaction, so that both tables are seen in the same state."""
    await _begin(connection, server.statement_timeout_s)
    snapshots = [
        SnapshotRow(*row)
        async for row in connection.cursor(
            "SELECT market_ticker, timestamp_ms, sequence_number, yes_bids::text, yes_asks::text, no_bids::text,"
            f" no_asks::text FROM {SNAPSHOTS} WHERE session_id = $1 ORDER BY id",
            session_id,
            prefetch=1000,
        )
    ]
    names, hashes, seed = await _hash_tickers(connection, session_id)
    deltas = await _copy_deltas(connection, session_id, hashes, seed, types)
    await connection.execute("COMMIT")
    return names, deltas, snapshots


async def _hash_tickers(connection: asyncpg.Connection, session_id: int) -> tuple[list[str], np.ndarray, int]:
    """List the tickers of a session's deltas by ascending hash: names, hashes i64[n] and the seed with which they differ."""
    for seed in range(3):  # one session of a million tickers in 30 million has two that share a hash
        query = (
            f"SELECT DISTINCT market_ticker::text, {_ticker_hash(seed)} FROM {DELTAS} WHERE session_id = $1 ORDER BY 2"
        )
        rows = [row for row in await connection.fetch(query, session_id) if row[0] is not None]
        hashes = np.array([number for _, number in rows], np.int64)
        if (hashes[1:] > hashes[:-1]).all() and NULL not in hashes:  # a difference could overflow
            return [name for name, _ in rows], hashes, seed
    raise PostgresError(f"session {session_id}: market_ticker: expected hashes that tell tickers apart")


def _ticker_hash(seed: int) -> str:
    return f"coalesce(hashtextextended(market_ticker::text, {seed}), {NULL})"


async def _copy_deltas(
    connection: asyncpg.Connection, session_id: int, hashes: np.ndarray, seed: int, types: dict[str, str]
) -> DeltaRows:
    """Stream the deltas of a session; a ticker travels as its hash, a NULL as a number, so that rows are equally wide.

    A join with the tickers' numbers would cost the server three times as much as all else, and the order of the index.
    """
    query = f"""
        SELECT {_ticker_hash(seed)}, coalesce(timestamp_ms, 0)::int8, coalesce(sequence_number, {NULL})::int8,
            CASE WHEN side::text = 'yes' THEN 0 WHEN side::text = 'no' THEN 1
                WHEN lower(side::text) = 'yes' THEN 0 WHEN lower(side::text) = 'no' THEN 1 ELSE -1 END::int8,
            {_scaled("price", types)}, {_scaled("old_size", types)}, {_scaled("new_size", types)}
        FROM {DELTAS} WHERE session_id = $1 ORDER BY id"""
    pending, skip = bytearray(), COPY_HEADER
    parts: list[DeltaRows] = []

    async def receive(data: bytes) -> None:
        nonlocal pending, skip
        pending += data
        if len(pending) >= CHUNK_BYTES:
            rows = (len(pending) - skip) // _COPY_ROW.itemsize
            parts.append(_delta_columns(pending, skip, rows, hashes))
            del pending[: skip + rows * _COPY_ROW.itemsize]
            skip = 0

    await connection.copy_from_query(query, session_id, output=receive, format="binary")
    rows = (len(pending) - skip) // _COPY_ROW.itemsize  # leaves the trailer
    parts.append(_delta_columns(pending, skip, rows, hashes))
    return DeltaRows(**{name: np.concatenate([vars(part).pop(name) for part in parts]) for name in _COPY_FIELDS})


def _scaled(column: str, types: dict[str, str]) -> str:
    """Write a number column of any type as an integer of 1/UNITS, clipped to what can be no price or size."""
    if types[column] in ("smallint", "integer", "bigint"):
        value = f"least(greatest({column}::int8, -{LARGEST}), {LARGEST}) * {UNITS}"
    else:
        value = f"round(least(greatest({column}::numeric, -{LARGEST}), {LARGEST}) * {UNITS})::int8"
    return f"CASE WHEN {column} IS NULL THEN {NULL} ELSE {value} END"


_COPY_FIELDS = ("market", "time_ms", "sequence", "side", "price", "old_size", "new_size")
_COPY_ROW = np.dtype(
    [("fields", ">i2")]
    + [(name, kind) for field in _COPY_FIELDS for name, kind in ((f"{field}_bytes", ">i4"), (field, ">i8"))]
)


def _delta_columns(data: bytearray, offset: int, rows: int, hashes: np.ndarray) -> DeltaRows:
    """Read fixed-width rows of a binary COPY as columns; markets become places in the hashes of the tickers, -1: NULL."""
    table = np.frombuffer(data, _COPY_ROW, rows, offset)
    columns = {name: table[name].astype(np.int64) for name in _COPY_FIELDS}
    market = np.where(columns["market"] == NULL, -1, np.searchsorted(hashes, columns["market"]))
    return DeltaRows(**columns | {"market": market.astype(np.int32), "side": columns["side"].astype(np.int8)})
