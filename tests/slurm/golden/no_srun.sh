#!/bin/bash

# Parameters
#SBATCH --cpus-per-task=2
#SBATCH --error=/shared/results/launches/20260102-030405/%j_0_log.err
#SBATCH --job-name=bnnbench-20260102-030405
#SBATCH --mem=1536M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/results/launches/20260102-030405/%j_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@20
#SBATCH --time=1

# setup
export BNNBENCH_TIME_LIMIT_MIN=1
export OMP_NUM_THREADS=2
export MKL_NUM_THREADS=2
export PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
/opt/venv/bin/python -u -m submitit.core._submit /shared/results/launches/20260102-030405
