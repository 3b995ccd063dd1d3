"""Systems compared on tasks: predictions, grades, and what they show."""
