#!/usr/bin/env bash
# All weights of Qwen2.5-VL-3B on one node of 8 GPUs of 80 GB, for a run of configs/qwen2.5-vl-3b-full.yaml.
# usage: qwen2.5-vl-3b.sh RUN [override of verl's config...]; see launch.sh. The sizes are computed, not measured.
set -euo pipefail
run=$1
shift
exec bash "$(dirname "$0")/launch.sh" "$run" \
  trainer.nnodes=1 \
  trainer.n_gpus_per_node=8 \
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=16384 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
  "$@"
