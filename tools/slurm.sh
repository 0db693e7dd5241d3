#!/bin/bash
# Pretraining on a SLURM cluster: sbatch tools/slurm.sh [preset [data set]]
# One task a node; torchrun starts one process a GPU. Stops before the time limit and queues itself again
# until the run is finished.
#SBATCH --job-name=barcodemae
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=04:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@300

preset=${1:-bioscan5m}
run=runs/slurm-$preset
trap 'echo "time is nearly up: queued again"; scontrol requeue "$SLURM_JOB_ID"' USR1

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun .venv/bin/torchrun --nnodes "$SLURM_NNODES" --nproc_per_node "$SLURM_GPUS_ON_NODE" \
    --rdzv_backend c10d --rdzv_id "$SLURM_JOB_ID" --rdzv_endpoint "$first:29500" \
    --no-python .venv/bin/barcodemae batch nbs/04_train.ipynb "$run/04_train.ipynb" \
    -p preset "$preset" ${2:+-p dataset "$2"} -p run_dir "$run" &
wait $!
