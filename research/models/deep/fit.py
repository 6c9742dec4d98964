"""Fit a sequence model to a training table (torch)."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError, DataError, IntegrityError
from research.experts import ExpertCost, ExpertOutput, FitContext
from research.mirror import Mirror
from research.models.deep.batch import answer_rows
from research.models.deep.blocks import (
    ModelInputs,
    SequenceModel,
    draw_masks,
    initialise,
    open_masks,
)
from research.models.deep.config import DeepConfig, LSTMConfig, TFTConfig, TransformerConfig
from research.models.deep.loop import LoopContext, TrainingReport, TrainingSet, torch_threads, train
from research.models.deep.scaling import FeatureScaler, Float32Array
from research.models.deep.sequences import Tokens
from research.models.deep.spec import SequenceSpec

if TYPE_CHECKING:
    from research.experts import ExpertStream
    from research.features import FeatureMatrix
    from research.models.deep.runtime import OnnxExpert
    from research.training_table import TrainingTable

CONFIGS: dict[str, type[DeepConfig]] = {
    config.kind: config for config in (TransformerConfig, LSTMConfig, TFTConfig)
}
"""Settings by the name of their expert."""
_KEY = "levibot"
_MASK_SEED = 1_000_003  # apart from the seed of weights and order
_VOLATILITY = ("volatility_20", "volatility_ratio")


def fit(
    table: TrainingTable, rows: Int64Array, config: DeepConfig, context: FitContext
) -> DeepExpert:
    """Fit one expert.

    Early stopping listens to the last rows in time; of the rows before, those whose label looks
    into them are left out. Scaling looks at the rows that are trained on.

    Parameters
    ----------
    table : TrainingTable
        All rows; of those not in `rows`, only features known before the last of `rows` are read,
        and no labels.
    rows : (n_train,) int64
        Ascending row numbers, all trainable.
    config : TransformerConfig, LSTMConfig or TFTConfig
        Settings.
    context : FitContext
        Progress, threads, where to keep checkpoints, the expert to begin from.

    Raises
    ------
    DataError
        If there are too few rows, or rows of one class only.
    ConfigError
        If a warm start is asked for from an expert of another kind or other features.
    """
    trained, validated = split_rows(table, rows, config.validation_frac)
    _check_labels(table, trained)
    names, matrix = table.matrix.names, table.matrix
    previous = _previous(config, context, names, len(matrix.instruments))
    scaler = (
        FeatureScaler.fit(
            names,
            matrix.values,
            trained,
            config.input_clip,
            Mirror.of(names) if config.mirror else None,
        )
        if previous is None
        else previous.spec.scaler
    )
    model = build_model(ModelInputs(scaler.input_names, len(matrix.instruments)), config)
    if previous is not None:
        model.load_state_dict(previous.model.state_dict())
    data = _training_set(table, (trained, validated), scaler, model)
    checkpoint = None if context.checkpoint is None else context.checkpoint / _checkpoint(config)
    report = train(
        model,
        data,
        config,
        LoopContext(f"fit {config.kind}", context.progress, context.threads, checkpoint),
    )
    return DeepExpert(_spec(model, scaler, table, config), model, config, report)


def split_rows(
    table: TrainingTable, rows: Int64Array, validation_frac: float
) -> tuple[Int64Array, Int64Array]:
    """Cut the validation span from the end of some rows.

    Returns
    -------
    trained : (n_trained,) int64
        Rows whose label's span ends at or before the last row ahead of the validation span.
    validated : (n_validated,) int64
        The last rows in time; none if the fraction is 0.
    """
    if not len(rows):
        raise DataError("a sequence model must be fitted on at least one row, had none")
    if not validation_frac:
        return rows, rows[:0]
    ts_init, ts_end = table.matrix.ts_init[rows], table.labels.ts_end[rows]
    cut = np.quantile(ts_init, 1.0 - validation_frac, method="lower")
    trained, validated = rows[ts_end <= cut], rows[ts_init > cut]
    if not len(trained) or not len(validated):
        raise DataError(
            f"{len(rows)} rows must leave some on both sides of the cut for early stopping, left "
            f"{len(trained)} and {len(validated)}; train on a longer span"
        )
    return trained, validated


def build_model(inputs: ModelInputs, config: DeepConfig) -> SequenceModel:
    """Return the untrained network that settings describe, its weights drawn from their seed."""
    model: SequenceModel
    match config:
        case TransformerConfig():
            from research.models.deep.transformer import CausalTransformer

            model = CausalTransformer(inputs, config)
        case LSTMConfig():
            from research.models.deep.lstm import RecurrentModel

            model = RecurrentModel(inputs, config)
        case TFTConfig():
            from research.models.deep.tft import TemporalFusionTransformer

            model = TemporalFusionTransformer(inputs, config)
        case _:
            raise ConfigError(f"a sequence model must be one of {sorted(CONFIGS)}, was {config!r}")
    initialise(model, torch.Generator().manual_seed(config.seed))
    return model


def _weights(kind: str) -> str:
    return f"{kind}.weights.safetensors"


def _checkpoint(config: DeepConfig) -> str:
    return f"{config.kind}.checkpoint.safetensors"


def _check_labels(table: TrainingTable, rows: Int64Array) -> None:
    found = table.labels.value[rows]
    if not np.isin(found, (0.0, 1.0)).all():
        raise DataError("labels of training rows must be 0 or 1, some were neither")
    if found.min() == found.max():
        raise DataError(
            f"training rows must hold ups and downs, all {len(found)} were {found[0]:.0f}"
        )


def _previous(
    config: DeepConfig, context: FitContext, names: tuple[str, ...], n_instruments: int
) -> DeepExpert | None:
    """Return what a warm start begins from; its scaling goes with its weights."""
    if not config.warm_start or context.previous is None:
        return None
    found = context.previous
    if not isinstance(found, DeepExpert) or found.name != config.kind:
        raise ConfigError(f"a warm start of {config.kind} must be from one, was from {found.name}")
    if found.spec.names != names or found.spec.n_instruments != n_instruments:
        raise ConfigError(
            f"a warm start of {config.kind} must be from one with the same features and "
            "instruments, these differed; set warm_start to false"
        )
    ours = build_model(found.model.inputs, config).state_dict()
    theirs = found.model.state_dict()
    if {name: value.shape for name, value in ours.items()} != {
        name: value.shape for name, value in theirs.items()
    }:
        raise ConfigError(
            f"a warm start of {config.kind} must be from one of the same size, was not; "
            "set warm_start to false"
        )
    return found


def _training_set(
    table: TrainingTable,
    spans: tuple[Int64Array, Int64Array],
    scaler: FeatureScaler,
    model: SequenceModel,
) -> TrainingSet:
    """Gather what the loop reads: tokens of the span and, before it, the history of the first."""
    matrix, trained = table.matrix, spans[0]
    last = max(int(matrix.ts_init[span].max()) for span in spans if len(span))
    first = int(matrix.ts_init[trained].min()) - model.memory.reach_bars * table.interval_ns
    inside = matrix.valid & (matrix.ts_init >= first) & (matrix.ts_init <= last)
    tokens = Tokens.of(matrix.ts_init, matrix.instrument, inside, table.interval_ns)
    place = np.full(len(matrix.ts_init), -1, dtype=np.int64)
    place[tokens.row] = np.arange(len(tokens))
    label, target = np.zeros(len(tokens)), np.full(len(tokens), np.nan)
    weights = np.zeros((2, len(tokens)))
    scale = table.labels.weight[trained].mean()  # so that a loss means the same at every horizon
    targets = scaled_returns(table, np.concatenate(spans))
    for weight, span in zip(weights, spans, strict=True):
        at = place[span]
        if (at < 0).any():
            raise DataError("training rows must be valid rows of the matrix, some were not")
        label[at] = table.labels.value[span]
        weight[at] = table.labels.weight[span] / scale
    target[place[np.concatenate(spans)]] = targets
    return TrainingSet(
        tokens,
        torch.from_numpy(scaler.of_rows(matrix.values, tokens.row)),
        *(_float32(array) for array in (label, target, *weights)),
        *(torch.from_numpy(array) for array in (scaler.partner, scaler.sign)),
    )


def _float32(array: Float64Array) -> Tensor:
    return torch.from_numpy(array.astype(np.float32))


def scaled_returns(table: TrainingTable, rows: Int64Array) -> Float64Array:
    """Return forward log returns in units of ``vol96 * sqrt(horizon)``, (n_rows,).

    NaN where the return is not known or the market stood still. The horizon is the longest span
    that a label of the rows looks at.

    Raises
    ------
    DataError
        If the table has not the columns that the volatility is read from.
    """
    matrix = table.matrix
    for name in _VOLATILITY:
        if name not in matrix.names:
            raise DataError(f"features of a sequence model must include {name}, did not")
    recent, ratio = (matrix.values[rows, matrix.names.index(name)] for name in _VOLATILITY)
    spans = table.labels.ts_end[rows] - matrix.ts_init[rows]
    horizon = float(spans.max()) / table.interval_ns
    scale = recent / ratio * np.sqrt(horizon)
    known = np.isfinite(scale) & (scale > 0.0)
    result = np.full(len(rows), np.nan)
    found = np.log1p(table.labels.forward_return[rows])
    np.divide(found, scale, out=result, where=known)
    return result


def _spec(
    model: SequenceModel, scaler: FeatureScaler, table: TrainingTable, config: DeepConfig
) -> SequenceSpec:
    generator = torch.Generator().manual_seed(config.seed + _MASK_SEED)
    # In the mirror members come in pairs: the same network, once for each side of it.
    repeats = 2 if config.mirror else 1
    count = -(-config.samples // repeats)
    masks = (
        draw_masks(model.mask_sizes, count, config.dropout, generator)
        if count > 1
        else open_masks(model.mask_sizes, 1)
    )
    state = model.empty_parts(1)
    return SequenceSpec(
        kind=config.kind,
        scaler=scaler,
        n_instruments=len(table.matrix.instruments),
        interval_ns=table.interval_ns,
        memory=model.memory,
        quantiles=config.quantiles if isinstance(config, TFTConfig) else (),
        state_shapes=tuple(tuple(part.shape[1:]) for part in state),
        state_types=tuple(str(part.numpy().dtype) for part in state),
        masks=tuple(np.repeat(mask.numpy(), repeats, axis=0) for mask in masks),
        n_parameters=model.parameter_count(),
        identity=config.identity_hash(),
        rings=model.rings,
    )


@dataclass(frozen=True, eq=False)
class DeepExpert:
    """A freshly fitted sequence model: torch in batch, the exported step in streams.

    Parameters
    ----------
    spec : SequenceSpec
        What serving needs beside the network.
    model : SequenceModel
        The network.
    config : DeepConfig
        Its settings.
    report : TrainingReport
        How the fit went.
    threads : int
        Threads of a batch.
    """

    spec: SequenceSpec
    model: SequenceModel
    config: DeepConfig
    report: TrainingReport
    threads: int = 1

    @property
    def name(self) -> str:
        """Name of the kind."""
        return self.spec.kind

    @property
    def reach_bars(self) -> int:
        """Bars of history that an answer needs beyond the features' own warm-up."""
        return self.spec.memory.reach_bars

    @property
    def cost(self) -> ExpertCost:
        """What it costs to keep: four bytes for each parameter and mask value."""
        masks = sum(mask.nbytes for mask in self.spec.masks)
        return ExpertCost(self.spec.n_parameters, 4 * self.spec.n_parameters + masks)

    @cached_property
    def _masks(self) -> list[Tensor]:
        return [torch.from_numpy(mask) for mask in self.spec.masks]

    def predict(self, matrix: FeatureMatrix, rows: Int64Array) -> ExpertOutput:
        """Answer some rows of a matrix; see `research.models.deep.batch.answer_rows`."""
        self.model.eval()
        with torch_threads(self.threads), torch.inference_mode():
            return answer_rows(self.spec, matrix, rows, self._run)

    def _run(self, inputs: Float32Array, code: Int64Array) -> NDArray[np.floating[Any]]:
        """Run all members over some sequences, along one axis: members slow, sequences fast."""
        samples, count = self.spec.n_samples, len(inputs)
        x, codes = torch.from_numpy(inputs), torch.from_numpy(code)
        shown = x.repeat(samples, 1, 1)
        turned = torch.from_numpy(self.spec.turned)
        if turned.any():
            image = torch.from_numpy(self.spec.scaler.mirrored(inputs))
            shown.view(samples, *x.shape)[turned] = image
        found: Tensor = self.model(
            shown,
            codes.repeat(samples),
            [mask.repeat_interleave(count, dim=0) for mask in self._masks],
        )
        return found.reshape(samples, count, *found.shape[1:]).numpy()

    @cached_property
    def served(self) -> OnnxExpert:
        """The same expert as a bundle will hold it; made when it is first asked for (seconds)."""
        from research.models.deep.export import export_step
        from research.models.deep.runtime import OnnxExpert

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            export_step(self.model, path)
            return OnnxExpert(self.spec, path.read_bytes())

    def stream(self, n_instruments: int) -> ExpertStream:
        """Return a stream that has seen nothing yet."""
        return self.served.stream(n_instruments)

    def save(self, folder: Path) -> None:
        """Write what serving needs, and the weights for `load_fitted`, into an existing folder."""
        self.served.save(folder)
        about = {
            "config": self.config.model_dump(mode="json"),
            "inputs": self.model.inputs.names,
            "report": asdict(self.report),
        }
        save_file(
            self.model.state_dict(),
            folder / _weights(self.name),
            metadata={_KEY: json.dumps(about)},
        )


def load_fitted(folder: Path, kind: str, names: tuple[str, ...]) -> DeepExpert:
    """Load a saved expert with its network in torch: to look into it or to fit on from it.

    Parameters
    ----------
    folder : Path
        Where `DeepExpert.save` wrote.
    kind : str
        Name of the expert.
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
    path = folder / _weights(kind)
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()[_KEY])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        config = CONFIGS[kind](**about["config"])
        model = build_model(ModelInputs(tuple(about["inputs"]), spec.n_instruments), config)
        model.load_state_dict(weights)
        report = TrainingReport.of(about["report"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise IntegrityError(
            f"weights {path.name} of {folder} cannot be read ({error}); restore or refit them"
        ) from error
    return DeepExpert(spec, model.eval(), config, report)
