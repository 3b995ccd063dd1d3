"""Training rows: where they come from, what is left out, their tokens, what is said of them."""
