"""How a fit hands rows to LightGBM: some of a table, batch by batch, without a copy of them all."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import DataError
from research.mirror import Mirror


def quieten() -> None:
    """Make LightGBM heed `verbosity` in this thread from its next call on.

    It keeps the level by thread and, when it reads batches, sets it only after its first warning.
    """
    import lightgbm

    lightgbm.Dataset(np.zeros((2, 1)), params={"verbosity": -1}).construct()


@cache
def sequence_class() -> Any:
    """Return the class by which LightGBM reads some rows of a table batch by batch.

    Made once: a class made at every fit would hold its table until the next garbage collection.
    """
    import lightgbm

    class Rows(lightgbm.Sequence):
        batch_size = 2048

        def __init__(
            self, table: Float64Array, rows: Int64Array, mirror: Mirror | None = None
        ) -> None:
            self.table, self.rows, self.mirror = table, rows, mirror

        def __len__(self) -> int:
            return len(self.rows) * (1 if self.mirror is None else 2)

        def __getitem__(self, place: Any) -> Float64Array:
            # Asked for single rows to find the borders of the bins, for slices to fill them.
            if isinstance(place, slice):
                return self._read(np.arange(*place.indices(len(self))))
            return self._read(np.atleast_1d(place)).reshape(*np.shape(place), -1)

        def _read(self, wanted: Int64Array) -> Float64Array:
            count = len(self.rows)
            found: Float64Array = self.table[self.rows[wanted % count]]
            if np.isinf(found).any():
                raise DataError("features of training rows must be finite or NaN, some were not")
            images = wanted >= count
            if self.mirror is not None and images.any():
                found[images] = self.mirror(found[images])
            return found

    return Rows
