"""The rules, without I/O: no socket, file, clock, thread or process is touched in this room."""
