"""What the actor published, as columns: cheap to note during a run, a frame after it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from catalog.arrays import Float64Array
from research.predictor import Prediction

if TYPE_CHECKING:
    import pandas as pd

PREDICTION_COLUMNS = (
    "ts_init",
    "instrument_id",
    "prob_up",
    "mu",
    "sigma",
    "epistemic",
    "volatility",
    "prob_low",
    "prob_high",
    "entry_threshold",
    "side",
    "regime",
    "degraded",
    "degraded_reason",
)
"""The columns that every run has; `expert_<name>`, `weight_<name>` and `age_<name>` may follow."""
_TEXTS = ("regime", "degraded_reason")
_KINDS: dict[str, type] = {"ts_init": np.int64, "side": np.int64, "degraded": bool}
"""Types of columns by name; all others are float64, or texts."""
_NUMBERS = (
    *("prob_up", "mu", "sigma", "epistemic"),
    *("volatility", "prob_low", "prob_high", "entry_threshold"),
)
_CHUNK = 4_096
_WIDTH = len(Prediction._fields)
type _Column = np.ndarray[Any, Any]


class PredictionLog:
    """Collect published predictions.

    Parameters
    ----------
    instruments : tuple of str
        The instruments, in the profile's order.
    """

    def __init__(self, instruments: tuple[str, ...]) -> None:
        self._codes = {name: code for code, name in enumerate(instruments)}
        self._texts: dict[str, int] = {}
        # The fields of the latest predictions one behind the other, and the bars missing at their
        # time where there were; earlier ones as columns of numbers, in a tenth of the memory. To
        # keep the predictions themselves would make Python look for garbage again and again.
        self._recent: list[Any] = []
        self._missing: dict[int, str] = {}
        self._chunks: list[dict[str, _Column]] = []
        self._packed = 0

    def __len__(self) -> int:
        return self._packed + len(self._recent) // _WIDTH

    def add(self, prediction: Prediction, missing: str) -> None:
        """Note a prediction, and in words which bars were missing at its time (empty: none)."""
        recent = self._recent
        if missing:
            self._missing[len(recent) // _WIDTH] = missing
        recent.extend(prediction)
        if len(recent) >= _CHUNK * _WIDTH:
            self._pack()

    def frame(self) -> pd.DataFrame:
        """Return the predictions in the order in which they were published.

        Columns `PREDICTION_COLUMNS`, then for each expert ``expert_<name>`` (its probability) and
        ``weight_<name>``, then for each slow input ``age_<name>`` (bars); NaN where a prediction
        had none.
        """
        import pandas as pd

        self._pack()
        found = dict.fromkeys(name for chunk in self._chunks for name in chunk)
        names = list(dict.fromkeys([*PREDICTION_COLUMNS, *found]))
        frame = pd.DataFrame({name: self._column(name) for name in names}, columns=names)
        # Without this the type of a text column would depend on whether there are rows.
        return frame.astype(dict.fromkeys(("instrument_id", *_TEXTS), object))

    def _column(self, name: str) -> _Column:
        coded = name in ("instrument_id", *_TEXTS)
        kind = np.int64 if coded else _KINDS.get(name, np.float64)
        parts = [
            chunk[name] if name in chunk else np.full(len(chunk["ts_init"]), np.nan)
            for chunk in self._chunks
        ]
        column: _Column = np.concatenate([np.zeros(0, kind), *parts]).astype(kind, copy=False)
        if not coded:
            return column
        words = self._codes if name == "instrument_id" else self._texts
        named: _Column = np.array([*words, ""], dtype=object)[column]
        return named

    def _pack(self) -> None:
        recent = self._recent
        if not recent:
            return
        fields = {name: recent[place::_WIDTH] for place, name in enumerate(Prediction._fields)}
        reasons, degraded, sides = (fields[n] for n in ("degraded_reason", "degraded", "side"))
        for row, text in self._missing.items():
            reasons[row], degraded[row] = reasons[row] or text, True
        if None in sides:
            rows = range(0, len(recent), _WIDTH)
            sides = [Prediction(*recent[row : row + _WIDTH]).direction for row in rows]
        codes = self._codes
        chunk: dict[str, _Column] = {
            "ts_init": np.array(fields["ts_init"], dtype=np.int64),
            "instrument_id": np.array([*map(codes.__getitem__, fields["instrument_id"])], np.int16),
            "side": np.array(sides, dtype=np.int8),
            "regime": self._coded(fields["regime"]),
            "degraded": np.array(degraded, dtype=bool),
            "degraded_reason": self._coded(reasons),
        }
        for name in _NUMBERS:
            numbers = np.array(fields[name], dtype=np.float64)
            if not np.isnan(numbers).all():
                chunk[name] = numbers
        chunk |= _spread(fields["experts"], ("expert_", "weight_"))
        chunk |= _spread(fields["input_ages"], ("age_",))
        self._chunks.append(chunk)
        self._packed += len(sides)
        self._recent, self._missing = [], {}

    def _coded(self, texts: Sequence[str]) -> _Column:
        held = self._texts
        for text in dict.fromkeys(texts):
            held.setdefault(text, len(held))
        return np.fromiter(map(held.__getitem__, texts), dtype=np.int32, count=len(texts))


def _spread(
    rows: Sequence[Sequence[tuple[Any, ...]]], prefixes: tuple[str, ...]
) -> dict[str, Float64Array]:
    """Return named numbers of each row as columns, NaN where a row has none.

    Parameters
    ----------
    rows : sequence of sequence of (name, number, ...)
        Each row's parts.
    prefixes : tuple of str
        In front of the name, for each of the numbers.
    """
    widths = set(map(len, rows))
    parts = list(chain.from_iterable(rows))
    found: dict[str, Float64Array] = {}
    if len(widths) > 1:
        return _spread_any(rows, prefixes)
    width = widths.pop()
    # As a rule every row has the same parts: then they are columns already.
    for place in range(width):
        names, *numbers = zip(*parts[place::width], strict=True)
        if len(set(names)) > 1:
            return _spread_any(rows, prefixes)
        for prefix, column in zip(prefixes, numbers, strict=True):
            found[prefix + names[0]] = np.array(column, dtype=np.float64)
    return found


def _spread_any(
    rows: Sequence[Sequence[tuple[Any, ...]]], prefixes: tuple[str, ...]
) -> dict[str, Float64Array]:
    found: dict[str, Float64Array] = {}
    for row, parts in enumerate(rows):
        for name, *numbers in parts:
            for prefix, number in zip(prefixes, numbers, strict=True):
                column = found.setdefault(prefix + name, np.full(len(rows), np.nan))
                column[row] = number
    return found
