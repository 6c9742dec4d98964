"""From stored data to a versioned, calibrated predictor, and the proof of what it is worth.

Importing this package imports none of its parts: a live process needs `predictor` alone, and
neither numba nor LightGBM's package.

From data to features:

panel            what a run looks at; `load_panel`; panel_series, events, novelty behind it
feature_config   which features a run uses; feature_table: those that exist
kernels          one step of the base features: plain Python that numba can compile
groups           further features, one kernel each: market structure, higher intervals, other
                 instruments, regime, order flow, the path inside the bar, slow series
kernel_cache     compiled forms, never stale
features         `compute_features` in batch; feature_stream: the same bar by bar
mirror           how each feature looks in a market where every rise is a fall
smc_events       market structure as events, with both of their times
labels           what is foretold, the span it looks at, weights for overlap
lookahead        the proof that nothing looks ahead; perturbations: the other futures it needs

From features to a model:

settings         everything that decides a model; training_table: features beside labels
splits           walk-forward folds, purged and embargoed
experts          what an expert is; models: the experts, one file or folder each
calibration      probabilities that mean what they say; calibrators: the maps
fusion           several experts' answers in one; fusion_fit: how it is fitted and chosen
staleness        how old inputs may be
fitting          the steps of a fit; fitted: what comes of it; training: until a time
walkforward      fold after fold, out of sample; walkforward_result: what comes of it;
                 fold_store: folds kept as they are done
bundle           a fitted model as a folder: save, load, verify
circuit_breaker  what stands before each expert in serving
predictor        a bundle that predicts bar by bar: the door for strategies
predictions      predictions kept in a table; prediction_types: the interface to strategies

What it is worth:

estimates        a figure with its interval
metrics          what predictions are worth; comparisons: whether one is better than another
study            experts, fusions and inputs side by side
performance      what trades are worth; trading_details: further figures of trades
benchmarks       buy-and-hold, held at the strategy's own costs
references       what a model is compared with
signal_quality   a signal before it trades: information coefficient, spread, decay, turnover;
                 signal_results, signal_plots, signal_report: what comes of it
critic           what a sceptic would say of a run; critic_case, critic_evidence: its reading;
                 shuffled_signal: the same trades at other times
tearsheet        the page of a run; plots, expert_plots, report: its parts
"""
