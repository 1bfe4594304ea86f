#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=1
#SBATCH --error=/shared/results/launches/20260102-030405/%j_0_log.err
#SBATCH --job-name=bnnbench-20260102-030405
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/results/launches/20260102-030405/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@100
#SBATCH --time=5

# setup
export BNNBENCH_TIME_LIMIT_MIN=5
export OMP_NUM_THREADS=1
export MKL_NUM_THREADS=1
export PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/results/launches/20260102-030405/%j_%t_log.out --error /shared/results/launches/20260102-030405/%j_%t_log.err --cpus-per-task=1 /opt/venv/bin/python -u -m submitit.core._submit /shared/results/launches/20260102-030405
