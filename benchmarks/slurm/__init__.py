"""GridMap on a real Slurm, beside its peers."""
