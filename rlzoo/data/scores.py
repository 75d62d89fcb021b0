"""Normalised scores, for the layers above; the constants are in :mod:`rlzoo.core.tasks.scores`."""

from rlzoo.core.tasks.scores import normalized_score, reference, scale_of, score_digits

__all__ = ["normalized_score", "reference", "scale_of", "score_digits"]
