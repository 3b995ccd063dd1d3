"""Language models as the engine steps them, alone and steered."""
