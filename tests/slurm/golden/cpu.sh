#!/bin/bash

# Parameters
#SBATCH --array=0-1000%64
#SBATCH --cpus-per-task=4
#SBATCH --error=/shared/results/launches/20260102-030405/%A_%a_0_log.err
#SBATCH --job-name=bnnbench-20260102-030405
#SBATCH --mem=8G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/results/launches/20260102-030405/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=120

# setup
export BNNBENCH_TIME_LIMIT_MIN=120
export OMP_NUM_THREADS=4
export MKL_NUM_THREADS=4
export PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/results/launches/20260102-030405/%A_%a_%t_log.out --error /shared/results/launches/20260102-030405/%A_%a_%t_log.err --cpus-per-task=4 /opt/venv/bin/python -u -m submitit.core._submit /shared/results/launches/20260102-030405
