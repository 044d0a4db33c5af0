"""Jobs on Slurm or on this machine."""
