"""A small life that several modules look at, lived once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from small_life import made

from evo.grower import Grower


@pytest.fixture(scope="session")
def told() -> list[dict[str, Any]]:
    """What `advance` said in the life that the others are compared with."""
    return []


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, told: list[dict[str, Any]]) -> Path:
    """The folder of that life; only to be read."""
    folder = tmp_path_factory.mktemp("unbroken")
    grower = Grower(*made(), folder)
    while not grower.done:
        told.append(grower.advance())
    grower.close()
    return folder


@pytest.fixture
def copy(unbroken: Path, tmp_path: Path) -> Path:
    """A copy to write to."""
    return Path(shutil.copytree(unbroken, tmp_path / "copy"))
