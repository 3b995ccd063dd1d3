"""Scored files: what verdicts and samples are worth."""
