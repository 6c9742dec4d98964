"""The experts: one file per model family, all under one contract (`research.experts`).

registry           the kinds there are: their settings, how each is fitted and loaded
contract           checks and files that all of them share
lightgbm_expert    boosted trees over the feature table: settings and fits
lightgbm_batches   rows handed to LightGBM batch by batch
lightgbm_serving   a fitted model of trees, asked without the lightgbm package
lightgbm_library   LightGBM's shared library through its C interface
packed_trees       trees laid out for scoring many rows, in `tree_kernels`
deep               sequence models: transformer, temporal fusion transformer, LSTM
sentiment          news alone, their strength learned
heuristic          a rule that needs no training
logistic           the reference that any expert must beat
"""
