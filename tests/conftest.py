"""Fixtures and settings for all tests."""

from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

from tests.data import data_folder, recordings_folder

settings.register_profile("shared machine", deadline=None)  # compiling is slow, and so may the machine be
settings.load_profile("shared machine")


@pytest.fixture(scope="session", autouse=True)
def compile_cache(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Let all tests, whichever process runs them, share what has been compiled."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder if worker_id == "master" else folder.parent) / "compiled"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    compilation_cache.reset_cache()


@pytest.fixture
def recordings() -> Path:
    """The folder of real recordings; the test is skipped where there is none."""
    return recordings_folder()


@pytest.fixture
def data() -> Path:
    """The folder of all real data; the test is skipped where there is none."""
    return data_folder()
