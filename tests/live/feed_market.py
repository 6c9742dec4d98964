"""A synthetic market in a catalog, a model fitted on it, and what the batch predicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from adapters.synthetic import SyntheticConfig
from catalog.instruments import instrument
from catalog.store import Catalog
from catalog.timestamps import parse_time
from live.history import StoredHistory, first_needed, stored_history
from live.pipeline import load_market
from live.profile import load_profile
from live.synthesis import make_market
from research.fitted import FittedModel, predict_rows
from research.predictor import BundlePredictor
from research.training import train_until
from research.training_table import build_table
from strategies.market_data import exact_bars
from tests.live.feed_world import World

SMALL = (
    "data.end=2024-02-08",
    "validation.test_start=2024-01-24",
    "validation.n_folds=2",
    "validation.embargo_bars=0",
    "label.horizon_bars=16",
    "experts.lightgbm.n_trees=8",
)
UNTIL = parse_time("2024-01-24")


@dataclass
class FeedMarket:
    """A market of 38 days of which a model has seen 23; `changes` are of its profile."""

    catalog: Path
    changes: tuple[str, ...] = ()

    @classmethod
    def make(cls, folder: Path, *changes: str) -> FeedMarket:
        make_market(folder / "catalog", SyntheticConfig(days=38))
        return cls(folder / "catalog", changes)

    @cached_property
    def profile(self) -> Any:
        return load_profile("synthetic", (*SMALL, *self.changes))

    @cached_property
    def panel(self) -> Any:
        return load_market(self.profile, self.catalog).panel

    @cached_property
    def model(self) -> FittedModel:
        return train_until(self.panel, self.profile.walk_forward_config(), UNTIL)

    @cached_property
    def batch(self) -> dict[tuple[str, int], Any]:
        """What research predicts of all that follows, by instrument and close."""
        table = build_table(self.panel, self.model.config)
        rows = np.flatnonzero(table.matrix.valid & (table.matrix.ts_init > UNTIL))
        frame = predict_rows(table, rows, self.model, 0)
        return {(row.instrument_id, row.ts_init): row for row in frame.itertuples()}

    def predictor(self) -> BundlePredictor:
        return BundlePredictor(self.model, compiled=False)

    @property
    def interval(self) -> int:
        return int(self.panel.interval_ns)

    def world(self, now: int, **changes: Any) -> World:
        bars = {
            one.instrument_id: exact_bars(one, instrument(one.instrument_id))
            for one in self.panel.bars
        }
        return World(bars, dict(self.panel.funding), now, **changes)

    def stored(self, now: int, until: int | None) -> StoredHistory:
        """What a catalog that ends at `until` holds."""
        spec = self.model.spec
        found = stored_history(self.catalog, spec, first_needed(spec, now), until=until)
        assert Catalog.open(self.catalog).is_stored
        return found
