"""Checks of an unfinished expert: the base is proxy-tuned with it while it trains."""
