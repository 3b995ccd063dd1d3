"""Weights & Biases, as a mirror of what is on disk: jobs, lineage, results, a view of them."""
