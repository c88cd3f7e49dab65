"""A run: the supervisor and its workers, progress, and where the rows come from."""
