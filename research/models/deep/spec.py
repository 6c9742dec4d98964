"""What serving a sequence model needs beside its network; no torch here.

It is kept as ``<kind>.json`` and ``<kind>.safetensors``: neither can run code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from catalog.arrays import Int64Array
from catalog.errors import DataError, IntegrityError
from research.models.deep.mixture import N_DISTRIBUTION
from research.models.deep.scaling import FeatureScaler, Float32Array
from research.models.deep.sequences import Memory

SCHEMA = 2


@dataclass(frozen=True, slots=True, eq=False)
class SequenceSpec:
    """What serving needs.

    Parameters
    ----------
    kind : str
        Name of the expert, such as ``transformer``.
    scaler : FeatureScaler
        Rows in, inputs out.
    n_instruments : int
        Instruments that the embedding knows, by code.
    interval_ns : int
        Length of a bar.
    memory : Memory
        How far back it looks.
    quantiles : tuple of float
        Levels of the output columns behind the first four.
    state_shapes : tuple of tuple of int
        Shape of each part of a state without its leading axis, rings first.
    state_types : tuple of str
        numpy's name of each part's type.
    masks : tuple of (n_samples, size) float32
        Members of the ensemble: one row each for every dropout point.
    n_parameters : int
        Numbers that were fitted.
    identity : str
        Hash of the settings fitted with.
    rings : int
        So many parts of a state are rings, of which a token changes one row.
    """

    kind: str
    scaler: FeatureScaler
    n_instruments: int
    interval_ns: int
    memory: Memory
    quantiles: tuple[float, ...]
    state_shapes: tuple[tuple[int, ...], ...]
    state_types: tuple[str, ...]
    masks: tuple[Float32Array, ...]
    n_parameters: int
    identity: str
    rings: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """Features of a row, in order."""
        return self.scaler.names

    @property
    def n_samples(self) -> int:
        """Members of the ensemble."""
        return len(self.masks[0]) if self.masks else 1

    @property
    def turned(self) -> NDArray[np.bool_]:
        """Which members are shown the mirror image, (n_samples,): every second, or none."""
        turned = np.arange(self.n_samples) % 2 == 1
        return turned if len(self.scaler.partner) else np.zeros_like(turned)

    @property
    def n_views(self) -> int:
        """In how many ways a row is shown: as it is and, if members are turned, mirrored."""
        return 2 if self.turned.any() else 1

    def views(self, inputs: Float32Array) -> Float32Array:
        """Return all views of inputs, (n_rows, n_views, n_inputs); `turned` see the second."""
        if self.n_views == 1:
            return inputs[:, np.newaxis]
        return np.stack([inputs, self.scaler.mirrored(inputs)], axis=1)

    def lanes(self, n_rows: int) -> Int64Array:
        """Return which view each member of each row is shown, (n_rows * n_samples,), by number."""
        first = np.arange(n_rows, dtype=np.int64)[:, np.newaxis] * self.n_views
        return (first + self.turned).reshape(-1)

    @property
    def n_outputs(self) -> int:
        """Columns of an output."""
        return N_DISTRIBUTION + len(self.quantiles)

    def save(self, folder: Path) -> None:
        """Write both files into an existing folder."""
        scaler = self.scaler
        about = {
            "schema": SCHEMA,
            "kind": self.kind,
            "names": list(scaler.names),
            "clip": scaler.clip,
            "n_instruments": self.n_instruments,
            "interval_ns": self.interval_ns,
            "memory": asdict(self.memory),
            "quantiles": list(self.quantiles),
            "state_shapes": [list(shape) for shape in self.state_shapes],
            "state_types": list(self.state_types),
            "rings": self.rings,
            "n_parameters": self.n_parameters,
            "identity": self.identity,
        }
        arrays: dict[str, Any] = {
            "columns": scaler.columns,
            "center": scaler.center,
            "scale": scaler.scale,
            "missing": scaler.missing,
            "partner": scaler.partner,
            "sign": scaler.sign,
        }
        arrays |= {f"mask_{place}": mask for place, mask in enumerate(self.masks)}
        save_file(
            {name: np.ascontiguousarray(array) for name, array in arrays.items()},
            folder / f"{self.kind}.safetensors",
        )
        text = json.dumps(about, indent=1, sort_keys=True) + "\n"
        (folder / f"{self.kind}.json").write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, kind: str, names: tuple[str, ...]) -> Self:
        """Read what `save` wrote.

        Parameters
        ----------
        folder : Path
            Where.
        kind : str
            Name of the expert.
        names : tuple of str
            Features that rows will have.

        Raises
        ------
        IntegrityError
            If a file is missing, damaged or of another schema.
        DataError
            If the features are not those fitted with.
        """
        try:
            about = json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))
            arrays = load_file(folder / f"{kind}.safetensors")
            if (about["schema"], about["kind"]) != (SCHEMA, kind):
                raise IntegrityError(
                    f"{kind}.json must be of kind {kind} and schema {SCHEMA}, "
                    f"was {about['kind']} and {about['schema']}; fit the expert again"
                )
            result = cls._of(about, arrays)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise IntegrityError(
                f"the expert {kind} in {folder} cannot be read ({error}); restore or refit it"
            ) from error
        if result.names != names:
            raise DataError(
                f"features of the expert {kind} must be the {len(result.names)} fitted with, "
                f"were {len(names)}, of which others or in another order; fit the expert again"
            )
        return result

    @classmethod
    def _of(cls, about: dict[str, Any], arrays: dict[str, Any]) -> Self:
        scaler = FeatureScaler(
            names=tuple(about["names"]),
            columns=arrays["columns"],
            center=arrays["center"],
            scale=arrays["scale"],
            missing=arrays["missing"],
            clip=float(about["clip"]),
            partner=arrays["partner"],
            sign=arrays["sign"],
        )
        n_masks = sum(name.startswith("mask_") for name in arrays)
        return cls(
            kind=about["kind"],
            scaler=scaler,
            n_instruments=int(about["n_instruments"]),
            interval_ns=int(about["interval_ns"]),
            memory=Memory(**about["memory"]),
            quantiles=tuple(about["quantiles"]),
            state_shapes=tuple(tuple(shape) for shape in about["state_shapes"]),
            state_types=tuple(about["state_types"]),
            masks=tuple(arrays[f"mask_{place}"] for place in range(n_masks)),
            n_parameters=int(about["n_parameters"]),
            identity=str(about["identity"]),
            rings=int(about["rings"]),
        )
