"""Functions of the process: signals, several processes, memory, files, caches, the terminal."""
