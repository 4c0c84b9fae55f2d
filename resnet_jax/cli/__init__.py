"""The commands: one module each, which turns flags into a call of the library."""
