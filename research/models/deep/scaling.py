"""From rows of features to the numbers that a sequence model takes in; no torch here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError
from research.feature_table import CODE_FEATURE
from research.mirror import Mirror

type Float32Array = NDArray[np.float32]

MISSING_PREFIX = "missing_"
_ROWS_AT_ONCE = 16_384  # rows scaled at a time: a few MB of float64 beside the result
_TAIL = 0.01  # of each side, cut off before mean and standard deviation are taken


@dataclass(frozen=True, slots=True, eq=False)
class FeatureScaler:
    """Mean and scale of every feature over the training rows, and which of them can be missing.

    The instrument's code is no input: the models embed it.

    Parameters
    ----------
    names : tuple of str
        All features of a row, in order, (n_features,).
    columns : (n_scaled,) int64
        Places of the features that are scaled: all but the code.
    center, scale : (n_scaled,) float64
        Subtracted, then divided by; scale is above 0.
    missing : (n_missing,) int64
        Places within `columns` of features that are NaN in some training row: each gives one more
        input that is 1 where the feature is NaN and else 0.
    clip : float
        Where scaled values are cut off.
    partner, sign : (n_inputs,) int64, (n_inputs,) float32
        How inputs look in the mirror: ``sign * inputs[partner]``; empty where that is not known.
    """

    names: tuple[str, ...]
    columns: Int64Array
    center: Float64Array
    scale: Float64Array
    missing: Int64Array
    clip: float
    partner: Int64Array = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    sign: Float32Array = field(default_factory=lambda: np.empty(0, dtype=np.float32))

    @classmethod
    def fit(
        cls,
        names: Sequence[str],
        values: Float64Array,
        rows: Int64Array,
        clip: float,
        mirror: Mirror | None = None,
    ) -> Self:
        """Look at some rows of a table.

        Parameters
        ----------
        names : sequence of str
            Feature names.
        values : (n_table, n_features) float64
            All rows; NaN where undefined.
        rows : (n_rows,) int64
            Those to look at; read column by column, because a copy of all would be large.
        clip : float
            Where scaled values are cut off.
        mirror : Mirror, optional
            How the features look in the mirror. Centers and scales are then those of the market
            and its mirror image together, so that inputs have a mirror image as well.

        Raises
        ------
        DataError
            If there is no row, or a value is infinite.
        """
        if not len(rows):
            raise DataError("a scaler must be fitted on at least one row, had none")
        columns = np.array(
            [place for place, name in enumerate(names) if name != CODE_FEATURE.name],
            dtype=np.int64,
        )
        center, scale = np.zeros(len(columns)), np.ones(len(columns))
        missing = []
        for place, column in enumerate(columns):
            found = values[rows, column]
            if np.isinf(found).any():
                raise DataError(
                    f"feature {names[column]} of training rows must be finite or NaN, some were not"
                )
            known = found[~np.isnan(found)]
            if len(known) < len(found):
                missing.append(place)
            if len(known):
                center[place], scale[place] = _robust_moments(known)
        found = cls(tuple(names), columns, center, scale, np.array(missing, dtype=np.int64), clip)
        return found if mirror is None else found._mirrored(mirror)

    def _mirrored(self, mirror: Mirror) -> Self:
        """Return the scaler of this market and its mirror image together."""
        place = {int(column): at for at, column in enumerate(self.columns)}
        partner = np.array([place[int(mirror.partner[column])] for column in self.columns])
        sign, offset = mirror.sign[self.columns], mirror.offset[self.columns]
        # The mean of both, and a scale that two who change places share.
        center = (self.center + sign * self.center[partner] + offset) / 2.0
        scale = (self.scale + self.scale[partner]) / 2.0
        missing = np.union1d(self.missing, partner[self.missing]).astype(np.int64)
        flags = np.searchsorted(missing, partner[missing]) + len(partner)
        return replace(
            self,
            center=center,
            scale=scale,
            missing=missing,
            partner=np.concatenate([partner, flags]).astype(np.int64),
            sign=np.concatenate([sign, np.ones(len(flags))]).astype(np.float32),
        )

    def mirrored(self, inputs: Float32Array) -> Float32Array:
        """Return inputs, (..., n_inputs), as they look in the mirror."""
        found: Float32Array = inputs[..., self.partner] * self.sign
        return found

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order, (n_inputs,)."""
        scaled = [self.names[column] for column in self.columns]
        return (*scaled, *(MISSING_PREFIX + scaled[place] for place in self.missing))

    @property
    def n_inputs(self) -> int:
        """Number of inputs."""
        return len(self.columns) + len(self.missing)

    def __call__(self, values: Float64Array) -> Float32Array:
        """Return the inputs of some rows; each row's depend on nothing but itself.

        Parameters
        ----------
        values : (n_rows, n_features) float64
            Rows; NaN becomes 0, the mean.

        Returns
        -------
        (n_rows, n_inputs) float32

        Raises
        ------
        DataError
            If the rows have another number of features than those fitted on.
        """
        result = np.empty((len(values), self.n_inputs), dtype=np.float32)
        self._check(values)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            self._write(values[block], result[block])
        return result

    def of_rows(self, values: Float64Array, rows: Int64Array) -> Float32Array:
        """Return the inputs of some rows of a table, (n_rows, n_inputs) float32."""
        self._check(values)
        result = np.empty((len(rows), self.n_inputs), dtype=np.float32)
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            block = slice(start, start + _ROWS_AT_ONCE)
            self._write(values[rows[block]], result[block])
        return result

    def _write(self, values: Float64Array, result: Float32Array) -> None:
        scaled = (values[:, self.columns] - self.center) / self.scale
        unknown = np.isnan(scaled)
        np.clip(scaled, -self.clip, self.clip, out=scaled)
        scaled[unknown] = 0.0
        result[:, : len(self.columns)] = scaled
        result[:, len(self.columns) :] = unknown[:, self.missing]

    def _check(self, values: Float64Array) -> None:
        if values.ndim != 2 or values.shape[1] != len(self.names):
            raise DataError(
                f"rows must have shape (n_rows, {len(self.names)}), was {values.shape}; "
                "use the feature table that the model was fitted with"
            )


def _robust_moments(known: Float64Array) -> tuple[float, float]:
    """Return mean and standard deviation without the tails; 1 for what does not vary.

    The tails are pulled in, not dropped, so that a flag that is seldom set keeps its scale.
    """
    low, high = np.quantile(known, (_TAIL, 1.0 - _TAIL))
    for candidate in (np.clip(known, low, high), known):
        spread = float(candidate.std())
        if spread > 0.0:
            return float(candidate.mean()), spread
    return float(known[0]), 1.0


def input_columns(names: Sequence[str]) -> Iterator[tuple[int, str, bool]]:
    """Yield place, feature and whether it is the feature's missing flag, for names of inputs."""
    for place, name in enumerate(names):
        is_flag = name.startswith(MISSING_PREFIX)
        yield place, name.removeprefix(MISSING_PREFIX), is_flag
