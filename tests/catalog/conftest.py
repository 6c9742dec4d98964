from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

from catalog.store import Catalog

# Two cores shared with other work: a time limit per example would measure the neighbours.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.open(tmp_path / "catalog", create=True)
