"""Completers, one a file: models in memory, and engines and endpoints of others."""
