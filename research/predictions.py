"""Predictions kept in a frame or a file, and served from one.

Predictions in a file are only worth something together with the exact question that they answer.
The file therefore carries the specification (features, label, model, data) that made it, and a
reader who asks another question is refused, part by part, rather than served an old answer.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array, Ohlcv
from catalog.errors import DataError, IntegrityError
from research.prediction_types import ExpertShare, InputAge, Prediction, Predictor, PredictorSpec

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "EXPERT_PREFIX",
    "PREDICTION_COLUMNS",
    "SPEC_KEY",
    "WEIGHT_PREFIX",
    "ExpertShare",
    "InputAge",
    "PrecomputedPredictions",
    "Prediction",
    "Predictor",
    "PredictorSpec",
    "check_stamp",
    "hash_parts",
    "read_predictions",
    "stamp_predictions",
    "undefined_reason",
    "write_predictions",
]

SPEC_KEY = "levibot.predictions"
"""Where a frame's `attrs` and a Parquet file's metadata keep the specification."""
PREDICTION_COLUMNS = (
    "ts_init",
    "instrument_id",
    "fold",
    "raw_prob",
    "prob_up",
    "label",
    "forward_return",
)
"""The columns that every frame of predictions has (it may have more)."""
EXPERT_PREFIX = "expert_"
"""In front of an expert's name: the column of its calibrated probabilities; NaN for no answer."""
WEIGHT_PREFIX = "weight_"
"""In front of an expert's name: the column of its weight in the fusion."""


def hash_parts(parts: Mapping[str, str]) -> str:
    """Return the SHA-256 of named hashes, whatever their order, as 64 hex digits."""
    text = json.dumps(dict(sorted(parts.items())), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def undefined_reason(row: Float64Array, names: Sequence[str]) -> str:
    """Return why a prediction from this feature row is degraded; empty if it is not.

    Parameters
    ----------
    row : (n_features,) float64
        NaN where a feature is not defined, for instance because another instrument's bar is late.
    names : sequence of str
        Feature names.
    """
    undefined = [name for name, value in zip(names, row.tolist(), strict=True) if value != value]
    return f"undefined features: {', '.join(undefined)}" if undefined else ""


def stamp_predictions(frame: pd.DataFrame, spec: PredictorSpec, data_hash: str) -> pd.DataFrame:
    """Return the frame with the specification and the data that made it in its `attrs`."""
    stamped = frame.copy(deep=False)
    stamped.attrs = {SPEC_KEY: _stamp(spec, data_hash)}
    return stamped


def check_stamp(stamp: object, spec: PredictorSpec, data_hash: str | None, where: str) -> None:
    """Refuse predictions that answer another question than `spec` asks.

    Parameters
    ----------
    stamp : object
        What the frame or file carries.
    spec : PredictorSpec
        What is asked now.
    data_hash : str, optional
        Hash of the data in use now; None where it does not matter.
    where : str
        Name of the frame or file for the message.

    Raises
    ------
    IntegrityError
        If there is no stamp, or naming every part that differs.
    """
    if not isinstance(stamp, dict):
        raise IntegrityError(
            f"{where} must say which specification made it, but carries none; "
            "compute the predictions again"
        )
    wanted = _stamp(spec, data_hash or "")
    faults = [
        f"{name} was {stamp.get(name)!r}, now {wanted[name]!r}"
        for name in ("instruments", "interval_ns", "horizon_bars")
        if stamp.get(name) != wanted[name]
    ]
    faults += _different_parts(stamp.get("parts"), dict(spec.parts))
    if not faults and stamp.get("spec_hash") != spec.spec_hash:
        faults.append(f"spec_hash was {stamp.get('spec_hash')!r}, now {spec.spec_hash!r}")
    if data_hash is not None and stamp.get("data_hash") != data_hash:
        faults.append(f"data was {_short(stamp.get('data_hash'))}, now {_short(data_hash)}")
    if faults:
        raise IntegrityError(
            f"{where} was made for another question and must not be used: "
            f"{'; '.join(faults)}. Compute the predictions again"
        )


def write_predictions(path: Path, frame: pd.DataFrame) -> None:
    """Write a stamped frame of predictions as Parquet, atomically, its stamp in the metadata.

    Parameters
    ----------
    path : Path
        File to write; an older one is replaced only by a complete new one.
    frame : DataFrame
        From `walk_forward` or `stamp_predictions`.

    Raises
    ------
    DataError
        If the frame carries no stamp or the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    stamp = frame.attrs.get(SPEC_KEY)
    if not isinstance(stamp, dict):
        raise DataError(
            "predictions must be stamped with their specification before they are written; "
            "use stamp_predictions"
        )
    plain = frame.copy(deep=False)
    plain.attrs = {}
    table = pa.Table.from_pandas(plain, preserve_index=False)
    text = json.dumps(stamp, sort_keys=True)
    table = table.replace_schema_metadata({**(table.schema.metadata or {}), SPEC_KEY: text})
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            pq.write_table(table, file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise DataError(
            f"predictions could not be written to {path}: {error}; nothing was changed"
        ) from error


def read_predictions(path: Path, spec: PredictorSpec, data_hash: str | None) -> pd.DataFrame:
    """Read predictions, if they answer the question that is asked now.

    Parameters
    ----------
    path : Path
        File that `write_predictions` wrote.
    spec : PredictorSpec
        The question now asked: features, label and horizon, model, calibration, folds.
    data_hash : str or None
        Hash of the data in use now; None to accept predictions from other data.

    Returns
    -------
    DataFrame
        Stamped as it was written.

    Raises
    ------
    DataError
        If there is no such file or it is no Parquet file.
    IntegrityError
        If it was made for another question or data (says which part differs).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"predictions must be a file, {path} is none")
    try:
        # Read this one file: a path is taken for a data set, whose folder names become columns.
        with path.open("rb") as file:
            table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"predictions must be a complete Parquet file, {path} is not: {error}"
        ) from error
    text = (table.schema.metadata or {}).get(SPEC_KEY.encode())
    stamp = None if text is None else json.loads(text)
    check_stamp(stamp, spec, data_hash, str(path))
    frame: pd.DataFrame = table.to_pandas()
    frame.attrs = {SPEC_KEY: stamp}
    return frame


def _stamp(spec: PredictorSpec, data_hash: str) -> dict[str, object]:
    return {
        "spec_hash": spec.spec_hash,
        "horizon_bars": spec.horizon_bars,
        "interval_ns": spec.interval_ns,
        "instruments": list(spec.instruments),
        "model_version": spec.model_version,
        "parts": dict(spec.parts),
        "data_hash": data_hash,
    }


def _different_parts(stored: object, wanted: dict[str, str]) -> list[str]:
    known = stored if isinstance(stored, dict) else {}
    return [
        f"{name} was {_short(known.get(name))}, now {_short(wanted.get(name))}"
        for name in sorted(set(known) | set(wanted))
        if known.get(name) != wanted.get(name)
    ]


def _short(digest: object) -> str:
    return f"{str(digest)[:12]}" if digest else "absent"


class PrecomputedPredictions:
    """Serves predictions that were computed in one batch, by time: for fast replay.

    Only bars decide what is served: a time whose bar does not arrive yields no prediction. Its
    specification therefore asks for no slow inputs, whatever the question's own asks for.
    """

    def __init__(self, spec: PredictorSpec, by_time: Mapping[int, tuple[Prediction, ...]]) -> None:
        self._spec = replace(spec, series=(), uses_flow=False, uses_minutes=False)
        self._by_time = by_time

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, spec: PredictorSpec) -> Self:
        """Take predictions from a frame that `walk_forward` or `read_predictions` returned.

        Parameters
        ----------
        frame : DataFrame
            Columns at least ts_init (int64 UTC ns), instrument_id, prob_up. Served as well where
            there: degraded_reason, mu, sigma, epistemic, volatility, prob_low, prob_high,
            entry_threshold, side, regime, and for each expert
            ``expert_<name>`` and ``weight_<name>``.
        spec : PredictorSpec
            The question now asked; must be the one that the frame answers.

        Raises
        ------
        IntegrityError
            If the frame was made for another specification (says which part differs).
        DataError
            If a column is missing, a probability is not inside (0, 1), an instrument is not in
            the specification, or a time and instrument occur twice.
        """
        check_stamp(frame.attrs.get(SPEC_KEY), spec, None, "the frame of predictions")
        missing = [name for name in ("ts_init", "instrument_id", "prob_up") if name not in frame]
        if missing:
            raise DataError(f"predictions must have the columns {missing}, had {list(frame)}")
        rank = {name: position for position, name in enumerate(spec.instruments)}
        position = np.asarray(frame["instrument_id"].map(rank), dtype=np.float64)
        ts_init = frame["ts_init"].to_numpy(dtype=np.int64)
        probability = frame["prob_up"].to_numpy(dtype=np.float64)
        _check_rows(frame, position, ts_init, probability)
        order = np.lexsort((position, ts_init))
        codes = position[order].astype(np.int64)
        return cls(spec, _ByTime(spec, ts_init[order], codes, _Columns(frame, order)))

    @property
    def spec(self) -> PredictorSpec:
        """What these predictions predict."""
        return self._spec

    def update_funding(self, instrument_id: str, rate: float, ts_init: int) -> None:
        """Do nothing: the predictions are made already."""

    def update_series(self, name: str, value: float, ts_init: int, extra: float = math.nan) -> None:
        """Do nothing: the predictions are made already."""

    def update_flow(self, instrument_id: str, values: tuple[float, ...], ts_init: int) -> None:
        """Do nothing: the predictions are made already."""

    def update_minute(self, instrument_id: str, ts_init: int, bar: Ohlcv) -> None:
        """Do nothing: the predictions are made already."""

    def update(self, ts_init: int, bars: Mapping[str, Ohlcv]) -> list[Prediction]:
        """Return the stored predictions of `ts_init` for the instruments that have a bar."""
        found = self._by_time.get(ts_init, ())
        return [prediction for prediction in found if prediction.instrument_id in bars]


_NUMBERS = ("mu", "sigma", "epistemic", "volatility", "prob_low", "prob_high", "entry_threshold")
"""Numbers beside the probability, in the order of `Prediction`'s fields."""
_STANCES = ("side", "regime")


class _Columns:
    """A frame's rows as numbers, in the order in which they are served.

    Parameters
    ----------
    frame : DataFrame
        As `PrecomputedPredictions.from_frame` takes it.
    order : (n_rows,) int64
        Rows of the frame sorted by time, then by instrument code.

    Attributes
    ----------
    numbers : (n_rows, 1) or (n_rows, 8 + 2 n_experts) float64
        Probability alone where the frame knows nothing else; else probability, `_NUMBERS`, then
        probability and weight of each of `experts`.
    side : (n_rows,) int64, optional
        None where the frame has none.
    regimes, regime : tuple of str, (n_rows,) int64
        The regimes that occur, and the number of each row's.
    reasons : (n_rows,) object
        Why each is degraded; empty if it is not.
    """

    def __init__(self, frame: pd.DataFrame, order: Int64Array) -> None:
        self.experts = _experts(frame)
        names = ["prob_up"]
        self.more = bool(self.experts) or any(name in frame for name in (*_NUMBERS, *_STANCES))
        if self.more:
            names += _NUMBERS
            for name in self.experts:
                names += [EXPERT_PREFIX + name, WEIGHT_PREFIX + name]
        self.numbers = np.full((len(order), len(names)), np.nan)
        for column, name in enumerate(names):
            if name in frame:
                self.numbers[:, column] = frame[name].to_numpy(dtype=np.float64)[order]
        self.side = frame["side"].to_numpy(dtype=np.int64)[order] if "side" in frame else None
        # A number for each regime: a text for each row would take as much memory as all the rest.
        texts = frame["regime"].to_numpy(dtype=object)[order] if "regime" in frame else None
        held = {
            text: code for code, text in enumerate(sorted(set([""] if texts is None else texts)))
        }
        self.regimes = tuple(held)
        self.regime = np.zeros(len(order), dtype=np.int64)
        if texts is not None:
            self.regime[:] = [held[text] for text in texts]
        self.reasons = _reasons(frame)[order]


def _experts(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the names of a frame's experts, in the order of their columns."""
    found = [
        name.removeprefix(EXPERT_PREFIX)
        for name in frame
        if isinstance(name, str) and name.startswith(EXPERT_PREFIX)
    ]
    lacking = [name for name in found if WEIGHT_PREFIX + name not in frame]
    if lacking:
        raise DataError(
            f"predictions must have a weight beside each expert, had none of {lacking}: the "
            f"columns are {EXPERT_PREFIX}<name> and {WEIGHT_PREFIX}<name>"
        )
    return tuple(found)


class _ByTime(Mapping[int, tuple[Prediction, ...]]):
    """Predictions by time, made when asked for: all at once would take much of a run's memory.

    Parameters
    ----------
    spec : PredictorSpec
        Instruments by code, horizon and version.
    ts_init, codes : (n_rows,) int64
        Time and instrument code, sorted by time, then by code.
    columns : _Columns
        The rest, in the same order.
    """

    def __init__(
        self, spec: PredictorSpec, ts_init: Int64Array, codes: Int64Array, columns: _Columns
    ) -> None:
        self._spec = spec
        self._codes = codes
        self._columns = columns
        times, starts = np.unique(ts_init, return_index=True)
        self._places = {ts: place for place, ts in enumerate(times.tolist())}
        self._edges = [*starts.tolist(), len(ts_init)]

    def __getitem__(self, ts_init: int) -> tuple[Prediction, ...]:
        place = self._places[ts_init]
        rows = slice(*self._edges[place : place + 2])
        spec, columns = self._spec, self._columns
        # A time's rows at once: numpy takes as long for one number as for a dozen.
        codes, values = self._codes[rows].tolist(), columns.numbers[rows].tolist()
        reasons = columns.reasons[rows].tolist()
        fixed = (spec.horizon_bars, spec.model_version)
        names = spec.instruments
        if not columns.more:
            return tuple(
                Prediction(names[code], ts_init, numbers[0], *fixed, reason != "", reason)
                for code, numbers, reason in zip(codes, values, reasons, strict=True)
            )
        first = 1 + len(_NUMBERS)
        sides = [None] * len(codes) if columns.side is None else columns.side[rows].tolist()
        regimes = [columns.regimes[code] for code in columns.regime[rows].tolist()]
        found = []
        for code, numbers, reason, side, regime in zip(
            codes, values, reasons, sides, regimes, strict=True
        ):
            known = (names[code], ts_init, numbers[0], *fixed, reason != "", reason)
            shares = zip(columns.experts, numbers[first::2], numbers[first + 1 :: 2], strict=True)
            found.append(
                Prediction._make((*known, *numbers[1:first], side, regime, tuple(shares), ()))
            )
        return tuple(found)

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _reasons(frame: pd.DataFrame) -> NDArray[np.object_]:
    if "degraded_reason" not in frame:
        return np.full(len(frame), "", dtype=object)
    return frame["degraded_reason"].to_numpy(dtype=object)


def _check_rows(
    frame: pd.DataFrame,
    position: Float64Array,
    ts_init: Int64Array,
    probability: Float64Array,
) -> None:
    unknown = np.isnan(position)
    if unknown.any():
        names = sorted(set(frame["instrument_id"][unknown]))
        raise DataError(f"predictions name instruments that the specification does not: {names}")
    outside = ~((probability > 0.0) & (probability < 1.0))
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise DataError(f"prob_up must be inside (0, 1), was {probability[row]} in row {row}")
    twice = frame.duplicated(["ts_init", "instrument_id"]).to_numpy()
    if twice.any():
        row = int(np.flatnonzero(twice)[0])
        raise DataError(
            f"a time and instrument must have one prediction; ts_init={ts_init[row]} "
            f"instrument_id={frame['instrument_id'].iloc[row]} has several"
        )
