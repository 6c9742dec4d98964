"""The experts: one file per model family.

lightgbm_expert   boosted trees over the feature table, one model for all instruments
logistic          the reference that any expert must beat
"""
