"""Hostile input by seed: what a command may be given, harmed, and how it has to end."""
