"""Comparing what a commit brings with what is stored, and writing what is new.

What happens to a record whose key is already there:

- equal content: nothing (imports are idempotent);
- equal content under another `ts_init`: the first stamp stays, and it is counted (`retimed`);
- other content: a restatement. The record goes into a vintage of its own, known from the moment
  of this import, and the first one stays what a plain read returns. Content that any vintage
  holds already is not restated again, so that importing two downloads in turn settles.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from catalog.checks import (
    CheckedBatch,
    Mask,
    equal_content,
    joined,
    key_order,
    same_key,
    take,
)
from catalog.encoding import Records, decode, encode, file_name
from catalog.instruments import (
    KNOWN,
    InstrumentSpec,
    definition,
    infer_instrument,
    parse_bar_type,
)
from catalog.manifest import FileRecord, Layer, Manifest, SeriesRecord, file_folder
from catalog.records import FIRST_VINTAGE, Kind
from catalog.timestamps import NS_PER_SECOND, format_time
from catalog.transactions import digest_of, read_file, stage
from catalog.vintages import AUTOMATIC_PREFIX, in_time_order

SMALL_FILE_ROWS = 50_000
"""A file below this is rewritten together with what is added beside it, so that a series that
grows by an hour a time does not become thousands of files."""


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of one batch's records."""

    added: int = 0
    known: int = 0
    restated: int = 0
    retimed: int = 0


@dataclass(slots=True)
class Workspace:
    """The state that a commit is building: `state` already has the coming commit's number."""

    root: Path
    state: Manifest
    now: int
    replaced: set[str] = field(default_factory=set)

    def read(self, kind: Kind, file: FileRecord) -> Records:
        """Return a stored or just staged file's records."""
        return decode(kind, read_file(self.root, self.state, file))

    def write(self, kind: Kind, series: str, label: str, records: Records) -> FileRecord:
        """Stage a file of sorted records."""
        precisions = None
        if kind == "bars":
            spec = self.state.instruments[parse_bar_type(series)[0]]
            precisions = (spec.price_precision, spec.size_precision)
        data = encode(kind, series, records, precisions)
        digest = digest_of(data)
        path = f"{file_folder(kind, series, label)}/{file_name(records['ts_init'], digest)}"
        stage(self.root, self.state.sequence, path, data)
        self.replaced.discard(path)
        return FileRecord(
            path=path,
            rows=len(records["ts_init"]),
            bytes=len(data),
            sha256=digest,
            first_event=int(records["ts_event"].min()),
            last_event=int(records["ts_event"].max()),
            first_init=int(records["ts_init"][0]),
            last_init=int(records["ts_init"][-1]),
        )

    def replace_files(
        self, record: SeriesRecord, layer: Layer, old: Sequence[FileRecord], new: FileRecord
    ) -> None:
        """Put a new file into a vintage in the place of others."""
        kept = [file for file in layer.files if file not in old]
        files = sorted([*kept, new], key=lambda file: file.first_init)
        self.replaced |= {file.path for file in old} - {new.path}
        self.state = self.state.with_series(record.with_layer(replace(layer, files=tuple(files))))

    def use_instrument(self, instrument_id: str, decimals: tuple[int, int] | None) -> None:
        """Define an instrument on first use; widen its precisions where data need more.

        Files written with the former precisions are rewritten, because the engine takes the
        precision of a bar from its file and compares it with the instrument's.
        """
        stored = self.state.instruments.get(instrument_id)
        spec = stored or KNOWN.get(instrument_id)
        if spec is None:
            if decimals is None:
                return
            spec = infer_instrument(instrument_id, *decimals)
        if decimals is not None:
            spec = spec.widened(*decimals)
        if spec == stored:
            return
        self.state = replace(
            self.state, instruments=dict(self.state.instruments) | {instrument_id: spec}
        )
        self._write_definition(spec)
        if stored is not None:
            self._rewrite_bars(instrument_id)

    def _write_definition(self, spec: InstrumentSpec) -> None:
        from nautilus_trader.persistence import ParquetDataCatalog

        with tempfile.TemporaryDirectory() as folder:
            (written,) = ParquetDataCatalog(folder).write_instruments([definition(spec)])
            data = (Path(folder) / written).read_bytes()
        digest = digest_of(data)
        path = f"{written.removesuffix('.parquet')}_{digest[:16]}.parquet"
        stage(self.root, self.state.sequence, path, data)
        files = dict(self.state.instrument_files)
        if spec.instrument_id in files:
            self.replaced.add(files[spec.instrument_id].path)
        self.replaced.discard(path)
        files[spec.instrument_id] = FileRecord(path, 1, len(data), digest, 0, 0, 0, 0)
        self.state = replace(self.state, instrument_files=files)

    def _rewrite_bars(self, instrument_id: str) -> None:
        for record in self.state.series:
            if record.kind != "bars" or parse_bar_type(record.series)[0] != instrument_id:
                continue
            for layer in record.layers:
                for file in layer.files:
                    current = self.state.find("bars", record.series) or record
                    written = current.layer(layer.label) or layer
                    rows = self.read("bars", file)
                    new = self.write("bars", record.series, layer.label, rows)
                    self.replace_files(current, written, [file], new)


def merge(workspace: Workspace, batches: Sequence[CheckedBatch]) -> list[Counts]:
    """Add batches of one kind, series and vintage to the state; return what became of each."""
    first = batches[0].batch
    kind, label = first.kind, first.vintage
    record = workspace.state.find(kind, first.series) or SeriesRecord(
        kind, first.series, first.synthetic
    )
    layer = record.layer(label) or _new_layer(label, first.known_at, workspace.now)
    incoming = joined([batch.records for batch in batches])
    owner = np.repeat(np.arange(len(batches)), [len(b.records["ts_init"]) for b in batches])
    touched = _touched(layer.files, incoming)
    stored = [workspace.read(kind, file) for file in touched]
    n_stored = sum(len(rows["ts_init"]) for rows in stored)
    compared = _compare(kind, joined([*stored, incoming]))
    is_new = ~compared.repeated & (compared.order >= n_stored)
    owners = owner[np.maximum(compared.order - n_stored, 0)]
    restated = np.zeros(len(batches), dtype=np.int64)
    if is_new.any():
        merged = in_time_order(kind, take(compared.ordered, ~compared.repeated))
        new = workspace.write(kind, first.series, label, merged)
        workspace.replace_files(record, layer, touched, new)
    if compared.changed.any():
        candidates = take(compared.ordered, compared.changed)
        taken = _restate(workspace, first.series, kind, label, candidates)
        restated = _per_owner(owners[compared.changed][taken], len(batches))
    return _counts(
        batches,
        _per_owner(owners[is_new], len(batches)),
        restated,
        _per_owner(owners[compared.retimed], len(batches)),
    )


def _counts(
    batches: Sequence[CheckedBatch],
    added: NDArray[np.int64],
    restated: NDArray[np.int64],
    retimed: NDArray[np.int64],
) -> list[Counts]:
    found = []
    for place, batch in enumerate(batches):
        total = len(batch.records["ts_init"])
        new, other = int(added[place]), int(restated[place])
        found.append(Counts(new, total - new - other, other, int(retimed[place])))
    return found


def _per_owner(owners: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(owners, minlength=count)


def _new_layer(label: str, known_at: int | None, now: int) -> Layer:
    if label == FIRST_VINTAGE:
        return Layer(label, None, now)
    return Layer(label, now if known_at is None else known_at, now)


def _touched(files: Sequence[FileRecord], incoming: Records) -> list[FileRecord]:
    """Return the files that may hold an incoming key, overlap in time or lie small beside it."""
    event = int(incoming["ts_event"].min()), int(incoming["ts_event"].max())
    span = [int(incoming["ts_init"].min()), int(incoming["ts_init"].max())]
    touched: list[FileRecord] = []
    rest = list(files)
    grown = True
    while grown:
        grown = False
        for file in list(rest):
            shares_keys = file.first_event <= event[1] and file.last_event >= event[0]
            overlaps = file.first_init <= span[1] and file.last_init >= span[0]
            if shares_keys or overlaps:
                rest.remove(file)
                touched.append(file)
                span = [min(span[0], file.first_init), max(span[1], file.last_init)]
                grown = True
    before = [file for file in rest if file.last_init < span[0]]
    after = [file for file in rest if file.first_init > span[1]]
    for beside in (before[-1:], after[:1]):
        touched += [file for file in beside if file.rows < SMALL_FILE_ROWS]
    return touched


@dataclass(frozen=True, slots=True)
class _Comparison:
    """A table by key and arrival: where each row stood, and how it relates to its key's first."""

    ordered: Records
    order: NDArray[np.int64]
    repeated: Mask
    changed: Mask
    retimed: Mask


def _compare(kind: Kind, table: Records) -> _Comparison:
    order = key_order(kind, table, np.arange(len(table["ts_init"])))
    ordered = take(table, order)
    repeated = same_key(kind, ordered)
    if not repeated.any():
        return _Comparison(ordered, order, repeated, repeated, repeated)
    firsts = take(ordered, np.flatnonzero(~repeated)[np.cumsum(~repeated) - 1])
    equal = equal_content(kind, ordered, firsts)
    retimed = repeated & equal & (ordered["ts_init"] != firsts["ts_init"])
    return _Comparison(ordered, order, repeated, repeated & ~equal, retimed)


def _restate(
    workspace: Workspace, series: str, kind: Kind, label: str, candidates: Records
) -> NDArray[np.int64]:
    """Keep changed records in vintages of their own; return which of them were new."""
    record = workspace.state.find(kind, series)
    if record is None:
        raise AssertionError("records are restated only in a series that is stored")
    rows = np.arange(len(candidates["ts_init"]))
    for layer in record.layers:
        if layer.label != label and len(rows):
            for file in layer.files:
                existing = workspace.read(kind, file)
                rows = rows[~_held(kind, existing, take(candidates, rows))]
    taken = rows
    while len(rows):
        # One vintage holds one record per key; a key that changed twice in one import needs two.
        compared = _compare(kind, take(candidates, rows))
        current = workspace.state.find(kind, series) or record
        layer = _new_layer(_automatic_label(current, workspace.now), None, workspace.now)
        fresh = in_time_order(kind, take(compared.ordered, ~compared.repeated))
        new = workspace.write(kind, series, layer.label, fresh)
        workspace.replace_files(current, layer, [], new)
        rows = rows[compared.order[compared.changed]]
    return taken


def _held(kind: Kind, existing: Records, candidates: Records) -> Mask:
    """Return which candidates a table with unique keys holds with equal content."""
    compared = _compare(kind, joined([existing, candidates]))
    n_existing = len(existing["ts_init"])
    firsts = compared.order[np.flatnonzero(~compared.repeated)[np.cumsum(~compared.repeated) - 1]]
    held = compared.repeated & ~compared.changed & (firsts < n_existing)
    found = np.zeros(len(candidates["ts_init"]), dtype=np.bool_)
    found[compared.order[held] - n_existing] = True
    return found


def _automatic_label(record: SeriesRecord, now: int) -> str:
    stamp = format_time(now // NS_PER_SECOND * NS_PER_SECOND)
    base = AUTOMATIC_PREFIX + stamp.replace("-", "").replace(":", "").replace(" ", "T") + "Z"
    label, number = base, 1
    while record.layer(label) is not None:
        number += 1
        label = f"{base}-{number}"
    return label
