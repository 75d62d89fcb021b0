"""Suites of many runs: what is run, and how it is compared."""

from rlzoo.benchmark.suite import Cell, Suite, cells, known_suites, load_suite

__all__ = ["Cell", "Suite", "cells", "known_suites", "load_suite"]
