"""Everything that reads the world: recordings, the session database, the store, the simulated exchange. Out comes a Tape."""

from loaders.cached import cached_tape
from loaders.catalogue import SessionFilter
from loaders.curriculum import Stage, session_weights, stage_at
from loaders.events import DataError, Events, MarketFacts, Report
from loaders.index import Book, MarketInfo, SessionInfo, TapeIndex, book_at
from loaders.metadata import Metadata, read_metadata
from loaders.sessions import SessionConfig, SessionDataLoader, load_tape
from loaders.splits import Split, check_split, split_sessions
from loaders.statistics import MarketStatistics, SessionStatistics
from loaders.store import read_store, write_store
from loaders.tapes import build_tape, select_markets, select_sessions

__all__ = [
    "Book",
    "DataError",
    "Events",
    "MarketFacts",
    "MarketInfo",
    "MarketStatistics",
    "Metadata",
    "Report",
    "SessionConfig",
    "SessionDataLoader",
    "SessionFilter",
    "SessionInfo",
    "SessionStatistics",
    "Split",
    "Stage",
    "TapeIndex",
    "book_at",
    "build_tape",
    "cached_tape",
    "check_split",
    "load_tape",
    "read_metadata",
    "read_store",
    "select_markets",
    "select_sessions",
    "session_weights",
    "split_sessions",
    "stage_at",
    "write_store",
]
