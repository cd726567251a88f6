#!/usr/bin/env bash
# Stage III of a run on verl 0.9.1 (docs/how-to/verl.md). The scripts beside this one say how to spread it over GPUs.
# usage: launch.sh RUN [override of verl's config...]
# RUN: a folder with `sft` finished and exported (`safer-steer export RUN`), at the same path on every node.
# MODEL: the student to start from, if not RUN/sft/model; needed with student.lora_rank, whose SFT saves an adapter:
#   safer-steer export RUN --model MODEL --which sft.  PYTHON: the Python of verl's environment.
set -euo pipefail
run=$(realpath "$1")
shift
model=${MODEL:-$run/sft/model}
refused() {
  echo "$1" >&2
  exit 2
}
if grep -qxE '  algorithm: (dpo|cotrain)' "$run/config.yaml"; then
  refused "$run/config.yaml: rl.algorithm: dpo and cotrain are not trained on verl; use \`safer-steer rl\`, or set grpo"
fi
if [[ -z ${MODEL:-} ]] && grep -qx '  start_from: base' "$run/config.yaml"; then
  refused "$run/config.yaml: rl.start_from is base, and verl starts from sft/model; name the base student in MODEL=..."
fi
if [[ -f $model/adapter_config.json ]]; then
  refused "$model is an adapter: run \`safer-steer export $run --model DIR --which sft\`, and set MODEL=DIR"
fi
mapfile -t method < "$run/export/verl/overrides.txt"
files=("$run"/export/verl/rl-*.parquet)
data=$(printf "'%s'," "${files[@]}")
data="[${data%,}]"
environment=+ray_kwargs.ray_init.runtime_env.env_vars

exec "${PYTHON:-python3}" -m verl.trainer.main_ppo \
  "${method[@]}" \
  "+algorithm.safer_steer.config='$run/config.yaml'" \
  "+algorithm.safer_steer.trajectories='$run/verl/trajectories'" \
  "$environment.VERL_USE_EXTERNAL_MODULES=safer_steer.training.verl_loop" \
  "$environment.TENSORBOARD_DIR='$run/verl/tensorboard'" \
  "data.train_files=$data" \
  "data.val_files=$data" \
  data.max_prompt_length=4096 \
  "actor_rollout_ref.model.path='$model'" \
  actor_rollout_ref.model.use_remove_padding=True \
  actor_rollout_ref.model.enable_gradient_checkpointing=True \
  actor_rollout_ref.actor.strategy=fsdp2 \
  actor_rollout_ref.actor.use_dynamic_bsz=True \
  actor_rollout_ref.rollout.name=vllm \
  actor_rollout_ref.rollout.max_num_batched_tokens=16384 \
  trainer.val_before_train=False \
  trainer.test_freq=-1 \
  trainer.logger='[console,tensorboard]' \
  "trainer.default_local_dir='$run/verl/checkpoints'" \
  trainer.resume_mode=auto \
  trainer.max_actor_ckpt_to_keep=2 \
  "$@"
