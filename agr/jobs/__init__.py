"""A sweep: run in this process, as processes of this machine, or as jobs of Slurm."""
