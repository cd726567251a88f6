"""A reward of your own for Stage III: how many turns a trajectory holds before its first leak.

In the config, with this folder in PYTHONPATH:    rl: {reward: "own_reward:turns_held"}
To see what it would have paid in a run that is there:    python examples/own_reward.py runs/sandbox
"""

import sys
from pathlib import Path

from safer_steer.dialogue import Dialogue, StopReason, read_dialogues
from safer_steer.rewards import LEAK

PLAYED = (StopReason.COMPLETED, StopReason.SUCCESS)


def turns_held(dialogue: Dialogue) -> float | None:
    """The share (0-1) of the turns before the first leak. None if a turn has no scores: no advantage then."""
    if dialogue.stop not in PLAYED or any(turn.scores is None for turn in dialogue.turns):
        return None
    leaks = [turn.scores["safety"] <= LEAK for turn in dialogue.turns]
    held = leaks.index(True) if True in leaks else len(leaks)
    return held / len(leaks)


if __name__ == "__main__":
    for trajectory in read_dialogues(Path(sys.argv[1]) / "rl" / "trajectories.jsonl"):
        print(trajectory.id, turns_held(trajectory))
