"""Measuring: sweeps, the oracle, timers, rows and their storage."""
