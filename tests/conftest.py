"""Fixtures for all tests."""

from pathlib import Path

import pytest

from tests.data import data_folder, recordings_folder


@pytest.fixture
def recordings() -> Path:
    """The folder of real recordings; the test is skipped where there is none."""
    return recordings_folder()


@pytest.fixture
def data() -> Path:
    """The folder of all real data; the test is skipped where there is none."""
    return data_folder()
