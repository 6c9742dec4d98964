"""What the signal of a run is worth before anything trades: measure, write, say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from catalog.errors import ConfigError
from catalog.progress import Progress, no_progress
from catalog.timestamps import format_time
from live.critique import round_trip_bps
from live.pipeline import load_market, read_run_predictions
from live.profile import Profile, dump_profile
from live.runs import (
    PROFILE_FILE,
    check_free,
    code_version,
    finite,
    read_run,
    run_folder,
    write_json,
)
from research.signal_plots import signal_pictures
from research.signal_quality import signal_quality
from research.signal_report import picture_name, signal_markdown, summary_lines
from research.signal_results import SignalConfig, SignalQuality

RECORD_FILE, PAGE_FILE = "signal.json", "signal.md"


OUTCOMES = ("label", "forward_return")
"""Columns of a run's predictions that no signal can be: they stand beside it to measure it."""


@dataclass(frozen=True, slots=True)
class SignalOptions:
    """What was asked for on the command line.

    Parameters
    ----------
    column : str
        Column of the run's predictions that is the signal.
    horizons, delays : str, optional
        Bars, such as ``1,4,16``; the usual ones if absent.
    quantiles : int
        Into how many parts the signal is divided.
    """

    column: str = "prob_up"
    horizons: str | None = None
    delays: str | None = None
    quantiles: int = 5

    def config(self, profile: Profile) -> SignalConfig:
        """Return what is measured.

        Raises
        ------
        ConfigError
            If a number is none, or out of range, or the column is an outcome.
        """
        if self.column in OUTCOMES:
            raise ConfigError(
                f"--column must be something that was known when it was written, {self.column} is "
                "what happened afterwards; name a prediction, such as prob_up or expert_lightgbm"
            )
        given = {"horizons_bars": self.horizons, "delays_bars": self.delays}
        chosen = {name: _bars(name, text) for name, text in given.items() if text is not None}
        try:
            return SignalConfig(
                horizon_bars=profile.label.horizon_bars,
                quantiles=self.quantiles,
                bootstrap=profile.bootstrap,
                **chosen,
            )
        except ValidationError as error:
            faults = "; ".join(str(one["msg"]) for one in error.errors())
            raise ConfigError(f"what is measured of a signal is out of range: {faults}") from None


def _bars(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        option = f"--{name.removesuffix('_bars')}"
        raise ConfigError(
            f"{option} must be whole numbers with commas between, was {text!r}; give such as 1,4,16"
        ) from None


@dataclass(frozen=True, slots=True)
class SignalSummary:
    """Where the tables lie, and what they say in short."""

    folder: Path
    quality: SignalQuality
    about: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return everything for programs."""
        found: dict[str, Any] = finite(
            {"folder": str(self.folder), **self.about, **self.quality.to_json()}
        )
        return found

    def __str__(self) -> str:
        head = ["SYNTHETIC DATA: these results say nothing about any market", ""]
        return "\n".join(
            [
                *(head if self.about["synthetic"] else []),
                *summary_lines(self.quality, self.about["cost_bps"]),
                f"tables and pictures: {self.folder / PAGE_FILE}",
            ]
        )


def measure_signal(
    profile: Profile,
    catalog: Path,
    predictions: Path,
    out: Path,
    options: SignalOptions,
    *,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> SignalSummary:
    """Measure a run's predictions as a signal, and write tables and pictures.

    Parameters
    ----------
    profile : Profile
        Its question must be the one that the predictions answer.
    catalog : Path
        Data.
    predictions : Path
        Run whose out-of-sample predictions are the signal.
    out : Path
        Folder to write: ``signal.json``, ``signal.md``, its pictures, ``profile.yaml``.
    options : SignalOptions
        What is measured.
    overwrite : bool
        Whether `out` may be there already, with such a record.
    progress : Progress
        Told of the stage ``signal``.

    Raises
    ------
    ConfigError, DataError, IntegrityError
        As `live.pipeline.run_backtest_command`; also if there is no such column.
    """
    config = options.config(profile)
    check_free(out, overwrite=overwrite, marker=RECORD_FILE)
    record = read_run(predictions)
    market = load_market(profile, catalog)
    frame, _ = read_run_predictions(profile, market, predictions)
    progress("signal", 0, 2)
    quality = signal_quality(frame, market.panel.bars, config, options.column)
    progress("signal", 1, 2)
    interval = market.panel.interval_ns
    about = {
        "profile": profile.name,
        "instruments": list(market.panel.instruments()),
        "interval": profile.data.interval,
        "from": format_time(int(frame["ts_init"].min()) - interval),
        "to": format_time(int(frame["ts_init"].max())),
        "synthetic": market.panel.synthetic or bool(record["provenance"]["synthetic"]),
        "version": code_version(),
        "data_hash": market.panel.data_hash,
        "cost_bps": round_trip_bps(profile.execution),
    }
    summary = SignalSummary(out, quality, about)
    with run_folder(out, overwrite=overwrite, marker=RECORD_FILE) as folder:
        (folder / PROFILE_FILE).write_text(dump_profile(profile), encoding="utf-8")
        (folder / PAGE_FILE).write_text(signal_markdown(quality, about), encoding="utf-8")
        for kind, picture in signal_pictures(quality).items():
            (folder / picture_name(kind)).write_bytes(picture)
        write_json(folder / RECORD_FILE, summary.to_json())
    progress("signal", 2, 2)
    return summary
