"""A made-up market of fifteen perpetuals with a small model of each, for many engines at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import yaml

from adapters.synthetic import SyntheticConfig, generate
from catalog.errors import DataError
from catalog.records import Batch
from catalog.store import Catalog
from catalog.timestamps import parse_time
from live.pipeline import load_market
from live.profile import dump_profile, load_profile
from research.bundle import save_bundle
from research.training import train_until

ROOT = Path(__file__).parents[2]
RISK = ROOT / "live" / "risk_policy.yaml"
SYMBOLS = tuple(
    f"{base}USDT"
    for base in (
        *("BTC", "ETH", "SOL", "ADA", "ARB", "ATOM", "AVAX", "BNB", "DOGE", "DOT"),
        *("INJ", "LINK", "LTC", "NEAR", "XRP"),
    )
)
START = "2024-01-26"
"""Where the exchange begins: the models have seen what lies before `_TRAINED`."""
_TRAINED = "2024-01-24"
_PERPETUALS = ("BTCUSDT", "ETHUSDT", "SOLUSDT")
_SMALL = (
    "data.end=2024-02-08",
    "validation.test_start=2024-01-24",
    "validation.n_folds=2",
    "validation.embargo_bars=0",
    "label.horizon_bars=4",
    "features.peers=false",
    "experts.lightgbm.min_rows_in_leaf=60",
)
EQUITY_USDT = 75_000.0


@dataclass(frozen=True, slots=True)
class FleetMarket:
    """A catalog, and the plan of a fleet with one engine, profile and bundle for each symbol.

    Parameters
    ----------
    folder : Path
        Where all of it lies.
    symbols : tuple of str
        Which, such as ``BTCUSDT``.
    """

    folder: Path
    symbols: tuple[str, ...]

    @classmethod
    def make(
        cls, folder: Path, engines: int, *, trees: int = 8, days: int = 80, **strategy: Any
    ) -> Self:
        """Make a market of `days` from 2024-01-01 and fit a model to the first part of each symbol.

        Parameters
        ----------
        folder : Path
            New.
        engines : int
            How many symbols, at most fifteen.
        trees : int
            Of each model.
        days : int
            Length of the market; the exchange plays it from the 26th day on.
        **strategy
            Settings of the strategy beside those of a fleet that trades often.
        """
        found = cls(folder, SYMBOLS[:engines])
        store = Catalog.open(found.catalog, create=True)
        report = store.ingest(list(_batches(found.symbols, days)))
        if report.refused:
            raise DataError(f"the market was not stored: {report.refused[0].refused}")
        for symbol in found.symbols:
            found._fit(symbol, trees, strategy)
        found.plan.write_text(yaml.safe_dump(found._plan()), encoding="utf-8")
        return found

    @property
    def catalog(self) -> Path:
        """Folder of the catalog."""
        return self.folder / "catalog"

    @property
    def plan(self) -> Path:
        """The file for ``--engines``."""
        return self.folder / "engines.yaml"

    @property
    def instruments(self) -> tuple[str, ...]:
        """Instrument ids."""
        return tuple(f"{symbol}-PERP.BINANCE" for symbol in self.symbols)

    def profile(self, symbol: str) -> Path:
        """Return the profile of an engine."""
        return self.folder / f"{symbol}.yaml"

    def bundle(self, symbol: str) -> Path:
        """Return the bundle of an engine."""
        return self.folder / "bundles" / symbol

    def exchange(self, state: Path, speed: float, *more: str) -> tuple[str, ...]:
        """Return the arguments of a test exchange that plays what no model has seen."""
        return (
            *("--catalog", str(self.catalog), "--from", START, "--speed", f"{speed:g}"),
            *("--instruments", ",".join(self.instruments), "--state", str(state)),
            *("--profile", str(self.profile(self.symbols[0]))),
            # Each fill is followed by questions, and in accelerated time there are hundreds of
            # times as many fills in a minute in which requests are counted.
            *("--weight-limit", str(20 * 2_400), *more),
        )

    def _fit(self, symbol: str, trees: int, strategy: dict[str, Any]) -> None:
        instrument = f"{symbol}-PERP.BINANCE"
        profile = load_profile(
            "synthetic",
            (
                *_SMALL,
                f"experts.lightgbm.n_trees={trees}",
                f"data.instruments=[{instrument}]",
                f"features.lead={instrument}",
                "features.ratios=[]",
            ),
        )
        panel = load_market(profile, self.catalog).panel
        model = train_until(panel, profile.walk_forward_config(), parse_time(_TRAINED))
        save_bundle(self.bundle(symbol), model, profile=profile.model_dump(mode="json"))
        content = yaml.safe_load(dump_profile(profile))
        content["name"] = symbol.lower()
        content["strategy"] |= {
            "risk": _risk(),
            "entry_threshold": 0.52,
            "position_frac": 0.1,
            "stop_loss_frac": 0.01,
            **strategy,
        }
        self.profile(symbol).write_text(yaml.safe_dump(content), encoding="utf-8")

    def _plan(self) -> dict[str, Any]:
        return {
            "equity": EQUITY_USDT,
            "engines": {
                one: {"profile": str(self.profile(one)), "bundle": str(self.bundle(one))}
                for one in self.symbols
            },
        }


def _risk() -> dict[str, Any]:
    """Return the shipped policy with limits that let a fleet trade on whatever it loses."""
    risk: dict[str, Any] = yaml.safe_load(RISK.read_text(encoding="utf-8"))
    return risk | {
        "found_groups": None,
        "sizing": {},
        "correlation_groups": {},
        "rebalance": None,
        "max_symbol_share": 1.0,
        "max_positions": len(SYMBOLS),
        "max_daily_loss": 0.9,
        "max_drawdown": 0.9,
        "max_consecutive_losses": 100_000,
        "max_rejected_orders": 1_000,
        # Four seconds of silence are an hour of data at 900 seconds a second.
        "max_data_age_secs": 86_400.0,
    }


def _batches(symbols: tuple[str, ...], days: int) -> Iterator[Batch]:
    """Yield bars and settlements; what is built in as a spot pair becomes a perpetual."""
    spot = {s: f"{s}{'-PERP' if s in _PERPETUALS else ''}.BINANCE" for s in symbols}
    config = SyntheticConfig(days=days, instruments=tuple(spot.values()), news_per_day=0.0)
    for batch in generate(config):
        if batch.kind in ("bars", "funding"):
            symbol, point, rest = batch.series.partition(".")
            name = f"{symbol.removesuffix('-PERP')}-PERP{point}{rest}"
            yield replace(batch, series=name)
