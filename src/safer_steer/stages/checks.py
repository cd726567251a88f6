"""Why a stage would not start, as far as the config alone tells. `table.py` lists which checks are which
stage's; the preflight ends at the first line, and `--dry-run` shows all.

A check returns the line for the user, or "". One that loads something may also raise `UserError`.
"""

from __future__ import annotations

from collections.abc import Callable

from safer_steer.config import Config, same_model
from safer_steer.config.bench import STEER
from safer_steer.config.named import load_named
from safer_steer.dialogue import Kind
from safer_steer.student import processes
from safer_steer.student.policy import maker_of
from safer_steer.training.draws import too_few_seeds

USER_TURN_TOKENS = 60
"""Tokens of a user turn with its scaffolding, from the usual length in scripts."""


def something_to_assemble(config: Config) -> str:
    """`steer` among the suites needs a source for it."""
    if STEER not in config.bench.suites or any(source.use == "bench" for source in config.seeds.sources):
        return ""
    return (
        f"bench.suites: `{STEER}` means the suites that this run assembles; it needs a source with"
        " `use: bench` and the section `assembly`"
    )


def something_to_train_on(config: Config) -> str:
    """Kinds and sources must allow STEER-SFT and STEER-RL at all."""
    if config.assembly is None:
        return ""
    if config.seeds.sources and all(source.use == "bench" for source in config.seeds.sources):
        return (
            "seeds.sources: all have `use: bench`, so there is nothing to train on; add a source for"
            " training, or run only `seeds` and `assemble`"
        )
    shares = {"rl.benign_share": config.rl.benign_share}
    if config.assembly.sft_benign_share is not None:
        shares["assembly.sft_benign_share"] = config.assembly.sft_benign_share
    kinds = {kind is Kind.BENIGN for kind in config.seeds.kinds}
    for key, share in shares.items():
        if (share > 0 and True not in kinds) or (share < 1 and False not in kinds):
            missing = "risky" if share < 1 and False not in kinds else "benign"
            return (
                f"{key}: a share of {share} needs {missing} scripts, but seeds.kinds is"
                f" {', '.join(config.seeds.kinds)}; change one of them"
            )
    return ""


def enough_seeds(config: Config) -> str:
    """`rl.seeds` must fill a step."""
    return too_few_seeds(config.rl, config.rl.seeds)


def even_sft_steps(config: Config) -> str:
    """SFT's batch must be a number of micro-batches on each of this launch's processes."""
    sft = config.bootstrap.sft
    return processes.uneven(sft.batch_size, sft.micro_batch_size, "bootstrap.sft.micro_batch_size")


def even_rl_steps(config: Config) -> str:
    """And so must a step's trajectories. DPO fits its own batches."""
    rl = config.rl
    if not rl.traits.online:
        return ""
    trajectories = rl.prompts_per_step * rl.group_size
    return processes.uneven(trajectories, rl.micro_batch_size, "rl.micro_batch_size")


def one_process(config: Config) -> str:
    """Some algorithms train in one process."""
    if config.rl.traits.one_process and processes.count() > 1:
        return f"rl.algorithm: {config.rl.algorithm} trains in one process; start `rl` without torchrun"
    return ""


def own_code(config: Config) -> str:
    """A tutor and a reward of one's own must be there. Raises `UserError`."""
    for key, name in (("rl.tutor", config.rl.tutor), ("rl.reward", config.rl.reward)):
        if name:
            load_named(key, name)
    return ""


def engine(config: Config) -> str:
    """An engine of one's own must be there, and the addresses of servers be some. Raises `UserError`.

    Those of the table are installed, and would load torch. The servers are asked when their stage begins:
    only then is there the model that they are to serve.
    """
    rollouts = config.rl.rollouts
    if maker_of(rollouts.engine) == rollouts.engine:
        load_named("rl.rollouts.engine", rollouts.engine)
    if rollouts.engine == "vllm":
        from safer_steer.student.vllm_server import Server

        for url in rollouts.base_url:
            Server(url, rollouts)
    return ""


def weights_can_be_sent(config: Config) -> str:
    """The weights in training must be such as can be sent to the servers. Raises `UserError`."""
    if config.rl.rollouts.engine == "vllm" and config.rl.traits.online:
        from safer_steer.student.vllm_weights import refuse_full_weights

        refuse_full_weights(config.student, config.rl.rollouts)
    return ""


def measurable_gates(stage: str) -> Callable[[Config], str]:
    """Each gate of this stage must be able to have a value."""

    def check(config: Config) -> str:
        from safer_steer.report.health.gates import not_measurable

        return not_measurable(config, stage) if config.gates else ""

    return check


def before_rl(config: Config) -> str:
    """What to know before Stage III: warnings, with "; also: " between them."""
    return "; also: ".join(filter(None, (room_for_turns(config), another_judge(config))))


def another_judge(config: Config) -> str:
    """A warning if the audit asks the tutor's own model."""
    audit = config.rl.audit
    if audit is None or config.rl.tutor:
        return ""
    tutor, second = config.role("tutor"), config.role(audit.role)
    if not (tutor.remote and second.remote and same_model(tutor.model, second.model)):
        return ""
    return (
        f"rl.audit.role: {audit.role} is the tutor's model ({tutor.model}), which errs as the tutor does;"
        f" name another model in roles.{audit.role}, or another role"
    )


def room_for_turns(config: Config) -> str:
    """A warning with the tokens needed if the longest trajectory may exceed `rl.max_completion_tokens`.

    A trajectory that runs out of context has no return, so late turns after long answers would never be
    trained.
    """
    rl, student = config.rl, config.student
    turns = 1 if rl.single_turn else min(rl.max_turns, config.seeds.max_turns)
    needed = turns * (student.max_turn_tokens + 1) + (turns - 1) * USER_TURN_TOKENS
    if needed <= rl.max_completion_tokens:
        return ""
    fitting = (rl.max_completion_tokens - (turns - 1) * USER_TURN_TOKENS) // turns - 1
    return (
        f"{turns} answers of {student.max_turn_tokens:,} tokens and the user turns between them may need"
        f" {needed:,} tokens, more than rl.max_completion_tokens = {rl.max_completion_tokens:,};"
        " a trajectory that runs out of tokens has no return; raise rl.max_completion_tokens,"
        f" or lower student.max_turn_tokens to {max(fitting, 1):,}"
    )
