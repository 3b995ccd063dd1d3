"""The decode stage of a recipe: the one library room here that knows recipes."""
