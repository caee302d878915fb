"""GridMap beside its peers on this machine, each used as its own documentation shows."""
