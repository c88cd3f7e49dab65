"""The network: its layers, activations and losses, and what is taken from torch."""
