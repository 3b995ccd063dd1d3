"""Training rows: their sources, the rows that are left out, their tokens and their report."""
