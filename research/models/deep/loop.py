"""The one training loop of all sequence models (torch)."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from catalog.errors import ConfigError, RunFailedError
from catalog.progress import Progress, no_progress
from research.models.deep.blocks import SequenceModel, draw_masks, open_masks
from research.models.deep.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from research.models.deep.config import DeepConfig, TFTConfig
from research.models.deep.losses import LossConfig, Targets, loss_sums
from research.models.deep.optimiser import AdamW
from research.models.deep.sequences import Pieces, Tokens, answer_pieces, training_pieces

_EPOCH = 1000  # units of progress in an epoch
_LAST_RATE = 0.01  # of the learning rate, at the end of the cosine


@runtime_checkable
class NotedProgress(Progress, Protocol):
    """A progress that can also show a line of text beside a stage."""

    def note(self, stage: str, text: str) -> None:
        """Show how a stage goes, such as its loss."""


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSet:
    """What a model is trained on, token by token.

    Parameters
    ----------
    tokens : Tokens
        Which rows, in which runs.
    inputs : (n_tokens, n_inputs) float32
        Scaled features; batches are gathered from this one array.
    label : (n_tokens,) float32
        1 up, 0 down; anything where both weights are 0.
    scaled_return : (n_tokens,) float32
        NaN where unknown.
    train_weight, validation_weight : (n_tokens,) float32
        0 where a token is not of the training span, or not of the validation span.
    partner, sign : (n_inputs,) int64, (n_inputs,) float32
        How inputs look in the mirror (`FeatureScaler`); empty where nothing is shown there.
    """

    tokens: Tokens
    inputs: Tensor
    label: Tensor
    scaled_return: Tensor
    train_weight: Tensor
    validation_weight: Tensor
    partner: Tensor
    sign: Tensor

    def to(self, device: str) -> TrainingSet:
        """Return the same with its tensors on a device."""
        moved = (
            part.to(device)
            for part in (
                self.inputs,
                self.label,
                self.scaled_return,
                self.train_weight,
                self.validation_weight,
                self.partner,
                self.sign,
            )
        )
        return TrainingSet(self.tokens, *moved)

    def fingerprint(self, config: DeepConfig) -> str:
        """Return a hash of the data and the settings: of what a checkpoint belongs to."""
        found = hashlib.blake2b(config.identity_hash().encode(), digest_size=32)
        for array in (self.tokens.row, self.tokens.slot, self.tokens.run):
            found.update(np.ascontiguousarray(array))
        for tensor in (self.inputs, self.label, self.train_weight, self.validation_weight):
            found.update(tensor.contiguous().numpy())
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """How an epoch went.

    Parameters
    ----------
    train_loss : float
        Mean over the steps of what is lowered, under dropout.
    validation_loss : float
        The same on the validation span by the mean network; NaN without one.
    validation_log_loss : float
        Its cross-entropy part.
    """

    train_loss: float
    validation_loss: float
    validation_log_loss: float


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """How a fit went.

    Parameters
    ----------
    epochs : tuple of EpochRecord
        All epochs.
    best_epoch : int
        The one whose weights were kept, from 0.
    ended_by : {"all epochs", "no better", "time budget"}
        Why it ended.
    """

    epochs: tuple[EpochRecord, ...]
    best_epoch: int
    ended_by: str

    @classmethod
    def of(cls, fields: dict[str, Any]) -> TrainingReport:
        """Return the report whose fields `dataclasses.asdict` gave."""
        epochs = tuple(EpochRecord(**record) for record in fields["epochs"])
        return cls(epochs, int(fields["best_epoch"]), str(fields["ended_by"]))


@dataclass(frozen=True, slots=True)
class LoopContext:
    """What the loop is given beside model, data and settings.

    Parameters
    ----------
    stage : str
        Under which `progress` is told.
    progress : Progress
        Told the thousandths of epochs that are done.
    threads : int
        Threads of torch in this fit.
    checkpoint : Path, optional
        File to write after each epoch, and to go on from.
    """

    stage: str = "fit"
    progress: Progress = no_progress
    threads: int = 1
    checkpoint: Path | None = None


def train(
    model: SequenceModel, data: TrainingSet, config: DeepConfig, context: LoopContext
) -> TrainingReport:
    """Train a model; it holds the best weights at the end.

    The result is the same for the same seed and number of threads, whether or not the fit was
    interrupted in between.

    Raises
    ------
    ConfigError
        If the checkpoint belongs to another fit, or CUDA is asked for and absent.
    RunFailedError
        If the loss stops being a number.
    """
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device must be cpu on a machine without CUDA, was cuda")
    with torch_threads(context.threads):
        report = _Loop(model, data, config, context).run()
    model.to("cpu")
    return report


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads for what this thread asks of it; others keep their own."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Loop:
    """One fit: what changes from step to step."""

    def __init__(
        self, model: SequenceModel, data: TrainingSet, config: DeepConfig, context: LoopContext
    ) -> None:
        self.model, self.config, self.context = model.to(config.device), config, context
        self.fingerprint = data.fingerprint(config) if context.checkpoint else ""
        self.data = data.to(config.device)
        self.code = torch.from_numpy(data.tokens.code).to(config.device)
        self.loss = _loss_config(config)
        self.trained = (data.train_weight > 0).numpy()
        period = model.memory.period
        self.length = 2 * period if period else config.chunk_bars
        self.in_batch = max(1, config.batch_bars // self.length)
        # As serving reads them, from full histories.
        self.validation = answer_pieces(
            data.tokens, (data.validation_weight > 0).numpy(), model.memory, self.length
        )
        self.optimiser = AdamW(model.parameters(), config.weight_decay)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.records: list[EpochRecord] = []
        self.best_epoch = -1
        self.best = _copy(model)
        self.began = time.monotonic()
        self.ended_by = ""

    def run(self) -> TrainingReport:
        self._resume()
        while not self.ended_by:
            train_loss = self._train_epoch()
            self._judge(train_loss)
            self._save()
        self.model.load_state_dict(self.best)
        if self.context.checkpoint:
            self.context.checkpoint.unlink(missing_ok=True)
        total = self.config.epochs * _EPOCH
        self.context.progress(self.context.stage, total, total)
        return TrainingReport(tuple(self.records), self.best_epoch, self.ended_by)

    def _train_epoch(self) -> float:
        """Pass over the training rows once, cut anew, and return the mean loss."""
        epoch = len(self.records)
        offset = int(torch.randint(self.length, (1,), generator=self.generator))
        pieces = training_pieces(self.data.tokens, self.length, offset)
        before = np.concatenate([[0], np.cumsum(self.trained)])
        kept = np.flatnonzero(before[pieces.first + pieces.length] > before[pieces.first])
        order = kept[torch.randperm(len(kept), generator=self.generator).numpy()]
        batches = [order[at : at + self.in_batch] for at in range(0, len(order), self.in_batch)]
        losses = []
        for place, which in enumerate(batches):
            losses.append(self._step(pieces.take(which), (epoch, place, len(batches))))
            if self._seconds() > (self.config.max_seconds or math.inf):
                self.ended_by = "time budget"
                break
        found = float(torch.stack(losses).mean())
        if not math.isfinite(found):
            raise RunFailedError(
                f"{self.context.stage}: the training loss of epoch {epoch} must be finite, "
                f"was {found}; lower learning_rate (now {self.config.learning_rate})"
            )
        return found

    def _step(self, pieces: Pieces, at: tuple[int, int, int]) -> Tensor:
        epoch, place, count = at
        done = epoch + (place + 0.5) / count
        rate = self.config.learning_rate * _schedule(
            done / self.config.epochs, self.config.warmup_frac
        )
        masks = draw_masks(self.model.mask_sizes, len(pieces), self.config.dropout, self.generator)
        self.model.train()
        turned = self._turned(len(pieces))
        total, _, weight = self._loss(pieces, masks, self.data.train_weight, turned)
        loss = total / weight
        self.optimiser.clear()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimiser.step(rate)
        # The number of steps of an epoch varies by one or two, as the cuts do.
        report, whole = self.context.progress, self.config.epochs * _EPOCH
        report(self.context.stage, epoch * _EPOCH + _EPOCH * place // count, whole)
        return loss.detach()

    def _turned(self, count: int) -> Tensor | None:
        """Draw which sequences are shown in the mirror, (count,) bool."""
        if not len(self.data.partner):
            return None
        return torch.rand(count, generator=self.generator) < 0.5

    def _loss(
        self,
        pieces: Pieces,
        masks: list[Tensor],
        weights: Tensor,
        turned: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return summed loss, its cross-entropy part and the sum of the weights."""
        numbers, answers = pieces.tokens()
        index = torch.from_numpy(numbers).to(self.config.device)
        weight = weights[index] * torch.from_numpy(answers).to(self.config.device)
        inputs, label = self.data.inputs[index], self.data.label[index]
        scaled_return = self.data.scaled_return[index]
        if turned is not None:
            turned = turned.to(self.config.device)
            inputs[turned] = inputs[turned][..., self.data.partner] * self.data.sign
            label[turned] = 1.0 - label[turned]
            scaled_return[turned] *= -1.0
        targets = Targets(label, scaled_return, weight)
        with self._precision():
            outputs = self.model(
                inputs,
                self.code[index[:, 0]],
                [mask.to(self.config.device) for mask in masks],
            )
        return *loss_sums(outputs, targets, self.loss), weight.sum()

    def _precision(self) -> Any:
        """Half precision where the hardware gains by it: on CUDA alone."""
        if self.config.device == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def _validate(self) -> tuple[float, float]:
        """Return mean loss and cross-entropy on the validation span by the mean network."""
        if not len(self.validation):
            return math.nan, math.nan
        self.model.eval()
        sums = []
        with torch.inference_mode():
            for at in range(0, len(self.validation), self.in_batch):
                which = np.arange(at, min(at + self.in_batch, len(self.validation)))
                masks = open_masks(self.model.mask_sizes, len(which))
                parts = self._loss(self.validation.take(which), masks, self.data.validation_weight)
                sums.append(torch.stack(parts).double())
        total, sign, weight = torch.stack(sums).sum(dim=0).tolist()
        return total / weight, sign / weight

    def _judge(self, train_loss: float) -> None:
        """Take down how the epoch went, keep the best weights, decide whether it was the last."""
        self.records.append(EpochRecord(train_loss, *self._validate()))
        epoch = len(self.records) - 1
        losses = [record.validation_loss for record in self.records]
        self._note()
        if math.isnan(losses[epoch]) or losses[epoch] <= min(losses):
            self.best_epoch, self.best = epoch, _copy(self.model)
        if epoch + 1 == self.config.epochs:
            self.ended_by = self.ended_by or "all epochs"
        elif epoch - self.best_epoch >= self.config.patience:
            self.ended_by = self.ended_by or "no better"

    def _note(self) -> None:
        if isinstance(self.context.progress, NotedProgress):
            last = self.records[-1]
            text = f"loss {last.train_loss:.4f}"
            if not math.isnan(last.validation_loss):
                text += (
                    f", validation {last.validation_loss:.4f}"
                    f" (log loss {last.validation_log_loss:.4f})"
                )
            self.context.progress.note(self.context.stage, text)

    def _seconds(self) -> float:
        return time.monotonic() - self.began

    def _save(self) -> None:
        if self.context.checkpoint is None or self.ended_by:
            return
        progress = {
            "records": [asdict(record) for record in self.records],
            "best_epoch": self.best_epoch,
            "seconds": self._seconds(),
        }
        state = Checkpoint(
            self.model.state_dict(),
            self.best,
            self.optimiser.moments(),
            self.generator.get_state(),
            progress,
        )
        save_checkpoint(self.context.checkpoint, state, self.fingerprint)

    def _resume(self) -> None:
        if self.context.checkpoint is None:
            return
        state = load_checkpoint(self.context.checkpoint, self.fingerprint)
        if state is None:
            return
        self.model.load_state_dict(state.weights)
        self.best = state.best
        self.optimiser.restore(state.moments)
        self.generator.set_state(state.generator)
        self.records = [EpochRecord(**record) for record in state.progress["records"]]
        self.best_epoch = state.progress["best_epoch"]
        self.began -= state.progress["seconds"]


def _schedule(done: float, warmup: float) -> float:
    """Return the learning rate as a fraction of the highest, `done` of all steps in [0, 1]."""
    if done < warmup:
        return done / warmup
    turn = (done - warmup) / (1.0 - warmup)
    return _LAST_RATE + (1.0 - _LAST_RATE) * 0.5 * (1.0 + math.cos(math.pi * turn))


def _loss_config(config: DeepConfig) -> LossConfig:
    if isinstance(config, TFTConfig):
        return LossConfig(config.return_weight, config.quantile_weight, config.quantiles)
    return LossConfig(config.return_weight)


def _copy(model: SequenceModel) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
