#!/bin/bash

# Parameters
#SBATCH --account=0123
#SBATCH --array=0-11%8
#SBATCH --constraint='a100&ib'
#SBATCH --cpus-per-task=16
#SBATCH --error=/shared/results/launches/20260102-030405/%A_%a_0_log.err
#SBATCH --exclude='node[1-3]'
#SBATCH --exclusive
#SBATCH --gpus-per-node=a100:2
#SBATCH --job-name=bnnbench-20260102-030405
#SBATCH --mail-type=END,FAIL
#SBATCH --mail-user=me@example.org
#SBATCH --mem=64000M
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/shared/results/launches/20260102-030405/%A_%a_0_log.out
#SBATCH --partition=boost_usr_prod
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR1@300
#SBATCH --time=1440
#SBATCH --wckey=project

# setup
export BNNBENCH_TIME_LIMIT_MIN=1440
export OMP_NUM_THREADS=16
export MKL_NUM_THREADS=16
export PYTHONUNBUFFERED=1
export SUBMITIT_PREEMPT_SIGNAL=USR1
module load cuda/12.4
export DATA="$SCRATCH/my data"

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output /shared/results/launches/20260102-030405/%A_%a_%t_log.out --error /shared/results/launches/20260102-030405/%A_%a_%t_log.err --cpus-per-task=16 --mpi=none singularity exec --nv 'my image.sif' python -u -m submitit.core._submit /shared/results/launches/20260102-030405
