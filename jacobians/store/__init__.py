"""Derivatives larger than memory, on the disk, here or over a cluster."""
