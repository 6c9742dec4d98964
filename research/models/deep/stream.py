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
from research.models.deep.session import CODE, INPUTS, OUTPUT, mask_name, new_state_name, state_name

if TYPE_CHECKING:
    import onnxruntime  # type: ignore[import-untyped]

    from research.models.deep.spec import SequenceSpec


class OnnxStream:
    """The states of all instruments: one for each phase and member of the ensemble.

    Two sets of arrays hold them. The network reads one and writes the other, so that a bar for
    all instruments copies and allocates nothing; where some have none, theirs stay as they were.

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
        self._session = session
        self._input = StreamInput(n_instruments, len(spec.names))
        self._clock = RunClock(n_instruments, spec.memory)
        self._grid = (spec.memory.phases, n_instruments, spec.n_samples)
        lanes = int(np.prod(self._grid))
        codes = np.arange(n_instruments)[None, :, None]
        self._fixed: dict[str, NDArray[Any]] = {
            CODE: np.ascontiguousarray(np.broadcast_to(codes, self._grid)).reshape(lanes)
        }
        repeats = lanes // spec.n_samples
        for place, mask in enumerate(spec.masks):
            self._fixed[mask_name(place)] = np.tile(mask, (repeats, 1))
        self._inputs = np.zeros((lanes, spec.scaler.n_inputs), dtype=np.float32)
        self._output = np.zeros((lanes, spec.n_outputs), dtype=np.float32)
        kinds = list(zip(spec.state_shapes, spec.state_types, strict=True))
        self._states = [
            [np.zeros((lanes, *shape), dtype=kind) for shape, kind in kinds] for _ in range(2)
        ]
        self._bindings = [self._binding(0), self._binding(1)]
        self._now = 0

    def update(self, slot: int, codes: Int64Array, values: Float64Array) -> ExpertOutput:
        """Take the rows of one time and answer them; see `research.experts.ExpertStream`."""
        self._input.check(slot, codes, values)
        if not len(codes):
            return ExpertOutput.none(0)
        turn = self._clock.advance(slot, codes)
        phase, place = np.nonzero(turn.empty)
        if len(phase):
            for part in self._states[self._now]:
                part.reshape(*self._grid, *part.shape[1:])[phase, codes[place]] = 0
        inputs = self._spec.for_members(self._spec.scaler(values))
        if len(codes) == self._grid[1]:
            outputs = self._run_all(inputs)
        else:
            outputs = self._run_some(codes, inputs)
        ready = np.flatnonzero(turn.ready)
        if not len(ready):
            return ExpertOutput.none(len(codes))
        counted = outputs[turn.answering[ready], ready]  # (n_ready, n_samples, n_outputs)
        found = combine(counted.swapaxes(0, 1), self._spec.turned)
        return spread(found, ready, len(codes))

    def _run_all(self, inputs: Float32Array) -> Float32Array:
        """Run the lanes of all instruments; return (n_phases, n_instruments, n_samples, n)."""
        self._inputs.reshape(*self._grid, -1)[:] = inputs
        self._session.run_with_iobinding(self._bindings[self._now])
        self._now = 1 - self._now
        return self._output.reshape(*self._grid, -1)

    def _run_some(self, codes: Int64Array, inputs: Float32Array) -> Float32Array:
        """Run the lanes of some instruments; return (n_phases, k, n_samples, n)."""
        phases, _, samples = self._grid
        grid = (phases, len(codes), samples)
        lanes = int(np.prod(grid))
        repeated = np.broadcast_to(inputs, (*grid, inputs.shape[2]))
        fed = {INPUTS: np.ascontiguousarray(repeated).reshape(lanes, -1)}
        state = [part.reshape(*self._grid, *part.shape[1:]) for part in self._states[self._now]]
        for name, array in self._fixed.items():
            taken = array.reshape(*self._grid, *array.shape[1:])[:, codes]
            fed[name] = taken.reshape(lanes, *array.shape[1:])
        for place, part in enumerate(state):
            fed[state_name(place)] = part[:, codes].reshape(lanes, *part.shape[3:])
        output, *new = self._session.run(None, fed)
        for part, found in zip(state, new, strict=True):
            part[:, codes] = found.reshape(*grid, *part.shape[3:])
        found_outputs: Float32Array = output.reshape(*grid, -1)
        return found_outputs

    def _binding(self, source: int) -> onnxruntime.IOBinding:
        """Bind the arrays of all lanes: states of set `source` in, of the other set out."""
        binding = self._session.io_binding()
        for name, array in {**self._fixed, INPUTS: self._inputs}.items():
            _bind(binding.bind_input, name, array)
        for place, part in enumerate(self._states[source]):
            _bind(binding.bind_input, state_name(place), part)
        for place, part in enumerate(self._states[1 - source]):
            _bind(binding.bind_output, new_state_name(place), part)
        _bind(binding.bind_output, OUTPUT, self._output)
        return binding


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
