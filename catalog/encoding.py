"""Columns to and from the Parquet schema of the engine, whole arrays at a time.

Written by hand instead of by the engine's writers: measured on 83,328 bars on one core,
`write_bars` alone takes 0.31 s (the bars' objects come on top) and `encode` 0.06 s; the engine's
custom data cost 0.14 ms a record (NAUTILUS.md 20), its funding 0.08 ms (NAUTILUS.md 19). The
contract test tests/catalog/test_engine_contract.py proves that the engine reads these files and
agrees.

The engine stores prices and quantities as 128-bit integers with 16 decimals. Reads return the
double nearest to the decimal number, which is what people read and type: 61570.6. The engine's own
``float(price)`` rounds twice and misses it in the last bit for one price in four, so whoever turns
live bars into features must use ``price.raw / 10**16``, as the strategies do; columns and live
bars then agree bit for bit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.instruments import parse_bar_type
from catalog.records import COLUMNS, AnyArray, Kind

type Records = dict[str, AnyArray]
"""Columns of equal length: `ts_event`, `ts_init` and those of `COLUMNS[kind]`."""

FIXED_DECIMALS = 16
LARGEST_PRICE = 17_014_118_346_046.0
LARGEST_QUANTITY = 34_028_236_692_093.0
"""The engine's own limits (price.rs, quantity.rs: PRICE_MAX and QUANTITY_MAX at 128 bits)."""

ENGINE_FOLDERS: Mapping[Kind, str] = {
    "bars": "bars",
    "funding": "funding_rates",
    "bar_flow": "custom/BarFlow",
    "onchain": "custom/OnchainMetrics",
    "index": "custom/IndexLevel",
    "news": "custom/NewsSentiment",
}
_DECIMAL = pa.decimal128(38, FIXED_DECIMALS)
_TIME = pa.timestamp("ns", tz="UTC")
_MOST_DIGITS = 1e15  # every decimal of 15 digits survives being a double
_ULPS = 2  # what went through the engine is off by one


def decimals_needed(values: Float64Array, at_least: int) -> tuple[int, NDArray[np.bool_]]:
    """Return how many decimals represent all values, and which values none up to 16 represent.

    A value counts as represented when the decimal has at most 15 digits and its nearest double is
    within 2 units in the last place of it.
    """
    pending = np.arange(len(values))
    needed = at_least
    for decimals in range(at_least, FIXED_DECIMALS + 1):
        exact = _represented(values[pending], decimals)
        if exact.any():
            needed = decimals
        pending = pending[~exact]
        if not len(pending):
            break
    impossible = np.zeros(len(values), dtype=np.bool_)
    impossible[pending] = True
    return needed, impossible


def _represented(values: Float64Array, decimals: int) -> NDArray[np.bool_]:
    scale = 10.0**decimals
    mantissas = np.rint(values * scale)
    close = np.abs(mantissas / scale - values) <= _ULPS * np.spacing(np.abs(values))
    return np.asarray(close & (np.abs(mantissas) < _MOST_DIGITS))


def stored_doubles(values: Float64Array, decimals: int) -> Float64Array:
    """Return what reading gives back for each value stored with this precision (see above)."""
    return _doubles(np.rint(values * 10.0**decimals), decimals)


def _doubles(mantissas: Float64Array, decimals: int) -> Float64Array:
    # Both are exact doubles (10**22 is the largest such power), so that this rounds only once.
    return mantissas / 10.0**decimals


def _to_decimal(values: Float64Array, decimals: int) -> pa.Array:
    """Return the values as the engine's 128-bit decimals."""
    mantissas = np.rint(values * 10.0**decimals)
    factor = 10 ** (FIXED_DECIMALS - decimals)
    words = np.empty((len(values), 2), dtype="<u8")
    words[:, 0] = mantissas.astype(np.int64).view(np.uint64) * np.uint64(factor)
    # The product is below 2**107; its error as a double is below 2**54 and vanishes when the
    # difference to the low word is rounded to a multiple of 2**64.
    high = np.rint((mantissas * float(factor) - words[:, 0].astype(np.float64)) / 2.0**64)
    words[:, 1] = high.astype(np.int64).view(np.uint64)
    return pa.Array.from_buffers(_DECIMAL, len(values), [None, pa.py_buffer(words.tobytes())])


def _from_decimal(column: pa.ChunkedArray, decimals: int) -> Float64Array:
    """Return the nearest doubles of a column of 128-bit decimals."""
    array = _one_chunk(column)
    words = np.frombuffer(array.buffers()[1], dtype="<u8")[2 * array.offset :][
        : 2 * len(array)
    ].reshape(-1, 2)
    shift = FIXED_DECIMALS - decimals
    # raw = mantissa * 2**shift * 5**shift: shift the 128 bits, then divide exactly by 5**shift,
    # which modulo 2**64 is a multiplication by its inverse.
    low = words[:, 0] >> np.uint64(shift)
    if shift:
        low = low | (words[:, 1] << np.uint64(64 - shift))
    inverse = np.uint64(pow(5**shift, -1, 2**64))
    mantissas = (low * inverse).view(np.int64)
    return _doubles(mantissas.astype(np.float64), decimals)


def encode(
    kind: Kind, series: str, records: Records, precisions: tuple[int, int] | None = None
) -> bytes:
    """Return the Parquet file of sorted records, in the engine's schema for their kind.

    Parameters
    ----------
    kind, series
        What the records are; see `catalog.records.Batch`.
    records : Records
        Columns sorted by `ts_init`.
    precisions : tuple of int or None
        Decimals of prices and sizes; bars only.
    """
    if kind == "bars":
        if precisions is None:
            raise AssertionError("bars are encoded with the precisions of their instrument")
        table = _bars_table(series, records, precisions)
    elif kind == "funding":
        table = _funding_table(series, records)
    else:
        table = _custom_table(kind, series, records)
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="zstd",
        compression_level=1,
        use_dictionary=[field.name for field in table.schema if pa.types.is_string(field.type)],
        # The engine's query takes a column whose smallest and largest value agree for a constant
        # and forgets that statistics leave NaN out: unscored headlines came back with the score of
        # the scored ones. Without statistics it reads what is there.
        write_statistics=["ts_event", "ts_init"],
        row_group_size=131_072,
    )
    return bytes(sink.getvalue())


def _times(records: Records) -> list[pa.Array]:
    return [_column(records[name], _TIME) for name in ("ts_event", "ts_init")]


def _column(values: AnyArray, kind: pa.DataType) -> pa.Array:
    """Return a column, from buffers: `pa.array` would import pandas, which costs half a second."""
    if kind == pa.string():
        return _texts(values.tolist())
    buffer = pa.py_buffer(np.ascontiguousarray(values).tobytes())
    return pa.Array.from_buffers(kind, len(values), [None, buffer])


def _texts(texts: list[str]) -> pa.Array:
    encoded = [text.encode() for text in texts]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int32)
    np.cumsum([len(text) for text in encoded], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(encoded), buffers)


_TIME_FIELDS = [pa.field("ts_event", _TIME, False), pa.field("ts_init", _TIME, False)]


def _bars_table(series: str, records: Records, precisions: tuple[int, int]) -> pa.Table:
    price, size = precisions
    names = [column.name for column in COLUMNS["bars"]]
    arrays = [_to_decimal(records[name], size if name == "volume" else price) for name in names]
    instrument_id, _ = parse_bar_type(series)
    metadata = {
        "bar_type": series,
        "instrument_id": instrument_id,
        "price_precision": str(price),
        "size_precision": str(size),
        "type_name": "Bar",
    }
    fields = [pa.field(name, _DECIMAL, False) for name in names]
    return pa.table(arrays + _times(records), pa.schema(fields + _TIME_FIELDS, metadata))


def _funding_table(series: str, records: Records) -> pa.Table:
    times = _times(records)
    rates = _texts([decimal_text(rate) for rate in records["rate"].tolist()])
    fields = [
        pa.field("rate", pa.string(), False),
        pa.field("interval", pa.uint64()),
        # The engine books a settlement only if this is set (NAUTILUS.md 8).
        pa.field("next_funding_ns", _TIME),
    ]
    arrays = [rates, pa.nulls(len(rates), pa.uint64()), times[0]]
    metadata = {"instrument_id": series, "type_name": "FundingRateUpdate"}
    return pa.table(arrays + times, pa.schema(fields + _TIME_FIELDS, metadata))


def decimal_text(value: float) -> str:
    """Return the shortest decimal text without exponent whose nearest double is `value`."""
    text = repr(value)
    return f"{Decimal(text):f}" if "e" in text else text


_CUSTOM_FIXED: Mapping[Kind, tuple[str, str]] = {
    "bar_flow": ("BarFlow", "bar_type"),
    "onchain": ("OnchainMetrics", "asset"),
    "index": ("IndexLevel", "name"),
    "news": ("NewsSentiment", ""),
}
"""Type name of each custom kind, and the field that its series' name fills."""

_CUSTOM_ORDER: Mapping[Kind, tuple[str, ...]] = {
    "bar_flow": (
        "bar_type",
        "quote_volume",
        "trade_count",
        "taker_buy_volume",
        "taker_buy_quote_volume",
    ),
    "onchain": ("asset", "metric", "value", "unit"),
    "index": ("name", "open", "high", "low", "close", "unit"),
    "news": ("asset", "source", "headline", "score", "ts_published"),
}
_ARROW = {"float": pa.float64(), "int": pa.int64(), "text": pa.string()}


def _custom_table(kind: Kind, series: str, records: Records) -> pa.Table:
    type_name, filled = _CUSTOM_FIXED[kind]
    types = {column.name: _ARROW[column.dtype] for column in COLUMNS[kind]}
    n_records = len(records["ts_init"])
    fields, arrays = [], []
    for name in _CUSTOM_ORDER[kind]:
        if name == filled:
            text = series.rpartition(".")[2] if kind == "onchain" else series
            arrays.append(_repeated(text, n_records))
        else:
            arrays.append(_column(records[name], types[name]))
        fields.append(pa.field(name, types.get(name, pa.string())))
    identity = json.dumps(
        {"type_name": type_name, "metadata": None, "identifier": series}, separators=(",", ":")
    )
    fields.append(pa.field("type", pa.string(), False))
    arrays.append(_repeated(type_name, n_records))
    fields += [*_TIME_FIELDS, pa.field("data_type", pa.string(), False)]
    arrays += [*_times(records), _repeated(identity, n_records)]
    return pa.table(arrays, pa.schema(fields, {"type_name": type_name}))


def _repeated(text: str, count: int) -> pa.Array:
    return _texts([text] * count)


def decode(kind: Kind, data: bytes) -> Records:
    """Return the columns of a Parquet file written by `encode` (or by the engine).

    Raises
    ------
    pyarrow.ArrowInvalid
        If the bytes are not such a file.
    """
    texts = [column.name for column in COLUMNS[kind] if column.dtype == "text"]
    wanted = ["ts_event", "ts_init", *(column.name for column in COLUMNS[kind])]
    file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    table = file.read(columns=wanted, use_threads=False)
    records: Records = {}
    for name in ("ts_event", "ts_init"):
        records[name] = _values(table[name], np.int64)
    metadata = {
        key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items()
    }
    for column in COLUMNS[kind]:
        records[column.name] = _decoded(table[column.name], column.name, metadata)
    return records


def _decoded(column: pa.ChunkedArray, name: str, metadata: Mapping[str, str]) -> AnyArray:
    if pa.types.is_decimal(column.type):
        key = "size_precision" if name == "volume" else "price_precision"
        return _from_decimal(column, int(metadata[key]))
    if name == "rate":
        return np.array([float(text) for text in column.to_pylist()], dtype=np.float64)
    if pa.types.is_dictionary(column.type):
        combined = _one_chunk(column)
        words = np.array(combined.dictionary.to_pylist(), dtype=object)
        return words[_values(combined.indices, np.int32)]
    return _values(column, np.int64 if pa.types.is_integer(column.type) else np.float64)


def _one_chunk(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    combined = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return combined.chunk(0) if isinstance(combined, pa.ChunkedArray) else combined


def _values(column: pa.ChunkedArray | pa.Array, dtype: type[np.generic]) -> AnyArray:
    """Return a column without nulls as a writable array; `to_numpy` would import pandas."""
    array = _one_chunk(column)
    if array.null_count:
        raise pa.ArrowInvalid(f"{array.null_count} values are missing")
    values = np.frombuffer(array.buffers()[1], dtype=dtype)
    return values[array.offset : array.offset + len(array)].copy()


def file_name(ts_init: Int64Array, digest: str) -> str:
    """Return the engine's name for a file: its first and last `ts_init`, then its content.

    The content is in the name because two files with equal stamps and different content are
    different files; the engine's own writer takes them for one (NAUTILUS.md 18).
    """
    return f"{_stamp(int(ts_init[0]))}_{_stamp(int(ts_init[-1]))}_{digest[:16]}.parquet"


def _stamp(ts: int) -> str:
    seconds, nanoseconds = divmod(ts, 1_000_000_000)
    moment = np.datetime64(seconds, "s").item()
    return f"{moment:%Y-%m-%dT%H-%M-%S}-{nanoseconds:09d}Z"


def content_digest(kind: Kind, records: Records) -> str:
    """Return the SHA-256 of the records' columns, independent of how they are stored."""
    digest = hashlib.sha256()
    update_digest(digest, kind, records)
    return digest.hexdigest()


def update_digest(digest: Any, kind: Kind, records: Records) -> None:
    """Feed the records' columns to a hash: names, then little-endian values, texts as UTF-8."""
    digest.update(f"{kind}:{len(records['ts_init'])};".encode())
    for name in ("ts_event", "ts_init"):
        digest.update(records[name].astype("<i8").tobytes())
    for column in COLUMNS[kind]:
        values = records[column.name]
        digest.update(column.name.encode())
        if column.dtype == "text":
            # A zero byte cannot be part of a text (`catalog.checks`), so that it separates them.
            digest.update("\0".join(values.tolist()).encode())
        else:
            digest.update(values.astype("<f8" if column.dtype == "float" else "<i8").tobytes())
