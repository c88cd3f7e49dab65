"""From `sweeps.toml`, a checkpoint or a module to the problems that are measured."""
