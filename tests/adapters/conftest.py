"""Small files in the forms that history comes in, made by hand so that each number is known."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from adapters.binance_archive import FUNDING_COLUMNS, KLINE_COLUMNS
from adapters.options import ImportOptions
from catalog.store import Catalog
from catalog.timestamps import interval_ns, parse_time
from tests.adapters.archive_server import Archive, serving

NOW = parse_time("2025-06-01")


@pytest.fixture
def options() -> ImportOptions:
    """Options whose clock stands still at 2025-06-01."""
    return ImportOptions(now_ns=NOW)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    """An empty catalog."""
    return Catalog.open(tmp_path / "catalog", create=True)


@pytest.fixture
def candles() -> Callable[..., pd.DataFrame]:
    """Return a maker of candles as freqtrade has them: a random walk on a tick of 0.1."""

    def make(
        count: int = 96, start: str = "2024-01-01", interval: str = "15m", seed: int = 7
    ) -> pd.DataFrame:
        generator = np.random.default_rng(seed)
        close = 420_000 + np.cumsum(generator.integers(-500, 501, count))
        opened = np.concatenate(([420_000], close[:-1]))
        high = np.maximum(opened, close) + generator.integers(0, 200, count)
        low = np.minimum(opened, close) - generator.integers(0, 200, count)
        stamps = parse_time(start) + np.arange(count) * interval_ns(interval)
        return pd.DataFrame(
            {
                "date": pd.to_datetime(stamps, utc=True).as_unit("ns"),
                "open": opened / 10,
                "high": high / 10,
                "low": low / 10,
                "close": close / 10,
                "volume": generator.integers(0, 10**6, count) / 1000,
            }
        )

    return make


@pytest.fixture
def feather(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of feather files into an inbox folder."""

    def write(
        frame: pd.DataFrame, name: str = "BTC_USDT_USDT-15m-futures.feather", folder: str = "inbox"
    ) -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_feather(path)
        return path

    return write


@pytest.fixture
def text_file(tmp_path: Path) -> Callable[..., Path]:
    """Return a writer of text files into an inbox folder."""

    def write(name: str, text: str, folder: str = "inbox") -> Path:
        path = tmp_path / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


@pytest.fixture
def zipped() -> Callable[[Path, str], Path]:
    """Return a writer of a zip with one member, as the archive has them."""

    def write(path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{path.stem}.csv", text)
        return path

    return write


@pytest.fixture
def klines() -> Callable[..., str]:
    """Return a maker of an archive file's text from candles."""

    def make(
        frame: pd.DataFrame, interval: str = "15m", *, header: bool = True, unit: str = "ms"
    ) -> str:
        per_unit = {"ms": 10**6, "us": 10**3}[unit]
        open_stamp = frame["date"].to_numpy("datetime64[ns]").astype(np.int64) // per_unit
        close_stamp = open_stamp + interval_ns(interval) // per_unit - 1
        rows = []
        for row, (first, last) in enumerate(zip(open_stamp, close_stamp, strict=True)):
            opened, high, low, close, volume = frame.iloc[row, 1:6]
            quote = volume * close
            rows.append(
                f"{first},{opened},{high},{low},{close},{volume},{last},{quote:.4f},{row + 3},"
                f"{volume / 2},{quote / 2:.4f},0"
            )
        return _joined(rows, KLINE_COLUMNS, header=header)

    return make


@pytest.fixture
def settlements() -> Callable[..., str]:
    """Return a maker of an archive's funding text: settlements every 8 hours, booked late."""

    def make(
        count: int = 9,
        start: str = "2024-01-01",
        *,
        late_ms: Sequence[int] = (0, 3, 11),
        header: bool = True,
    ) -> str:
        first = parse_time(start) // 10**6
        rows = [
            f"{first + row * 28_800_000 + late_ms[row % len(late_ms)]},8,{(row - 3) / 10_000:.8f}"
            for row in range(count)
        ]
        return _joined(rows, FUNDING_COLUMNS, header=header)

    return make


def _joined(rows: list[str], columns: Sequence[str], *, header: bool) -> str:
    return "\n".join([",".join(columns), *rows] if header else rows) + "\n"


@pytest.fixture
def archive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    """An empty archive, served on loopback past any proxy."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving() as served:
        yield served
