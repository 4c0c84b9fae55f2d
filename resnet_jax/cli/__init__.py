"""The commands: one module per command, which turns flags into a call of the library."""
