"""GridMap on a real Grid Engine or Slurm."""
