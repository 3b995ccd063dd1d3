"""An OpenAI-compatible server of a steered model and of the models it is made of."""
