"""Run folders: train, evaluate, record results."""
