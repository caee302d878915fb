"""GridMap on a real Grid Engine."""
