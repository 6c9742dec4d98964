"""The experts: one file per model family.

lightgbm_expert   boosted trees over the feature table, one model for all instruments
packed_trees      their trees laid out for scoring many rows, in `tree_kernels`
logistic          the reference that any expert must beat
"""
