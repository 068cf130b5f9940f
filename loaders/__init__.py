"""Everything that reads the world: recordings, the session database, the store, the simulated exchange. Out comes a Tape."""

from loaders.cached import cached_tape
from loaders.events import DataError, Events, MarketFacts, Report
from loaders.index import Book, MarketInfo, SessionInfo, TapeIndex, book_at
from loaders.metadata import Metadata, read_metadata
from loaders.sessions import SessionConfig, SessionDataLoader, load_tape
from loaders.store import read_store, write_store
from loaders.tapes import build_tape

__all__ = [
    "Book",
    "DataError",
    "Events",
    "MarketFacts",
    "MarketInfo",
    "Metadata",
    "Report",
    "SessionConfig",
    "SessionDataLoader",
    "SessionInfo",
    "TapeIndex",
    "book_at",
    "build_tape",
    "cached_tape",
    "load_tape",
    "read_metadata",
    "read_store",
    "write_store",
]
