"""From stored data to a versioned, calibrated predictor, and the proof of what it is worth.

Importing this package imports none of its parts: a live process needs `predictor` alone, and
neither numba nor LightGBM's package.

panel            the bars and the funding of a run; `load_panel`
feature_table    the features that exist
kernels          one step of all features: plain Python that numba can compile
kernel_cache     its compiled form, never stale
features         two drivers of that step: `compute_features`, `FeatureStream`
labels           what is foretold, the span it looks at, weights for overlap
lookahead        the proof that nothing looks ahead
perturbations    the other futures which that proof needs
splits           walk-forward folds, purged and embargoed
models           the experts, one file each
calibration      probabilities that mean what they say
training         one fit, from a panel to a calibrated model
walkforward      fold after fold, out of sample
bundle           a fitted predictor as a folder: save, load, verify
predictions      the interface to strategies; predictions kept in a table
predictor        a bundle that predicts bar by bar: the door for strategies
estimates        a figure with its interval
metrics          what predictions are worth
performance      what trades are worth
trading_details  further figures of trades
benchmarks       buy-and-hold, held at the strategy's own costs
references       what the tearsheet is compared with
"""
