from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from catalog.store import Catalog
from catalog.transactions import create_catalog

# Two cores shared with other work: a time limit per example would measure the neighbours.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """An empty catalog whose folder is there, unlike that of one that is about to be made."""
    create_catalog(tmp_path / "catalog", 1.0)
    return Catalog.open(tmp_path / "catalog")
