"""Jobs on Slurm or on the local machine."""
