"""From run folders to a tearsheet that compares them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from catalog.arrays import BarArrays
from catalog.errors import ConfigError, DataError, IntegrityError
from catalog.store import Catalog
from catalog.timestamps import interval_ns
from live.critique import held_against
from live.runs import (
    MARKET_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    PROFILE_FILE,
    check_free,
    read_run,
    run_folder,
)
from research.market_view import MarketView, ViewedRun, market_view
from research.metrics import BootstrapConfig, reliability_curve
from research.panel import load_panel
from research.performance import TradingFrames, daily_equity
from research.report import FoldMark, estimate_of
from research.tearsheet import (
    QUANTSTATS_FILE,
    TearsheetData,
    partial_file,
    render_tearsheets,
    write_quantstats,
)

if TYPE_CHECKING:
    import pandas as pd

    from live.report import RunResult

VALIDATION_FILE = "validation.json"
_PRICE_SLACK = 0.01
"""How far a fill may lie outside of its bar, as a fraction, before prices are taken for others."""


class _Kept(BaseModel):
    """What a page needs of a run's profile, whatever else that version of it had or lacked."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _KeptData(_Kept):
    instruments: tuple[str, ...]
    interval: str


class _KeptLabel(_Kept):
    horizon_bars: int


class _KeptExecution(_Kept):
    starting_balance: float
    taker_fee_bps: float
    slippage_bps: float
    latency_slippage_bps: float = 0.0
    funding: str

    @property
    def base_slippage_bps(self) -> float:
        return self.slippage_bps + self.latency_slippage_bps


class KeptProfile(_Kept):
    """The part of a kept profile that a page needs: a page is drawn of runs of any version."""

    name: str
    data: _KeptData
    label: _KeptLabel
    execution: _KeptExecution
    bootstrap: BootstrapConfig


@dataclass(frozen=True, slots=True)
class TearsheetRequest:
    """What was asked for on the command line.

    Parameters
    ----------
    runs : tuple of Path
        Folders.
    out : Path
        HTML file to write.
    pdf : Path, optional
        PDF file to write as well.
    png : Path, optional
        Folder for the same pages as pictures.
    quantstats : Path, optional
        Folder for quantstats' own report of each run.
    catalog : Path, optional
        Bars for runs that did not keep what is shown of the market.
    validations : tuple of Path
        validation.json files or their folders, in the order of the runs; where there are fewer,
        those in the runs' folders count.
    title : str, optional
        Of the page.
    overwrite : bool
        Whether what is there already is replaced.
    """

    runs: tuple[Path, ...]
    out: Path
    pdf: Path | None = None
    png: Path | None = None
    quantstats: Path | None = None
    catalog: Path | None = None
    validations: tuple[Path, ...] = ()
    title: str | None = None
    overwrite: bool = False


def make_tearsheet(request: TearsheetRequest) -> dict[str, Any]:
    """Write what was asked for, and return where, for JSON.

    Raises
    ------
    ConfigError
        If there are too many runs or validations, or something is there already.
    DataError, IntegrityError
        If a folder is no run, is not as it was written, or the catalog's prices are others.
    """
    from research.sheet_pages import page_pictures, write_pdf
    from research.sheet_plots import check_count

    check_count(len(request.runs))
    if len(request.validations) > len(request.runs):
        raise ConfigError(
            f"--validation must be given at most once for each run, was "
            f"{len(request.validations)} times for {len(request.runs)} runs"
        )
    _check_free(request)
    given = [*request.validations, *[None] * (len(request.runs) - len(request.validations))]
    names = _names(request.runs)
    data = [
        read_sheet(run, name, catalog=request.catalog, validation=validation)
        for run, name, validation in zip(request.runs, names, given, strict=True)
    ]
    written: dict[str, Any] = {"runs": [str(run) for run in request.runs]}
    with partial_file(request.out) as partial:
        partial.write_text(render_tearsheets(data, title=request.title), encoding="utf-8")
    written["html"] = str(request.out)
    if request.pdf is not None:
        written["pages"] = write_pdf(data, request.pdf, title=request.title)
        written["pdf"] = str(request.pdf)
    if request.png is not None:
        with run_folder(request.png, overwrite=request.overwrite, marker=_FIRST_PAGE) as folder:
            for name, picture in page_pictures(data, title=request.title):
                (folder / name).write_bytes(picture)
        written["png"] = str(request.png)
    if request.quantstats is not None:
        written["quantstats"] = _quantstats(data, request)
    return written


_FIRST_PAGE = "page-01.png"


def _check_free(request: TearsheetRequest) -> None:
    """Refuse what would replace something unasked, before any work."""
    files = {"--out": request.out, "--pdf": request.pdf}
    for option, path in files.items():
        if path is None:
            continue
        if path.is_dir():
            raise ConfigError(f"{option} must be a file, {path} is a folder; name a file in it")
        if path.exists() and not request.overwrite:
            raise ConfigError(f"{option} must be new, {path} exists; add --overwrite")
        _make_folder(option, path.parent)
    if request.png is not None:
        check_free(request.png, overwrite=request.overwrite, marker=_FIRST_PAGE)
    if request.quantstats is not None:
        _make_folder("--quantstats", request.quantstats)


def _make_folder(option: str, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{option} must lie in a folder that can be made, {folder} cannot: {error.strerror}; "
            "choose another"
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{option} must lie in a folder that may be written to, {folder} may not")


def _quantstats(data: Sequence[TearsheetData], request: TearsheetRequest) -> list[str]:
    """Write quantstats' own report of each run and return the files."""
    assert request.quantstats is not None
    paths = []
    for number, one in enumerate(data, 1):
        stem = QUANTSTATS_FILE if len(data) == 1 else f"quantstats-{number}-{one.title}.html"
        path = request.quantstats / stem.replace("/", "-").replace(" ", "-")
        if path.exists() and not request.overwrite:
            raise ConfigError(f"--quantstats must be new, {path} exists; add --overwrite")
        write_quantstats(one, path)
        paths.append(str(path))
    return paths


def _names(runs: Sequence[Path]) -> list[str | None]:
    """Return what each run is called: by its profile alone, several by their folders."""
    if len(runs) == 1:
        return [None]
    resolved = [run.resolve() for run in runs]
    short = [path.name for path in resolved]
    return [
        "/".join(path.parts[-2:]) if short.count(path.name) > 1 else path.name for path in resolved
    ]


def read_sheet(
    run: Path,
    name: str | None = None,
    *,
    catalog: Path | None = None,
    validation: Path | None = None,
) -> TearsheetData:
    """Read all that a tearsheet shows of a run from its folder.

    Parameters
    ----------
    run : Path
        Folder of any version's run.
    name : str, optional
        What it is called; its profile's name if absent.
    catalog : Path, optional
        Bars, where the run did not keep what is shown of the market.
    validation : Path, optional
        validation.json or its folder; the run's own where there is one, if absent.

    Raises
    ------
    DataError, IntegrityError
        As `make_tearsheet`.
    """
    import pandas as pd

    record = read_run(run)
    metrics = json.loads((run / METRICS_FILE).read_text(encoding="utf-8"))
    profile, raw = _profile(run)
    tables = ("fills", "positions", "funding", "equity")
    frames = TradingFrames(**{part: pd.read_parquet(run / f"{part}.parquet") for part in tables})
    predictions = pd.read_parquet(run / PREDICTIONS_FILE)
    span = _span(metrics, frames, profile)
    kept = _Folder(run, profile, metrics, frames, predictions, span)
    view = kept.view(catalog)
    return TearsheetData(
        title=name or profile.name,
        metrics=metrics,
        predictions=predictions,
        reliability=reliability_curve(predictions, config=profile.bootstrap),
        start=span[0],
        end=span[1],
        folds=fold_marks(metrics["folds"]),
        frames=frames,
        starting_balance=profile.execution.starting_balance,
        benchmarks={} if view is None else view.held,
        references={
            one: {key: estimate_of(value) for key, value in found.items()}
            for one, found in metrics["references"].items()
        },
        settings=settings_of(raw),
        view=view,
        validation=_validation(run, validation, record),
        bootstrap=profile.bootstrap,
    )


def fold_marks(folds: Sequence[Mapping[str, Any]]) -> tuple[FoldMark, ...]:
    """Return the tested spans of the folds of metrics.json."""
    return tuple(
        FoldMark(f"fold {fold['index']}", int(fold["test_start"]), int(fold["test_end"]))
        for fold in folds
    )


def settings_of(profile: Mapping[str, Any]) -> dict[str, str]:
    """Return what a replay assumed, in words: the profile's execution and strategy.

    What is off (null, or nothing in it) is left out; parts of a part stand as ``part: name``.
    """
    return dict(_worded({**profile["execution"], **profile["strategy"]}))


def _worded(settings: Mapping[str, Any], part: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        name = f"{part}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            yield from _worded(value, f"{name}: ")
        elif isinstance(value, list | tuple) and value:
            yield name, ", ".join(map(str, value))
        elif isinstance(value, bool):
            yield name, "yes" if value else "no"
        elif value is not None and value != []:
            yield name, str(value)


def _profile(run: Path) -> tuple[KeptProfile, dict[str, Any]]:
    raw = yaml.safe_load((run / PROFILE_FILE).read_text(encoding="utf-8"))
    try:
        return KeptProfile.model_validate(raw), raw
    except ValidationError as error:
        faults = "; ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise DataError(
            f"the profile of run {run} must say what a tearsheet needs, but lacks {faults}"
        ) from None


def _span(
    metrics: Mapping[str, Any], frames: TradingFrames, profile: KeptProfile
) -> tuple[int, int]:
    """Return the replayed span; older runs did not say it, but have equity at each bar close."""
    if "span" in metrics:
        return int(metrics["span"]["start"]), int(metrics["span"]["end"])
    ts = frames.equity["ts_init"]
    return int(ts.iloc[0]) - interval_ns(profile.data.interval), int(ts.iloc[-1])


@dataclass(frozen=True, slots=True)
class _Folder:
    """What was read of a run so far."""

    run: Path
    profile: KeptProfile
    metrics: Mapping[str, Any]
    frames: TradingFrames
    predictions: pd.DataFrame
    span: tuple[int, int]

    def view(self, catalog: Path | None) -> MarketView | None:
        """Return what is shown of the market: as kept, from a catalog, or not at all."""
        import pandas as pd

        path = self.run / MARKET_FILE
        if path.is_file() and "market" in self.metrics:
            return MarketView.read(pd.read_parquet(path), self.metrics["market"])
        return None if catalog is None else self._measured(catalog)

    def _measured(self, catalog: Path) -> MarketView:
        data, (start, end) = self.profile.data, self.span
        funding = self.profile.execution.funding == "recorded"
        panel = load_panel(
            Catalog.open(catalog), data.instruments, data.interval, start, end, funding=funding
        )
        self._check_prices(panel.bars, catalog)
        held = held_against(
            self.profile.execution, panel.bars, dict(panel.funding), start=start, end=end
        )
        balance = self.profile.execution.starting_balance
        viewed = ViewedRun(
            self.predictions,
            self.frames.positions,
            daily_equity(self.frames.equity, start=start, end=end, starting_balance=balance),
            self.profile.label.horizon_bars,
            self.profile.bootstrap,
        )
        return market_view(viewed, panel.bars, held)

    def _check_prices(self, bars: Sequence[BarArrays], catalog: Path) -> None:
        """Refuse a catalog in which the run's fills lie outside of their bars."""
        for one in bars:
            own = self.frames.fills[self.frames.fills["instrument_id"] == one.instrument_id]
            place = np.searchsorted(one.ts_init, own["ts_event"].to_numpy(dtype=np.int64))
            place = np.minimum(place, len(one) - 1)
            price = own["reference_price"].to_numpy(dtype=np.float64)
            wrong = (price < one.low[place] * (1.0 - _PRICE_SLACK)) | (
                price > one.high[place] * (1.0 + _PRICE_SLACK)
            )
            if wrong.any():
                raise DataError(
                    f"--catalog must hold the prices of run {self.run}, but in {catalog} "
                    f"{int(wrong.sum())} of {len(own)} fills of {one.instrument_id} lie outside of "
                    "their bars; name the catalog that the run was made from"
                )


def _validation(run: Path, given: Path | None, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what validation found: the file given, or that in the run's folder.

    Raises
    ------
    DataError
        If the file given is not there, or is none.
    IntegrityError
        If it is about another run.
    """
    beside = (run / VALIDATION_FILE, run / "validation" / VALIDATION_FILE)
    if given is None:
        path = next((one for one in beside if one.is_file()), None)
        if path is None:
            return None
    else:
        path = given / VALIDATION_FILE if given.is_dir() else given
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it holds no object")
    except (OSError, ValueError) as error:
        raise DataError(f"--validation must be a {VALIDATION_FILE}, {path} is none: {error}") from (
            None
        )
    if found.get("predictions") != record["files"][PREDICTIONS_FILE]:
        raise IntegrityError(
            f"{path} must be about run {run}, but is about other predictions; validate this run"
        )
    return dict(found)


def view_of_run(run: RunResult, held: Mapping[str, pd.DataFrame]) -> MarketView:
    """Return what is kept of the market with a run that is about to be written."""
    daily = daily_equity(
        run.outcome.equity,
        start=run.start,
        end=run.end,
        starting_balance=run.profile.execution.starting_balance,
    )
    viewed = ViewedRun(
        run.predictions.frame,
        run.outcome.positions,
        daily,
        run.profile.label.horizon_bars,
        run.profile.bootstrap,
    )
    return market_view(viewed, run.bars, held)


def sheet_of_run(run: RunResult, metrics: Mapping[str, Any], view: MarketView) -> TearsheetData:
    """Return what the tearsheet of a run that is about to be written shows."""
    return TearsheetData(
        title=run.profile.name,
        metrics=metrics,
        predictions=run.predictions.frame,
        reliability=run.predictions.reliability,
        start=run.start,
        end=run.end,
        folds=fold_marks(metrics["folds"]),
        frames=run.outcome,
        starting_balance=run.profile.execution.starting_balance,
        benchmarks=view.held,
        references=run.predictions.references,
        settings=settings_of(run.profile.model_dump(mode="json")),
        view=view,
        bootstrap=run.profile.bootstrap,
    )
