"""Comparing what a commit brings with what is stored, and writing what is new.

What happens to a record whose key is already there:

- equal content: nothing (imports are idempotent);
- equal content under another `ts_init`: the first stamp stays, and it is counted (`retimed`);
- other content: a restatement. The record goes into a vintage of its own, known from the moment
  of this import, and the first one stays what a plain read returns.

What is "other" is judged against the last that the catalog learned without a declared vintage:
the first vintage and the automatic ones after it. So a return to an earlier value (A, B, A) is a
restatement too, known from its import. Records with a declared vintage are compared with that
vintage; where they differ from it, with the automatic ones that came after it. Two things are not
news, although they differ from that:

- what the newest vintage of all says already, a declared one included;
- a file that says to the last bit what it said when it was last imported. Importing two
  downloads in turn would never settle otherwise. Such records are counted (`superseded`) and
  reported, because a new download that happens to carry the old name and content looks the same.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

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
from catalog.encoding import Records, content_digest, decode, encode, file_name
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
    superseded: int = 0


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
    if is_new.any():
        merged = in_time_order(kind, take(compared.ordered, ~compared.repeated))
        new = workspace.write(kind, first.series, label, merged)
        workspace.replace_files(record, layer, touched, new)
    # Records with a declared vintage that say what that vintage says are never news.
    rows = np.flatnonzero(compared.repeated if label == FIRST_VINTAGE else compared.changed)
    repeats = _Repeats(take(compared.ordered, rows), owners[rows], compared.changed[rows])
    restated, superseded = _restate(workspace, batches, repeats)
    found = [
        _per_owner(owner_of, len(batches))
        for owner_of in (
            owners[is_new],
            repeats.owners[restated],
            owners[compared.retimed],
            repeats.owners[superseded],
        )
    ]
    return _counts(batches, *found)


def _counts(
    batches: Sequence[CheckedBatch],
    added: NDArray[np.int64],
    restated: NDArray[np.int64],
    retimed: NDArray[np.int64],
    superseded: NDArray[np.int64],
) -> list[Counts]:
    found = []
    for place, batch in enumerate(batches):
        total = len(batch.records["ts_init"])
        new, other = int(added[place]), int(restated[place])
        known = total - new - other
        found.append(Counts(new, known, other, int(retimed[place]), int(superseded[place])))
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


@dataclass(frozen=True, slots=True)
class _Repeats:
    """Incoming records whose key is stored, by key and arrival.

    `owners` are the places of their batches, `changed` is where they differ from their vintage.
    """

    records: Records
    owners: NDArray[np.int64]
    changed: Mask


def _restate(
    workspace: Workspace, batches: Sequence[CheckedBatch], repeats: _Repeats
) -> tuple[Mask, Mask]:
    """Keep what is news in vintages of its own; return which records are, and which are old."""
    first = batches[0].batch
    kind, label = first.kind, first.vintage
    restated = np.zeros(len(repeats.owners), dtype=np.bool_)
    superseded = restated.copy()
    record = workspace.state.find(kind, first.series)
    if record is None or not (repeats.changed.any() or _after(record, label)):
        return restated, superseded
    rows = np.arange(len(repeats.owners))
    while len(rows):
        # One vintage holds one record per key; a key that comes twice in one import takes turns.
        again = same_key(kind, take(repeats.records, rows))
        turn, rows = rows[~again], rows[again]
        record = workspace.state.find(kind, first.series) or record
        candidates = take(repeats.records, turn)
        news = turn[_is_news(workspace, record, label, candidates, repeats.changed[turn])]
        owners = np.unique(repeats.owners[news]).tolist()
        old = [owner for owner in owners if _said_last(workspace.state, batches[owner])]
        is_old = np.isin(repeats.owners[news], old)
        superseded[news[is_old]] = True
        restated[news[~is_old]] = True
        if not is_old.all():
            _keep(workspace, record, take(repeats.records, news[~is_old]))
    return restated, superseded


def _keep(workspace: Workspace, record: SeriesRecord, records: Records) -> None:
    """Write restated records, one per key, as a vintage that is known from now on."""
    known = [layer.known_at or 0 for layer in record.layers if _is_automatic(layer)]
    # The order of knowledge must not hang on a clock that stood still between two of them.
    moment = max([workspace.now, *(at + 1 for at in known)])
    layer = Layer(_automatic_label(record, workspace.now), moment, workspace.now)
    sorted_records = in_time_order(record.kind, records)
    new = workspace.write(record.kind, record.series, layer.label, sorted_records)
    workspace.replace_files(record, layer, [], new)


def _is_automatic(layer: Layer) -> bool:
    return layer.label.startswith(AUTOMATIC_PREFIX)


def _after(record: SeriesRecord, label: str) -> list[Layer]:
    """Return the vintages that became known after one, the newest first."""
    labels = [layer.label for layer in record.layers]
    return list(reversed(record.layers[labels.index(label) + 1 :]))


def _is_news(
    workspace: Workspace, record: SeriesRecord, label: str, candidates: Records, changed: Mask
) -> Mask:
    """Return which records say something else than the last that was known; see the module."""
    later = _after(record, label)
    automatic = [layer for layer in later if _is_automatic(layer)]
    news = _differs(workspace, record.kind, automatic, candidates, changed)
    rows = np.flatnonzero(news)
    known = [layer for layer in later if _is_automatic(layer) or _known_by(layer, workspace.now)]
    if len(rows) and known != automatic:
        some = take(candidates, rows)
        news[rows] = _differs(workspace, record.kind, known, some, changed[rows])
    return news


def _known_by(layer: Layer, moment: int) -> bool:
    return layer.known_at is None or layer.known_at <= moment


def _differs(
    workspace: Workspace, kind: Kind, layers: Sequence[Layer], candidates: Records, else_: Mask
) -> Mask:
    """Return where records differ from the first layer that has their key; `else_` if none has."""
    found = else_.copy()
    rows = np.arange(len(else_))
    for file in (file for layer in layers for file in layer.files):
        if not len(rows):
            break
        stamps = candidates["ts_event"][rows]
        if file.first_event > int(stamps.max()) or file.last_event < int(stamps.min()):
            continue
        existing = workspace.read(kind, file)
        n_existing = len(existing["ts_init"])
        compared = _compare(kind, joined([existing, take(candidates, rows)]))
        places = compared.order[compared.repeated] - n_existing
        found[rows[places]] = compared.changed[compared.repeated]
        rows = np.delete(rows, places)
    return found


def _said_last(state: Manifest, batch: CheckedBatch) -> bool:
    """Return whether a source says exactly what it said when something of it was last taken.

    A source is known by its name; one whose whole name is new by the name without folders, because
    importing a folder and importing a file of it give the file two names.
    """
    given = batch.batch
    entries = [
        [
            entry
            for entry in commit["sources"]
            if (entry["kind"], entry["series"], entry["vintage"])
            == (given.kind, given.series, given.vintage)
        ]
        for commit in reversed(state.commits)
    ]
    for name in (str, _base_name):
        for sources in entries:
            same = [one for one in sources if name(one["source"]) == name(given.source)]
            if same:
                digest = content_digest(given.kind, batch.records)
                return digest in {one["content_sha256"] for one in same}
    return False


def _base_name(source: str) -> str:
    return PurePath(source).name


def _automatic_label(record: SeriesRecord, now: int) -> str:
    stamp = format_time(now // NS_PER_SECOND * NS_PER_SECOND)
    base = AUTOMATIC_PREFIX + stamp.replace("-", "").replace(":", "").replace(" ", "T") + "Z"
    label, number = base, 1
    while record.layer(label) is not None:
        number += 1
        label = f"{base}-{number}"
    return label
