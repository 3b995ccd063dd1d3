"""Training rows of any source: formats, weights, duplicates of evaluation rows."""
