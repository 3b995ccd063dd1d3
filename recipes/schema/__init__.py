"""The recipe, typed: sections, keys, and how a file and its overrides become them."""
