"""The commands: one module for each, from flags to one call of the library."""
