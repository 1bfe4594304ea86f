"""The Slurm launcher's package. It registers under `bnnbench.launchers` when it is there; this version has none yet."""
