"""Pretraining of the mini family: its recipe, models, batches and loop."""
