"""What a model is compared with: the base rate, the last bar's sign, a logistic regression.

All are fitted on the training rows of a fold and predict its test rows, like the model itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Self

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import IntegrityError
from research.models.logistic import LogisticReference

REFERENCES = {
    "base rate": "base_prob",
    "last sign": "last_sign_prob",
    "logistic regression": "logistic_prob",
}
"""Names of the references and their columns in a frame of predictions."""


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """Fitted references.

    Parameters
    ----------
    base_prob : float
        Share of rises among the training rows, by Laplace's rule of succession.
    last_sign_prob : (3,) float64
        The same for rows whose own bar fell, stood still and rose.
    logistic : LogisticReference
        A logistic regression on the model's features.
    """

    base_prob: float
    last_sign_prob: Float64Array
    logistic: LogisticReference

    @classmethod
    def fit(
        cls, table: Float64Array, rows: Int64Array, label: Float64Array, last_sign: Float64Array
    ) -> Self:
        """Fit on training rows.

        Parameters
        ----------
        table : (n_table, n_features) float64
            Features of all rows there are, NaN where undefined.
        rows : (n_rows,) int64
            Which of them are the training rows; the others are never read.
        label : (n_rows,) float64
            1 for up, 0 for down.
        last_sign : (n_rows,) float64
            Sign of the return of the row's own bar: -1, 0 or 1.
        """
        shares = [_laplace(label[last_sign == sign]) for sign in (-1.0, 0.0, 1.0)]
        logistic = LogisticReference.fit(table, rows, label)
        return cls(_laplace(label), np.array(shares), logistic)

    def predict(self, values: Float64Array, last_sign: Float64Array) -> dict[str, Float64Array]:
        """Return each reference's probabilities of a rise, (n_rows,), by column name."""
        return {
            "base_prob": np.full(len(values), self.base_prob),
            "last_sign_prob": self.last_sign_prob[last_sign.astype(np.int64) + 1],
            "logistic_prob": self.logistic.predict(values),
        }

    def to_json(self) -> str:
        """Return the references as JSON; numbers survive the round trip bit for bit."""
        return json.dumps(
            {
                "base_prob": self.base_prob,
                "last_sign_prob": self.last_sign_prob.tolist(),
                "logistic": {
                    "mean": self.logistic.mean.tolist(),
                    "scale": self.logistic.scale.tolist(),
                    "coefficient": self.logistic.coefficient.tolist(),
                },
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Load references.

        Raises
        ------
        IntegrityError
            If the text is not what `to_json` writes.
        """
        try:
            record = json.loads(text)
            logistic = record["logistic"]
            columns = [
                np.array(logistic[name], dtype=np.float64)
                for name in ("mean", "scale", "coefficient")
            ]
            shares = np.array(record["last_sign_prob"], dtype=np.float64)
            return cls(float(record["base_prob"]), shares, LogisticReference(*columns))
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"references must be a JSON record: {error!r}") from error


def _laplace(label: Float64Array) -> float:
    return float((label.sum() + 1.0) / (len(label) + 2.0))
