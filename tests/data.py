"""Where the real recordings are: a folder beside the repository, absent from most checkouts."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def data_folder() -> Path:
    """The folder of real data, or a skipped test."""
    if not DATA.is_dir():
        pytest.skip(f"needs real recordings: no folder {DATA.name} in {DATA.parent.name} beside the repository")
    return DATA


def recordings_folder() -> Path:
    """The folder of real recordings (`*.jsonl.gz`), or a skipped test."""
    return data_folder() / "recordings"
