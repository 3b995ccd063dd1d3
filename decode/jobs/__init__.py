"""A job on disk and in processes: folder, files, lock, interruption, faults, processes."""
