"""One HTML page of results that loads nothing."""
