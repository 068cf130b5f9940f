"""Fixtures and settings for all tests."""

from pathlib import Path

import pytest
from hypothesis import settings

from tests.data import data_folder, recordings_folder

settings.register_profile("shared machine", deadline=None)  # compiling is slow, and so may the machine be
settings.load_profile("shared machine")


@pytest.fixture
def recordings() -> Path:
    """The folder of real recordings; the test is skipped where there is none."""
    return recordings_folder()


@pytest.fixture
def data() -> Path:
    """The folder of all real data; the test is skipped where there is none."""
    return data_folder()
