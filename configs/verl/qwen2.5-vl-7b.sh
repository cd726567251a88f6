#!/usr/bin/env bash
# All weights of Qwen2.5-VL-7B on two nodes of 8 GPUs of 80 GB, for a run of configs/qwen2.5-vl-7b.yaml.
# Before it: `ray start --head` on the first node, `ray start --address=FIRST:6379` on the second; then this on the first.
# usage: qwen2.5-vl-7b.sh RUN [override of verl's config...]; see launch.sh. The sizes are computed, not measured.
set -euo pipefail
run=$1
shift
exec bash "$(dirname "$0")/launch.sh" "$run" \
  trainer.nnodes=2 \
  trainer.n_gpus_per_node=8 \
  +ray_kwargs.ray_init.address=auto \
  actor_rollout_ref.actor.ulysses_sequence_parallel_size=2 \
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192 \
  actor_rollout_ref.rollout.tensor_model_parallel_size=1 \
  actor_rollout_ref.rollout.gpu_memory_utilization=0.5 \
  "$@"
