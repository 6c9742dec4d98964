"""Sequence models in onnxruntime: bar by bar and for whole spans; no torch here.

The network is one step: inputs, masks and state in, outputs and what changes of the state out.
Its lanes know nothing of one another: they are, in a stream, (phase, instrument, member of the
ensemble), in a batch (piece of history, member). One costs as much as another, wherever it comes
from; what they are shown is read once for all members.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from catalog.arrays import Int64Array
from catalog.errors import DataError, IntegrityError
from research.experts import ExpertCost, ExpertOutput
from research.models.contract import check_matrix, spread, take
from research.models.deep.mixture import combine
from research.models.deep.sequences import Pieces, Tokens, answer_pieces
from research.models.deep.session import (
    CODE,
    COUNT,
    INPUTS,
    LANE,
    fitting,
    mask_name,
    network_file,
    renewed,
    start_session,
    state_name,
)
from research.models.deep.spec import SequenceSpec
from research.models.deep.stream import OnnxStream

if TYPE_CHECKING:
    from research.features import FeatureMatrix

GROUP_BYTES = 8_000_000
"""States of the pieces that a batch runs side by side: more would not stay in the cache."""
GROUP_PIECES = 64
PIECE_REACHES = 8
"""Answers in a piece, in reaches of the model: what is read only to answer costs an eighth."""
_LEAST_ANSWERS = 256


class OnnxExpert:
    """A fitted sequence model, served without torch.

    Parameters
    ----------
    spec : SequenceSpec
        What it takes in and how far back it looks.
    network : bytes
        Its step as ONNX.

    Raises
    ------
    IntegrityError
        If the network is none, or not one of this specification.
    """

    def __init__(self, spec: SequenceSpec, network: bytes) -> None:
        self.spec = spec
        self._network = network
        self._session = start_session(network)
        self._check_network()

    @property
    def name(self) -> str:
        """Kind of the expert."""
        return self.spec.kind

    @property
    def names(self) -> tuple[str, ...]:
        """Features of a row, in order."""
        return self.spec.names

    @property
    def reach_bars(self) -> int:
        """Bars of history that an answer needs beyond the features' own warm-up."""
        return self.spec.memory.reach_bars

    @property
    def cost(self) -> ExpertCost:
        """Numbers fitted, and bytes of the network and of the masks."""
        masks = sum(mask.nbytes for mask in self.spec.masks)
        return ExpertCost(self.spec.n_parameters, len(self._network) + masks)

    def stream(self, n_instruments: int) -> OnnxStream:
        """Return a stream that has seen nothing yet.

        Raises
        ------
        DataError
            If it is for more instruments than the model knows.
        """
        if n_instruments > self.spec.n_instruments:
            raise DataError(
                f"n_instruments of {self.name} must be at most the {self.spec.n_instruments} that "
                f"it was fitted on, was {n_instruments}"
            )
        return OnnxStream(self.spec, self._session, n_instruments)

    def predict(self, matrix: FeatureMatrix, rows: Int64Array) -> ExpertOutput:
        """Answer some rows of a matrix; earlier rows of the same instrument are read.

        The step is run over pieces of history side by side, so that the answers are a stream's to
        within the rounding of float32.

        Raises
        ------
        DataError
            If the matrix has other columns or instruments than the model was fitted on.
        """
        spec = self.spec
        check_matrix(self.name, self.names, matrix)
        if len(matrix.instruments) > spec.n_instruments:
            raise DataError(
                f"instruments of {self.name} must be at most the {spec.n_instruments} that it was "
                f"fitted on, were {len(matrix.instruments)}"
            )
        tokens = Tokens.of(matrix.ts_init, matrix.instrument, matrix.valid, spec.interval_ns)
        asked = np.zeros(len(matrix.ts_init), dtype=np.bool_)
        asked[rows] = True
        length = max(_LEAST_ANSWERS, PIECE_REACHES * spec.memory.reach)
        pieces = answer_pieces(tokens, asked[tokens.row], spec.memory, length)
        found, places = [], []
        # The longest first: those that are at their end are then always the last lanes.
        pieces = pieces.take(np.argsort(-pieces.length, kind="stable"))
        side_by_side = self._pieces_at_once
        for first in range(0, len(pieces), side_by_side):
            group = pieces.take(np.arange(first, min(first + side_by_side, len(pieces))))
            answers, answered = self._answer(matrix, tokens, group)
            found.append(answers)
            places.append(answered)
        if not found:
            return ExpertOutput.none(len(rows))
        every = spread(ExpertOutput.concatenate(found), np.concatenate(places), len(matrix.ts_init))
        return take(every, rows)

    def save(self, folder: Path) -> None:
        """Write specification, masks and network into an existing folder."""
        self.spec.save(folder)
        (folder / network_file(self.name)).write_bytes(self._network)

    @classmethod
    def load(cls, folder: Path, kind: str, names: tuple[str, ...]) -> Self:
        """Load what `save` wrote.

        Parameters
        ----------
        folder : Path
            Where.
        kind : str
            Name of the expert, such as ``transformer``.
        names : tuple of str
            Features that rows will have.

        Raises
        ------
        IntegrityError
            If a file is missing or damaged.
        DataError
            If the features are not those fitted with.
        """
        spec = SequenceSpec.load(folder, kind, names)
        path = folder / network_file(kind)
        try:
            network = path.read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"{path.name} of {folder} must be a readable file, was not: {error}; "
                "use another copy of the bundle"
            ) from error
        return cls(spec, network)

    @property
    def _pieces_at_once(self) -> int:
        floats = sum(int(np.prod(shape)) for shape in self.spec.state_shapes)
        return int(np.clip(GROUP_BYTES // (4 * floats * self.spec.n_samples), 1, GROUP_PIECES))

    def _answer(
        self, matrix: FeatureMatrix, tokens: Tokens, group: Pieces
    ) -> tuple[ExpertOutput, Int64Array]:
        """Run pieces side by side, longest first; return answers and the rows they belong to."""
        spec, samples = self.spec, self.spec.n_samples
        members = [np.tile(mask, (len(group), 1)) for mask in spec.masks]
        lanes = len(group) * samples
        state = [
            np.zeros((lanes, *shape), dtype=kind)
            for shape, kind in zip(spec.state_shapes, spec.state_types, strict=True)
        ]
        places, counted = group.tokens()
        code, lane = np.repeat(tokens.code[group.first], spec.n_views), spec.lanes(len(group))
        outputs = np.empty((samples, int(counted.sum()), spec.n_outputs), dtype=np.float32)
        answered = np.empty(outputs.shape[1], dtype=np.int64)
        done = 0
        for step in range(places.shape[1]):
            alive = int(np.searchsorted(-group.length, -step))  # pieces longer than this
            row = tokens.row[places[:alive, step]]
            shown = spec.views(spec.scaler.of_rows(matrix.values, row))
            shown = shown.reshape(-1, shown.shape[2])
            state = [part[: alive * samples] for part in state]
            fed = {INPUTS: shown, CODE: code[: len(shown)], COUNT: np.full(len(shown), step)}
            fed[LANE] = lane[: alive * samples]
            fed |= {mask_name(at): mask[: alive * samples] for at, mask in enumerate(members)}
            fed |= {state_name(at): part for at, part in enumerate(state)}
            found, *new = self._session.run(None, fitting(self._session, fed))
            state = renewed(state, new, spec.rings, step)
            which = np.flatnonzero(counted[:alive, step])
            if len(which):
                by_piece = found.reshape(alive, samples, -1)[which]
                outputs[:, done : done + len(which)] = by_piece.swapaxes(0, 1)
                answered[done : done + len(which)] = row[which]
                done += len(which)
        return combine(outputs, spec.turned), answered

    def _check_network(self) -> None:
        """Refuse a network that takes something else than the specification says."""
        spec = self.spec
        wanted: dict[str, list[int]] = {INPUTS: [spec.scaler.n_inputs], CODE: []}
        wanted |= {COUNT: [], LANE: []}
        wanted = fitting(self._session, wanted)
        wanted |= {mask_name(at): [mask.shape[1]] for at, mask in enumerate(spec.masks)}
        wanted |= {state_name(at): list(shape) for at, shape in enumerate(spec.state_shapes)}
        found = {entry.name: entry.shape for entry in self._session.get_inputs()}
        differing = {
            name: found.get(name)
            for name in wanted.keys() | found.keys()
            if name not in wanted or name not in found or found[name][1:] != wanted[name]
        }
        if differing:
            raise IntegrityError(
                f"inputs of the network of {self.name} must be {wanted}, differed in {differing}; "
                "use another copy of the bundle"
            )
