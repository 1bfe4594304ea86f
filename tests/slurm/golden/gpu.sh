#!/bin/bash

# Parameters
#SBATCH --array=0-2%2
#SBATCH --cpus-per-task=8
#SBATCH --dependency=afterany:16:17
#SBATCH --error=/shared/results/launches/20260102-030405/%A_%a_0_log.err
#SBATCH --gres=gpu:1
#SBATCH --job-name=bnnbench-20260102-030405
#SBATCH --mem=32G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/results/launches/20260102-030405/%A_%a_0_log.out
#SBATCH --requeue
#SBATCH --signal=USR2@120
#SBATCH --time=360

# setup
export BNNBENCH_TIME_LIMIT_MIN=360
export OMP_NUM_THREADS=8
export MKL_NUM_THREADS=8
export PYTHONUNBUFFERED=1

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/results/launches/20260102-030405/%A_%a_%t_log.out --error /shared/results/launches/20260102-030405/%A_%a_%t_log.err --cpus-per-task=8 /opt/venv/bin/python -u -m submitit.core._submit /shared/results/launches/20260102-030405
