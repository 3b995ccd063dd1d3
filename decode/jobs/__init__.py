"""A job on disk and in processes: its folder, its lock, its interruption, its peers."""
