"""Judges of completions: models behind an endpoint, classifiers."""
