"""Import a file or a folder of history into a catalog.

Each file is looked at, read by the importer that knows its content, and committed by itself: a run
that is stopped has imported whole files, and the next run finds them there and goes on. A file with
which something is wrong is refused with its reason and changes nothing; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from adapters import binance_archive, checksums, coinmetrics, freqtrade, generic, indices, news
from adapters.generic import GenericColumns
from adapters.options import ImportOptions
from adapters.report import FileOutcome, ImportReport
from adapters.sources import SourceFile, open_source
from catalog.errors import ConfigError, DataError
from catalog.ingest import IngestReport
from catalog.progress import Progress, no_progress
from catalog.records import Batch
from catalog.store import Catalog

type Reader = Callable[[SourceFile, ImportOptions], list[Batch]]


class Importer(NamedTuple):
    """One form of file: how it is told, and how it is read."""

    name: str
    matches: Callable[[SourceFile], bool]
    read: Reader


IMPORTERS = (
    Importer("freqtrade", freqtrade.matches, freqtrade.read),
    Importer("binance archive", binance_archive.matches, binance_archive.read),
    Importer("coin metrics", coinmetrics.matches, coinmetrics.read),
    Importer("etherscan", coinmetrics.matches_etherscan, coinmetrics.read_etherscan),
    Importer("fear & greed", indices.matches_fear_greed, indices.read_fear_greed),
    Importer("dvol", indices.matches_dvol, indices.read_dvol),
    Importer("news", news.matches, news.read),
)
"""All forms of file that need no column map; a file matches one of them at most."""


def detect(path: Path) -> Importer | None:
    """Return the importer that knows a file's content, or None.

    Parameters
    ----------
    path : Path
        A file.
    """
    return importer_of(open_source(path))


def importer_of(source: SourceFile) -> Importer | None:
    """Return the importer that knows a source's content, or None."""
    return next((importer for importer in IMPORTERS if importer.matches(source)), None)


def import_path(
    path: Path | str,
    catalog: Catalog,
    *,
    progress: Progress = no_progress,
    columns: GenericColumns | None = None,
    options: ImportOptions | None = None,
) -> ImportReport:
    """Import a file or all files below a folder.

    Parameters
    ----------
    path : Path or str
        A file, or a folder that is searched in full (hidden files and the catalog itself apart).
        Files that a `SHA256SUMS` in it lists must be what it says.
    catalog : Catalog
        Where the records go, one commit for each file.
    progress : Progress
        Told after each file, stage ``import``.
    columns : GenericColumns or None
        Column map of files in no known form; with it every table is read by the map.
    options : ImportOptions or None
        Assumptions where a file is silent; None: the defaults.

    Returns
    -------
    ImportReport
        What was taken, skipped and refused. The caller decides what a refusal means
        (`ImportReport.exit_code`).

    Raises
    ------
    ConfigError
        If there is no such file or folder.
    DataError
        If the folder holds no file.
    """
    root = Path(path)
    options = options or ImportOptions()
    names = _files(root, catalog)
    lists = checksums.collect(names) if root.is_dir() else checksums.Checksums({}, {})
    started = time.perf_counter()
    outcomes = []
    progress("import", 0, len(names))
    for done, (file, name) in enumerate(names, start=1):
        changed = checksums.difference(file, name, lists)
        if name in lists.outcomes:
            outcomes.append(lists.outcomes[name])
        elif changed:
            outcomes.append(FileOutcome(name, "refused", reason=changed))
        else:
            outcomes.append(import_file(file, name, catalog, options, columns))
        progress("import", done, len(names))
    if root.is_file():
        outcomes = [refuse_skipped(outcome) for outcome in outcomes]
    return ImportReport(tuple(outcomes), time.perf_counter() - started)


def import_file(
    path: Path,
    name: str,
    catalog: Catalog,
    options: ImportOptions,
    columns: GenericColumns | None = None,
) -> FileOutcome:
    """Import one file under a name; never raises for what is wrong with the file."""
    source = open_source(path, name)
    if source.format == "unreadable":
        reason = f"{name}: must be a whole file, was damaged, cut short or empty ({source.problem})"
        return FileOutcome(name, "refused", reason=reason)
    importer = importer_of(source)
    if columns is not None and source.format in {"csv", "parquet", "feather"}:
        importer = Importer("column map", _always, partial(generic.read, columns=columns))
    if importer is None:
        return FileOutcome(name, "skipped", reason=_explain(source))
    try:
        batches = importer.read(source, options)
        report = catalog.ingest(batches)
    except (DataError, ConfigError) as error:
        return FileOutcome(name, "refused", importer.name, reason=str(error))
    return _outcome(name, importer.name, batches, report)


def _files(root: Path, catalog: Catalog) -> list[tuple[Path, str]]:
    """Return the files to import and their names, in order of name."""
    if root.is_file():
        return [(root, root.name)]
    if not root.is_dir():
        raise ConfigError(
            f"import path must be a file or a folder, was {str(root)!r}: none is there"
        )
    own = catalog.path.resolve()
    found = []
    for file in sorted(root.rglob("*")):
        relative = file.relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if not hidden and file.is_file() and not file.resolve().is_relative_to(own):
            found.append((file, relative.as_posix()))
    if not found:
        raise DataError(
            f"import path must hold files, there is no file to import in {str(root)!r} (hidden "
            f"ones do not count); check its spelling"
        )
    return found


def _explain(source: SourceFile) -> str:
    """Say why nothing is imported from a file that no importer knows."""
    if source.format == "other":
        return "not a table"
    if source.has("trade_id") or source.has("bid", "ask"):
        return "ticks: the catalog keeps bars and slower series, no single trades or quotes"
    labelled = news.explain_labelled(source)
    if labelled:
        return labelled
    shown = ", ".join(name[:40] for name in source.columns[:12])
    return f"no importer knows these columns: {shown}; a column map can describe them"


def refuse_skipped(outcome: FileOutcome) -> FileOutcome:
    """Refuse what a folder would skip: a file that was named by itself was meant."""
    if outcome.status != "skipped":
        return outcome
    return FileOutcome(outcome.file, "refused", reason=f"{outcome.file}: {outcome.reason}")


def _always(source: SourceFile) -> bool:
    return True


def _outcome(
    name: str, importer: str, batches: Sequence[Batch], report: IngestReport
) -> FileOutcome:
    """Return what the catalog says about the batches of one file."""
    series = tuple(dict.fromkeys(batch.series for batch in batches))
    rows = sum(len(batch) for batch in batches)
    if report.refused:
        reason = report.refused[0].refused
        if name not in reason:
            reason = f"{name}: {reason}"
        return FileOutcome(name, "refused", importer, series, rows, reason=reason)
    notes = [note for result in report.results for note in result.notes]
    retimed = sum(result.retimed for result in report.results)
    if retimed:
        notes.append(f"{retimed:,} records known under another time keep the first one")
    superseded = sum(result.superseded for result in report.results)
    if superseded:
        notes.append(
            f"{superseded:,} records have been restated since this file said the same before; "
            f"they stay so. If it is a new download, import it under another name"
        )
    return FileOutcome(
        name,
        "took" if report.added or report.restated else "unchanged",
        importer,
        series,
        rows,
        report.added,
        report.restated,
        notes=tuple(dict.fromkeys(notes)),
    )
