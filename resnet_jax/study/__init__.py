"""Studies: lists of runs, each a config with overrides and a seed, which can be stopped and continued."""
