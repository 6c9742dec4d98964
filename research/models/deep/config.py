"""Settings of the sequence models and of their one training loop; no torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from catalog.config import Config


class DeepConfig(Config):
    """What all sequence models share: their width, ensemble and training.

    Parameters
    ----------
    d_model : int
        Width of a token.
    dropout : float
        Fraction of the units that a mask leaves out; a mask holds for a whole sequence
        (Gal and Ghahramani, 2016).
    samples : int
        Fixed masks that serving averages over: the members of the ensemble.
    mirror : bool
        Whether half of the training sequences, drawn anew each time, are shown in the mirror
        (`research.mirror`), and every second member of the ensemble answers there: the model then
        cannot lean to one side.
    input_clip : float
        Scaled inputs are cut off at plus and minus this many standard deviations.
    epochs : int
        Most passes over the training rows.
    chunk_bars : int
        Length of a training sequence in tokens; models with a period use twice the period.
    batch_bars : int
        Tokens in a mini-batch, about.
    learning_rate : float
        At the end of the warm-up, from where it falls to a hundredth along a cosine.
    warmup_frac : float
        Fraction of all steps over which the rate rises from zero, linearly.
    weight_decay : float
        Of AdamW (Loshchilov and Hutter, 2019), on matrices only.
    clip_norm : float
        Longest gradient of a step.
    return_weight : float
        Weight of the Student-t likelihood of the return beside the cross-entropy of the sign.
    validation_frac : float
        Last fraction of the training rows on which early stopping listens; 0 trains all epochs
        on all rows.
    patience : int
        Epochs without a better validation loss after which training stops.
    max_seconds : float, optional
        Training ends with the epoch's step that exceeds it, and keeps the best weights so far.
        None sets no limit; with one, the result depends on the speed of the machine.
    refit : bool
        Whether the expert is fitted again on its whole training span once the rows held back at
        its end have told what it is worth: the last months then count, for twice the time.
    warm_start : bool
        Begin with the weights and the scaling of the fit before, where there is one.
    device : {"cpu", "cuda"}
        Where to train; CUDA uses bfloat16 where it is safe.
    seed : int
        Seed of weights, order and masks.
    """

    kind: ClassVar[str]
    """Name of the expert: ``transformer``, ``lstm``, ``tft``."""

    d_model: int = Field(default=128, ge=4, le=2048)
    dropout: float = Field(default=0.2, ge=0.0, lt=0.9)
    samples: int = Field(default=20, ge=1, le=1000)
    mirror: bool = False
    input_clip: float = Field(default=5.0, gt=0.0)
    epochs: int = Field(default=5, ge=1, le=10_000)
    chunk_bars: int = Field(default=252, ge=2, le=100_000)
    batch_bars: int = Field(default=2016, ge=2)
    learning_rate: float = Field(default=1e-3, gt=0.0, le=1.0)
    warmup_frac: float = Field(default=0.1, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.05, ge=0.0)
    clip_norm: float = Field(default=1.0, gt=0.0)
    return_weight: float = Field(default=0.1, ge=0.0)
    validation_frac: float = Field(default=0.15, ge=0.0, le=0.5)
    patience: int = Field(default=3, ge=1)
    max_seconds: float | None = Field(default=None, gt=0.0)
    refit: bool = False
    warm_start: bool = False
    device: Literal["cpu", "cuda"] = "cpu"
    seed: int = Field(default=7, ge=0, le=2**31 - 1)

    def identity_hash(self) -> str:
        """Return a hash of every setting that can change a result: all of them."""
        return self.content_hash()


class TransformerConfig(DeepConfig):
    """Causal transformer with sliding-window attention.

    Parameters
    ----------
    heads : int
        Attention heads; must divide d_model.
    layers : int
        Blocks one above the other.
    reach_bars : int
        Tokens that an answer may look at, its own included; each layer sees its share of them.
    feedforward : int
        Hidden width of a block's feed-forward part.
    """

    kind: ClassVar[str] = "transformer"

    heads: int = Field(default=4, ge=1)
    layers: int = Field(default=3, ge=1, le=64)
    reach_bars: int = Field(default=128, ge=2, le=4096)
    feedforward: int = Field(default=256, ge=1)

    @model_validator(mode="after")
    def _check(self) -> TransformerConfig:
        _check_heads(self.d_model, self.heads)
        if self.reach_bars <= self.layers:
            raise ValueError(
                f"reach_bars must be above the number of layers ({self.layers}), "
                f"was {self.reach_bars}"
            )
        return self

    @property
    def window(self) -> int:
        """Tokens that one layer's attention sees, its own included."""
        return (self.reach_bars - 1) // self.layers + 1


class LSTMConfig(DeepConfig):
    """Long short-term memory, the plain baseline.

    The defaults were chosen on 2023 alone (fitted to September, looked at from October on).

    Parameters
    ----------
    layers : int
        Recurrent layers one above the other.
    period_bars : int
        A state starts anew at every absolute multiple of so many slots and answers in the second
        of its two periods: that makes its memory finite.
    """

    kind: ClassVar[str] = "lstm"

    d_model: int = Field(default=64, ge=4, le=2048)
    epochs: int = Field(default=8, ge=1, le=10_000)
    batch_bars: int = Field(default=1024, ge=2)
    layers: int = Field(default=1, ge=1, le=16)
    period_bars: int = Field(default=128, ge=2, le=4096)


class TFTConfig(DeepConfig):
    """Temporal Fusion Transformer (Lim et al., 2021).

    Parameters
    ----------
    heads : int
        Heads of the interpretable attention; must divide d_model.
    lstm_layers : int
        Layers of the sequence encoder.
    period_bars : int
        A state starts anew at every absolute multiple of so many slots and answers in the second
        of its two periods; attention looks back to its start.
    quantiles : tuple of float
        Quantiles of the return that the model answers beside the probability, ascending.
    quantile_weight : float
        Weight of the pinball loss beside the cross-entropy of the sign.
    """

    kind: ClassVar[str] = "tft"

    d_model: int = Field(default=32, ge=4, le=2048)
    heads: int = Field(default=4, ge=1)
    lstm_layers: int = Field(default=1, ge=1, le=16)
    period_bars: int = Field(default=64, ge=2, le=4096)
    quantiles: tuple[float, ...] = (0.1, 0.5, 0.9)
    quantile_weight: float = Field(default=0.1, ge=0.0)

    @model_validator(mode="after")
    def _check(self) -> TFTConfig:
        _check_heads(self.d_model, self.heads)
        levels = self.quantiles
        if list(levels) != sorted(set(levels)) or any(not 0 < level < 1 for level in levels):
            raise ValueError(f"quantiles must ascend within (0, 1), were {levels}")
        return self


def _check_heads(d_model: int, heads: int) -> None:
    if d_model % heads:
        raise ValueError(f"heads must divide d_model ({d_model}), was {heads}")
