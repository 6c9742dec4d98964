"""Query the catalog with SQL: DuckDB over the Parquet files that count.

==============  ==================================================================================
view            columns beside `ts_event` and `ts_init`
==============  ==================================================================================
bars            instrument, interval, open, high, low, close, volume
funding         instrument, rate
bar_flow        instrument, interval, quote_volume, trade_count, taker_buy_volume,
                taker_buy_quote_volume
onchain         series, metric, value, unit
index_levels    series, open, high, low, close, unit
news            series, source, asset, headline, score, ts_published
==============  ==================================================================================

Times are TIMESTAMP_NS in UTC, numbers DOUBLE (the nearest to the stored decimal; reads of
`Catalog` return the engine's doubles, which may differ in the last bit). Each view shows the first
vintage; ``bars_vintages`` and so on show all, with the columns `vintage` (``first`` or a label)
and `known_at` (NULL for the first: each record at its own `ts_init`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from catalog.errors import IntegrityError
from catalog.instruments import parse_bar_type
from catalog.manifest import Layer, SeriesRecord
from catalog.records import COLUMNS, KINDS, Kind
from catalog.store import Catalog
from catalog.vintages import FIRST

if TYPE_CHECKING:
    import duckdb

VIEWS: Mapping[Kind, str] = {
    "bars": "bars",
    "funding": "funding",
    "bar_flow": "bar_flow",
    "onchain": "onchain",
    "index": "index_levels",
    "news": "news",
}
"""Name of each kind's view."""

_SQL_TYPES = {"float": "DOUBLE", "int": "BIGINT", "text": "VARCHAR"}
_TIMES = ("ts_event", "ts_init", "ts_published")


def connect(path: Path | str) -> duckdb.DuckDBPyConnection:
    """Return a DuckDB connection in memory with the catalog's tables as views.

    The views show the commit that was the newest when they were made; connect again after an
    import.

    Examples
    --------
    >>> connection = connect("data/catalog")  # doctest: +SKIP
    >>> connection.sql("SELECT instrument, count(*) FROM bars GROUP BY 1")  # doctest: +SKIP

    Raises
    ------
    DataError
        If there is no catalog.
    IntegrityError
        If one of its files is missing.
    """
    import duckdb

    catalog = Catalog.open(path)
    catalog.settle()
    connection = duckdb.connect(":memory:")
    for kind in KINDS:
        selects = [
            _select(catalog.path.absolute(), record, layer)
            for record in catalog.manifest.series
            if record.kind == kind
            for layer in record.layers
        ]
        union = " UNION ALL ".join(selects) or _nothing(kind)
        view = VIEWS[kind]
        connection.execute(f"CREATE VIEW {view}_vintages AS {union}")
        connection.execute(
            f"CREATE VIEW {view} AS SELECT * EXCLUDE (vintage, known_at) "  # noqa: S608 - names are ours
            f"FROM {view}_vintages WHERE vintage = '{FIRST}'"
        )
    return connection


def _select(root: Path, record: SeriesRecord, layer: Layer) -> str:
    paths = [root / file.path for file in layer.files]
    for path, file in zip(paths, layer.files, strict=True):
        if not path.is_file():
            raise IntegrityError(
                f"file {file.path} of the catalog must exist, was missing; restore it from a copy "
                f"or import its source again into a new catalog"
            )
    columns = [f"{_quoted(value)} AS {name}" for name, value in _identity(record).items()]
    columns += [f"{_utc(name)} AS {name}" for name in ("ts_event", "ts_init")]
    for column in COLUMNS[record.kind]:
        read = _utc(column.name) if column.name in _TIMES else f"{column.name}"
        if column.name == "ts_published":
            read = "make_timestamp_ns(ts_published)"
        elif column.dtype == "float":
            read = f"CAST({column.name} AS DOUBLE)"
        columns.append(f"{read} AS {column.name}")
    columns.append(f"{_quoted(layer.label or FIRST)} AS vintage")
    known = "NULL::BIGINT" if layer.known_at is None else str(layer.known_at)
    columns.append(f"make_timestamp_ns({known}) AS known_at")
    files = ", ".join(_quoted(str(path)) for path in paths)
    return f"SELECT {', '.join(columns)} FROM read_parquet([{files}])"  # noqa: S608 - quoted above


def _nothing(kind: Kind) -> str:
    """Return a query of the right columns without rows."""
    names = ["instrument", "interval"] if kind in ("bars", "bar_flow") else ["series"]
    names = ["instrument"] if kind == "funding" else names
    columns = [f"NULL::VARCHAR AS {name}" for name in names]
    columns += [f"NULL::TIMESTAMP_NS AS {name}" for name in ("ts_event", "ts_init")]
    for column in COLUMNS[kind]:
        kept = "TIMESTAMP_NS" if column.name in _TIMES else _SQL_TYPES[column.dtype]
        columns.append(f"NULL::{kept} AS {column.name}")
    columns += ["NULL::VARCHAR AS vintage", "NULL::TIMESTAMP_NS AS known_at"]
    return f"SELECT {', '.join(columns)} WHERE false"


def _identity(record: SeriesRecord) -> dict[str, str]:
    if record.kind in ("bars", "bar_flow"):
        instrument_id, interval = parse_bar_type(record.series)
        return {"instrument": instrument_id, "interval": interval}
    return {"instrument" if record.kind == "funding" else "series": record.series}


def _utc(name: str) -> str:
    # A cast from a zoned to a plain time would use the session's zone; this never does.
    return f"make_timestamp_ns(epoch_ns({name}))"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
