"""Studies: lists of runs, each a config with overrides and a seed, and what is left of them to do."""
