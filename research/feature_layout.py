"""The table of a run's features, and where kernels find and put things for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from catalog.arrays import Float64Array, Int64Array
from catalog.errors import ConfigError
from research import kernel_tools, kernels
from research.feature_config import FeatureConfig
from research.feature_table import (
    BASE_FEATURES,
    CODE_FEATURE,
    FUNDING_FEATURES,
    LEAD_FEATURES,
    PEER_FEATURES,
    Feature,
    ratio_feature,
)
from research.group_drivers import GroupLayout
from research.groups.registry import first_columns, groups_of
from research.inputs import not_one_of
from research.kernel_cache import source_hash
from research.panel_series import PanelNeeds


def feature_table(config: FeatureConfig) -> tuple[Feature, ...]:
    """Return the features of a run in the order of their columns."""
    table = BASE_FEATURES
    if config.funding:
        table += FUNDING_FEATURES
    if config.lead is not None:
        table += LEAD_FEATURES
    if config.peers:
        table += PEER_FEATURES
    table += tuple(ratio_feature(first, second) for first, second in config.ratios)
    for group in groups_of(config):
        table += group.features()
    if config.instrument_code:
        table += (CODE_FEATURE,)
    return table


def panel_needs(config: FeatureConfig) -> PanelNeeds:
    """Return what a panel must hold for these features beside bars: for `load_panel`."""
    from research.groups import slow

    fear_greed = () if config.fear_greed is None else (config.fear_greed,)
    return PanelNeeds(
        funding=config.funding,
        flow=config.flow,
        minutes=config.path,
        onchain=() if config.onchain is None else ((config.onchain, slow.METRICS),),
        indices=(*config.dvol, *fear_greed),
        news=config.news,
        history_ns=slow.HISTORY_NS,
        funding_history_ns=slow.FUNDING_HISTORY_NS if config.funding_terms else 0,
    )


def feature_table_hash(config: FeatureConfig) -> str:
    """Return the SHA-256 of what decides a feature's value: settings, table, kernels' sources."""
    table = [asdict(feature) for feature in feature_table(config)]
    groups = {group.name: source_hash(*group.sources) for group in groups_of(config)}
    parts = [config.model_dump(mode="json"), table, source_hash(kernels, *kernels.SOURCES), groups]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the kernel finds and puts things for one configuration."""

    names: tuple[str, ...]
    settings: Int64Array
    ratios: Int64Array
    count: int
    groups: tuple[GroupLayout, ...]

    @classmethod
    def of(cls, instruments: Sequence[str], interval_ns: int, config: FeatureConfig) -> Layout:
        """Lay out the columns in the order of `feature_table`."""
        for name in (config.lead, *(name for pair in config.ratios for name in pair)):
            if name is not None and name not in instruments:
                raise ConfigError(not_one_of("feature", name, instruments))
        names = tuple(feature.name for feature in feature_table(config))
        settings = np.full(kernels.SETTINGS, kernel_tools.NEVER, dtype=np.int64)
        for place, first in (
            (kernels.FUNDING_AT, FUNDING_FEATURES[0].name),
            (kernels.LEAD_AT, LEAD_FEATURES[0].name),
            (kernels.PEERS_AT, PEER_FEATURES[0].name),
            (kernels.CODE_AT, CODE_FEATURE.name),
        ):
            if first in names:
                settings[place] = names.index(first)
        if config.lead is not None:
            settings[kernels.LEAD] = instruments.index(config.lead)
        settings[kernels.RATIO_COUNT] = len(config.ratios)
        if config.ratios:
            settings[kernels.RATIOS_AT] = names.index(ratio_feature(*config.ratios[0]).name)
        codes = [instruments.index(name) for pair in config.ratios for name in pair]
        uses = groups_of(config)
        groups = tuple(
            GroupLayout.of(use, instruments, interval_ns, first)
            for use, first in zip(uses, first_columns(uses, names), strict=True)
        )
        return cls(names, settings, np.array(codes, dtype=np.int64), len(instruments), groups)

    def arrays(self) -> tuple[Float64Array, Int64Array]:
        """Return the state of instruments about which nothing is known."""
        floats = np.zeros((self.count, kernels.FLOATS))
        return floats, np.full((self.count, kernels.INTS), kernel_tools.NEVER, dtype=np.int64)

    def scratch_arrays(self) -> tuple[Int64Array, Float64Array, Float64Array]:
        """Return room for what the kernel needs within one step."""
        shared = np.zeros(kernels.RATIO_VALUES + len(self.ratios) // 2)
        return np.zeros(self.count, dtype=np.int64), np.zeros((self.count + 1, 5)), shared
