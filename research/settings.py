"""What a model is and how it is tested: everything that decides it, and the identity of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from catalog.config import Config
from research.calibration import CalibrationConfig
from research.feature_layout import feature_table
from research.features import WARMUP_BARS, FeatureConfig, feature_table_hash, panel_needs
from research.fusion import FusionConfig
from research.guidance import ThresholdConfig
from research.labels import LabelConfig
from research.metrics import BootstrapConfig
from research.models.deep.sequences import Memory
from research.models.registry import ExpertsConfig
from research.panel_series import NEWS_PREFIX, PanelNeeds
from research.predictions import PredictorSpec, hash_parts
from research.splits import ValidationConfig
from research.staleness import StalenessConfig, flat_limits

if TYPE_CHECKING:
    from collections.abc import Sequence


class WalkForwardConfig(Config):
    """Everything that decides what a model is, how it is tested and how that is measured.

    Parameters
    ----------
    features, label, experts, calibration, fusion, staleness : Config
        What the model sees, what it predicts, who predicts it, and how their answers become one
        probability.
    thresholds : ThresholdConfig
        How the entry threshold that a prediction carries is found.
    holdout_frac : float
        Last fraction of a training span, in time, on which experts that are fitted once are
        calibrated and the fusion is chosen. Not used where one expert of rows stands alone.
    half_life_days : float, optional
        Training rows count half as much for every so many days of age. None: all the same.
    validation : ValidationConfig
        Folds; its scheme, train_bars, embargo and min_train_rows also decide what one model
        (`train_until`) is trained on.
    bootstrap : BootstrapConfig
        Intervals of the metrics.
    threads : int
        How many fits and other steps run beside one another, each on one thread. No result
        depends on it (tested), which is why it is no part of a model's identity.
    """

    features: FeatureConfig = FeatureConfig()
    label: LabelConfig
    experts: ExpertsConfig = ExpertsConfig()
    calibration: CalibrationConfig = CalibrationConfig()
    fusion: FusionConfig = FusionConfig()
    staleness: StalenessConfig = StalenessConfig()
    thresholds: ThresholdConfig = ThresholdConfig()
    holdout_frac: float = Field(default=0.12, gt=0.0, le=0.5)
    half_life_days: float | None = Field(default=None, ge=1.0)
    validation: ValidationConfig
    bootstrap: BootstrapConfig = BootstrapConfig()
    threads: int = Field(default=2, ge=1, le=256)


def predictor_spec(
    config: WalkForwardConfig,
    instruments: Sequence[str],
    interval_ns: int,
    model_version: str | None = None,
) -> PredictorSpec:
    """Return the identity of the predictor that a configuration describes, apart from any data.

    Parameters
    ----------
    config : WalkForwardConfig
        Settings; the number of threads and the bootstrap do not count.
    instruments : sequence of str
        In the panel's order.
    interval_ns : int
        Length of a bar.
    model_version : str, optional
        Written on every prediction; derived from the identity if absent.
    """
    fusing: tuple[object, ...] = (
        config.fusion.content_hash(),
        config.staleness.content_hash(),
        config.holdout_frac,
        config.half_life_days,
    )
    names = [feature.name for feature in feature_table(config.features)]
    limits = flat_limits(names, config.staleness, interval_ns)
    if limits != config.staleness.flat_bars:  # the limits of the slow inputs' kinds decide, too
        fusing += (sorted(limits.items()),)
    parts = {
        "features": feature_table_hash(config.features),
        "label": config.label.content_hash(),
        **{f"expert {name}": one for name, one in config.experts.identity_hashes().items()},
        "calibration": config.calibration.content_hash(),
        "fusion": hash_parts({str(at): str(part) for at, part in enumerate(fusing)}),
        "thresholds": config.thresholds.content_hash(),
        "validation": config.validation.content_hash(),
    }
    identity = hash_parts({**parts, "instruments": ",".join(instruments), "bar": str(interval_ns)})
    needs = panel_needs(config.features)
    reach = max(reach_bars(one) for one in config.experts.chosen().values())
    return PredictorSpec(
        instruments=tuple(instruments),
        interval_ns=interval_ns,
        horizon_bars=config.label.horizon_bars,
        warmup_bars=WARMUP_BARS + reach,
        model_version=model_version or f"walkforward-{identity[:12]}",
        uses_funding=config.features.funding,
        spec_hash=identity,
        parts=tuple(sorted(parts.items())),
        series=series_names(needs),
        uses_flow=needs.flow,
        uses_minutes=needs.minutes,
    )


def series_names(needs: PanelNeeds) -> tuple[str, ...]:
    """Return the names of the slow series that features look at, as a panel holds them."""
    onchain = [f"onchain.{name}.{metric}" for name, metrics in needs.onchain for metric in metrics]
    indices = [f"index.{name}" for name in needs.indices]
    return (*onchain, *indices, *(f"{NEWS_PREFIX}{name}" for name in needs.news))


def reach_bars(settings: Config) -> int:
    """Return the bars of history beyond the features' own that an expert of these settings needs.

    An expert that is fitted says it itself; here it is asked of the settings alone.
    """
    period: int | None = getattr(settings, "period_bars", None)
    if period is not None:
        return Memory(phases=2, reach=2 * period - 1, period=period).reach_bars
    return int(getattr(settings, "reach_bars", 0))
