"""A sequence model bar by bar: the states of all instruments and members, explicitly."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from catalog.arrays import Float64Array, Int64Array
from research.experts import ExpertOutput
from research.models.contract import StreamInput, spread
from research.models.deep.mixture import combine
from research.models.deep.scaling import Float32Array
from research.models.deep.sequences import RunClock
from research.models.deep.session import (
    CODE,
    COUNT,
    INPUTS,
    LANE,
    OUTPUT,
    fitting,
    mask_name,
    new_state_name,
    state_name,
    write_row,
)

if TYPE_CHECKING:
    import onnxruntime  # type: ignore[import-untyped]

    from research.models.deep.spec import SequenceSpec


class OnnxStream:
    """The states of all instruments: one for each phase and member of the ensemble.

    The network reads a state where it lies and says what changes of it: of a ring of tokens that
    is one row, so that a bar copies next to nothing, however far back the model looks.

    Parameters
    ----------
    spec : SequenceSpec
        Of the model.
    session : onnxruntime.InferenceSession
        Its network.
    n_instruments : int
        How many there are; at most as many as the model knows.
    """

    def __init__(
        self, spec: SequenceSpec, session: onnxruntime.InferenceSession, n_instruments: int
    ) -> None:
        self._spec = spec
        self._turned = spec.turned
        self._session = session
        self._input = StreamInput(n_instruments, len(spec.names))
        self._clock = RunClock(n_instruments, spec.memory)
        self._grid = (spec.memory.phases, n_instruments, spec.n_samples)
        kinds = list(zip(spec.state_shapes, spec.state_types, strict=True))
        self._state = [np.zeros((*self._grid, *shape), dtype=kind) for shape, kind in kinds]
        self._count = np.zeros(self._grid[:2], dtype=np.int64)  # tokens in each state
        self._all = _Run(spec, session, self._state, np.arange(n_instruments))

    def update(self, slot: int, codes: Int64Array, values: Float64Array) -> ExpertOutput:
        """Take the rows of one time and answer them; see `research.experts.ExpertStream`."""
        self._input.check(slot, codes, values)
        if not len(codes):
            return ExpertOutput.none(0)
        turn = self._clock.advance(slot, codes)
        phase, place = np.nonzero(turn.empty)
        if len(phase):
            self._count[phase, codes[place]] = 0
            for part in self._state:
                part[phase, codes[place]] = 0
        outputs = self._run(codes, self._spec.views(self._spec.scaler(values)))
        ready = np.flatnonzero(turn.ready)
        if not len(ready):
            return ExpertOutput.none(len(codes))
        counted = outputs[turn.answering[ready], ready]  # (n_ready, n_samples, n_outputs)
        found = combine(counted.swapaxes(0, 1), self._turned)
        return spread(found, ready, len(codes))

    def _run(self, codes: Int64Array, views: Float32Array) -> Float32Array:
        """Run the lanes of some instruments; return (n_phases, k, n_samples, n_outputs)."""
        run = self._all
        if len(codes) < self._grid[1]:
            present = [np.ascontiguousarray(part[:, codes]) for part in self._state]
            run = _Run(self._spec, self._session, present, codes)
        counts = self._count[:, codes]
        run.inputs[:] = views
        run.count[:] = counts[:, :, np.newaxis]
        self._session.run_with_iobinding(run.binding)
        kept = self._spec.rings
        rings = list(zip(self._state[:kept], run.new[:kept], strict=True))
        for phase, before in enumerate(counts.tolist()):
            for place, (code, count) in enumerate(zip(codes.tolist(), before, strict=True)):
                for ring, row in rings:
                    write_row(ring[phase, code], row[phase, place], count)
        for part, new in zip(self._state[kept:], run.new[kept:], strict=True):
            part[:, codes] = new
        self._count[:, codes] += 1
        return run.output


class _Run:
    """The arrays of one call of the network: what goes in and what comes out, bound to it.

    Parameters
    ----------
    spec : SequenceSpec
        Of the model.
    session : onnxruntime.InferenceSession
        Its network.
    state : list of (n_phases, k, n_samples, ...) arrays
        States of k instruments.
    codes : (k,) int64
        Which they are.
    """

    def __init__(
        self,
        spec: SequenceSpec,
        session: onnxruntime.InferenceSession,
        state: list[NDArray[Any]],
        codes: Int64Array,
    ) -> None:
        phases, views = spec.memory.phases, spec.n_views
        states = phases * len(codes)
        self.inputs = np.empty((phases, len(codes), views, spec.scaler.n_inputs), dtype=np.float32)
        self.count = np.empty(self.inputs.shape[:3], dtype=np.int64)
        lanes = (phases, len(codes), spec.n_samples)
        self.output = np.empty((*lanes, spec.n_outputs), dtype=np.float32)
        shapes = [list(part.shape) for part in state]
        for shape in shapes[: spec.rings]:
            shape[-2] = 1
        self.new = [np.empty(*pair) for pair in zip(shapes, spec.state_types, strict=True)]
        self.binding = session.io_binding()
        # A binding knows addresses only: the arrays are kept.
        self._taken: dict[str, NDArray[Any]] = {
            INPUTS: self.inputs.reshape(-1, spec.scaler.n_inputs),
            CODE: np.tile(np.repeat(codes, views), phases),
            COUNT: self.count.reshape(-1),
            LANE: spec.lanes(states),
        }
        for place, mask in enumerate(spec.masks):
            self._taken[mask_name(place)] = np.tile(mask, (states, 1))
        for place, part in enumerate(state):
            self._taken[state_name(place)] = part.reshape(-1, *part.shape[3:])
        for name, array in fitting(session, self._taken).items():
            _bind(self.binding.bind_input, name, array)
        _bind(self.binding.bind_output, OUTPUT, self.output.reshape(-1, spec.n_outputs))
        for place, part in enumerate(self.new):
            flat = part.reshape(-1, *part.shape[3:])
            _bind(self.binding.bind_output, new_state_name(place), flat)


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
