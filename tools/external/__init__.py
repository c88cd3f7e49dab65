"""Libraries that do not install beside the pins: scripts to measure them in an environment of their own."""
