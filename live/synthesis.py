"""Put a synthetic market into a catalog of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from adapters.synthetic import SyntheticConfig, generate
from catalog.errors import DataError
from catalog.ingest import IngestReport
from catalog.progress import Progress, no_progress
from catalog.records import Batch
from catalog.store import Catalog


def make_market(
    catalog: Path, config: SyntheticConfig, *, progress: Progress = no_progress
) -> IngestReport:
    """Make a market and store it; making it again, or longer, adds only what is new.

    Raises
    ------
    DataError
        If the catalog holds real data, or another synthetic market of the same instruments. It
        is left as it was.
    """
    store = Catalog.open(catalog, create=True)
    batches = list(generate(config))
    for name, batch in zip(config.instruments, _bars(batches), strict=True):
        if any(found.series == batch.series for found in store.series("bars")):
            _require_same(store, name, config.interval, batch)
    report = store.ingest(batches, progress=progress)
    if report.refused:
        raise DataError(
            f"the synthetic market was not stored in {catalog}: {report.refused[0].refused}. "
            "Synthetic data need a catalog of their own and a past start"
        )
    return report


def _bars(batches: list[Batch]) -> list[Batch]:
    return [batch for batch in batches if batch.kind == "bars"]


def _require_same(store: Catalog, name: str, interval: str, batch: Batch) -> None:
    """Refuse a market that tells another story of times that the catalog knows already."""
    known = store.bars(name, interval)
    _, mine, theirs = np.intersect1d(batch.columns["ts_init"], known.ts_init, return_indices=True)
    if not np.array_equal(batch.columns["close"][mine], known.close[theirs]):
        raise DataError(
            f"catalog {store.path} holds other bars of {name} already; another synthetic market "
            "needs a folder of its own"
        )
