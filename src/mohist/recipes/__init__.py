"""Whole pipelines: from weights, possibly random, to a model that reasons, and the proof that it does."""
