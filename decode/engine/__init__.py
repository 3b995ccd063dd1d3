"""The core: logits of three models in, tokens out. Touches no model, file or network."""
