"""Hyper-parameter search with Optuna: spaces as YAML, trials as run folders, a study on disk."""
