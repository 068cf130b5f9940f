"""Connections to a database server: what can go wrong with them, in clear words and in bounded time.

No error, log or report ever holds a password.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import asyncpg

from loaders.events import DataError

CONNECT_S = 8.0  # a server must take the first connection within this time
PROBE_S = 2.0  # a server that is silent for this long is asked whether it still lives
PATIENCE_S = 6.0  # how long a server that went away is waited for
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0  # between two attempts to reach it; each is twice the one before
_GONE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
)
T = TypeVar("T")


class PostgresError(DataError):
    """The session database cannot be read; the message says why and never holds a password."""


class ServerGone(PostgresError):
    """A server that was there does not answer any more."""

    def __init__(self, url: str, reason: str, since: float) -> None:
        super().__init__(f"cannot read {redact(url)}: the server went away in the middle of the load ({reason})")
        self.since = since  # monotonic seconds


@dataclass
class Server:
    """A server, and our connections to it."""

    url: str
    patience_s: float
    statement_timeout_s: float
    free: asyncio.Queue[asyncpg.Connection] = field(default_factory=asyncio.Queue)
    opened: set[asyncpg.Connection] = field(default_factory=set)

    async def connect(self) -> asyncpg.Connection:
        """Open a connection."""
        with clear_errors(self.url, "connect to", "check the address, the login and that the server runs"):
            return await self._open(CONNECT_S)

    async def connect_more(self, connections: int) -> None:
        """Open free connections until there are so many, or the server takes no more: fewer will do."""
        with suppress(PostgresError):
            while len(self.opened) < connections:
                self.free.put_nowait(await self.connect())

    async def reconnect(self, lost: asyncpg.Connection, gone: ServerGone) -> asyncpg.Connection:
        """Connect in place of a lost connection, again and again with pauses that grow, until the patience is over."""
        lost.terminate()
        self.opened.discard(lost)
        pause = FIRST_PAUSE_S
        with clear_errors(self.url, "connect again to", "it was there before"):
            while (left := gone.since + self.patience_s - time.monotonic()) > 0:
                try:
                    return await self._open(min(left, CONNECT_S))
                except _GONE:
                    await asyncio.sleep(min(pause, left))
                pause = min(2 * pause, LONGEST_PAUSE_S)
        raise PostgresError(f"{gone}; it was not back within {self.patience_s:g} s; load again when it runs") from None

    async def probe(self) -> None:
        """Ask whether the server lives; any answer will do, a refusal of the login included."""
        since = time.monotonic()
        try:
            other = await asyncpg.connect(self.url, timeout=max(self.patience_s, PROBE_S), statement_cache_size=0)
            other.terminate()
        except _GONE:
            raise ServerGone(self.url, "no answer", since) from None
        except (asyncpg.PostgresError, asyncpg.InterfaceError):
            return

    async def _open(self, timeout_s: float) -> asyncpg.Connection:
        # No statement cache: a pooler in front of the server may not know statements prepared earlier.
        connection = await asyncpg.connect(self.url, timeout=timeout_s, statement_cache_size=0)
        self.opened.add(connection)
        return connection

    def close(self) -> None:
        """End all connections at once: nothing is left to commit, and a dead server cannot delay it."""
        for connection in self.opened:
            connection.terminate()


@contextmanager
def clear_errors(url: str, doing: str, advice: str, connection: asyncpg.Connection | None = None) -> Iterator[None]:
    """Turn what asyncpg and the network raise into a PostgresError; their own messages may quote the URL.

    With a connection: say whether it was lost.
    """
    try:
        yield
    except PostgresError:
        raise
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, ValueError) as error:  # ValueError: no port number
        reason = redact(url, str(error)) or f"no answer ({type(error).__name__})"
        if connection is not None and (isinstance(error, _GONE) or connection.is_closed()):
            raise ServerGone(url, reason, time.monotonic()) from None
        raise PostgresError(f"cannot {doing} {redact(url)}: {reason}; {advice}") from None


async def watch(server: Server, connection: asyncpg.Connection, work: Coroutine[Any, Any, T]) -> T:
    """Wait for a query, however slow, but only as long as the server still answers a new connection.

    A broken connection ends the query by itself. A server that is frozen or cut off does not, and looks like a slow
    query; so it is asked from time to time.
    """
    task = asyncio.ensure_future(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())  # asyncio would log one nobody asked for
    try:
        while not (await asyncio.wait({task}, timeout=PROBE_S))[0]:
            await server.probe()
        with clear_errors(
            server.url,
            "read",
            "try again; for a large table call read_postgres with a longer statement_timeout_s",
            connection,
        ):
            return task.result()
    finally:
        if not task.done():
            connection.terminate()
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)


@contextmanager
def event_loop() -> Iterator[Callable[[Coroutine[Any, Any, T]], T]]:
    """Give a function that runs coroutines on a loop in a thread, which works on between two calls.

    A notebook's own loop is no obstacle to it. What still runs at the end is cancelled.
    """
    started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def live() -> None:
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="postgres", daemon=True)
    thread.start()
    loop, stop = started.result()
    try:
        yield lambda work: asyncio.run_coroutine_threadsafe(work, loop).result()
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def redact(url: str, text: str | None = None) -> str:
    """Give the URL, or a text that may quote it, with every password replaced by ***."""
    text = url if text is None else text
    rest, query = url.partition("://")[2], url.partition("?")[2]
    address = re.split("[/?#]", rest, maxsplit=1)[0]
    raw = rest.rpartition("@")[0].partition(":")[2]
    secrets = {raw, unquote(raw)} | {value for key, value in parse_qsl(query) if "password" in key.lower()}
    secrets |= {part.partition("=")[2] for part in query.split("&") if "password" in part.lower()}
    if raw not in address:  # one with / ? or # as they are, which cut it: errors quote its parts
        secrets |= {part if len(part) > 1 else f"'{part}'" for part in re.split("[/?#@]", raw) if part}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
