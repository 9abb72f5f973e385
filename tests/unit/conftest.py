"""Fixtures of the unit tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def made_up() -> Any:
    """The module `tests/made_up_run.py`: run folders with made-up numbers."""
    file = Path(__file__).resolve().parents[1] / "made_up_run.py"
    spec = importlib.util.spec_from_file_location("made_up_run", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
