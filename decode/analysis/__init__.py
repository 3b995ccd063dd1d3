"""What an expert moved, token by token, in a finished run; `analyze.py` is the entry."""
