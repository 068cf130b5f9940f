"""One embedded PostgreSQL server for all tests of a run, and an empty session database in it for each test."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from database import execute

from loaders.embedded import SCHEMA, embedded_postgres


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="kalshi-jax-") as folder, embedded_postgres(Path(folder) / "data") as url:
        yield url


@pytest.fixture(scope="session")
def mortal_folder() -> Iterator[Path]:
    """The folder of a server that tests may kill. Pytest's own folders will not do: they are closed to other users."""
    with tempfile.TemporaryDirectory(prefix="kalshi-jax-") as folder, embedded_postgres(Path(folder) / "data"):
        yield Path(folder) / "data"


@pytest.fixture
def database(server: str, _numbers: Iterator[int]) -> str:
    """The URL of empty session tables of the test's own: a schema in the server."""
    name = f"test_{next(_numbers)}"
    url = f"{server}&search_path={name}"
    execute(server, f"CREATE SCHEMA {name}", "SELECT 1")
    execute(url, SCHEMA.read_text(), "SELECT 1")
    return url


@pytest.fixture(scope="session")
def _numbers() -> Iterator[int]:
    return itertools.count(1)
