"""Figures: rows become the data of a figure, and that becomes a drawing."""
