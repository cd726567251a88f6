"""The trajectories of a group are attacked apart on verl, too, even where the student answers all of them
alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.utils import hf_processor, hf_tokenizer
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.workers.rollout.replica import TokenOutput

from safer_steer.config import SHIPPED
from safer_steer.dialogue import Dialogue, read_dialogues, to_jsonl
from safer_steer.errors import UserError
from safer_steer.sandbox.families import approaches_of
from safer_steer.training import verl_loop
from safer_steer.training.tutor_memory import WINDOW
from safer_steer.training.verl_loop import SteerLoop
from servers import Server
from verl_parts import verl_config, write_config

K = 5


class OneAnswer:
    """In place of verl's servers: the same tokens, whatever is asked."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    async def generate(self, **_: Any) -> TokenOutput:
        return TokenOutput(token_ids=self.ids, log_probs=[0.0] * len(self.ids), extra_fields={})


async def group(
    run: Path, world: Server, folder: Path, sessions: bool, step: int = 1, **rl: Any
) -> list[Dialogue]:
    """The trajectories of a risky script of the export in a step; the newer trainer numbers them."""
    verl = verl_config(run / "export", write_config(run, world.url, **rl), folder)
    tokenizer, processor = hf_tokenizer(str(SHIPPED)), hf_processor(str(SHIPPED))
    table = pq.read_table(verl.data.train_files, columns=["extra_info"]).to_pylist()
    about = next(row["extra_info"] for row in table if row["extra_info"]["kind"] == "red_team")
    said = "<thinking>a device</thinking><answer>i cannot help with that.</answer>"
    ids = [*tokenizer.encode(said, add_special_tokens=False), tokenizer.eos_token_id]
    for session in range(K):
        loop = SteerLoop(
            trainer_config=DictConfigWrap(config=verl),
            server_manager=OneAnswer(ids),
            tokenizer=tokenizer,
            processor=processor,
            dataset_cls=RLHFDataset,
            data_config=DictConfigWrap(verl.data),
            tools=ToolListWrap([]),
        )
        numbered = {"session_id": session, "global_steps": step} if sessions else {}
        await loop.run({"temperature": 1.0}, extra_info=about, **numbered)
    [file] = folder.glob(f"{step if sessions else 0:06d}-*.jsonl")
    return read_dialogues(file)


@pytest.mark.parametrize("sessions", [True, False], ids=["newer", "older"])
async def test_equal_answers_meet_several_attacks(
    run: Path, world: Server, tmp_path: Path, sessions: bool
) -> None:
    played = await group(run, world, tmp_path / "one", sessions)
    first = [dialogue.turns[0] for dialogue in played]
    assert len(first) == K and len({turn.assistant for turn in first}) == 1
    assert len({dialogue.meta["try"] for dialogue in played}) == K
    assert len({turn.next_user for turn in first}) >= 3, "of five"
    if sessions:
        assert await group(run, world, tmp_path / "other", sessions) == played, "the same once more"


def gave_way(played: list[Dialogue], to: str) -> list[Dialogue]:
    """The trajectories ten times for each approach; to one of them the student gave way."""
    rows = []
    for approach in approaches_of("sandbox"):
        for number, dialogue in enumerate(played * 10):
            row = dialogue.model_copy(deep=True, update={"id": f"{dialogue.id}-{approach}-{number}"})
            for turn in row.turns:
                turn.scores = {"safety": 1 if approach == to else 10}
                turn.meta["approach"] = approach
            rows.append(row)
    return rows


async def test_the_tutor_remembers_what_all_workers_wrote_of_the_steps_before(
    run: Path, world: Server, tmp_path: Path
) -> None:
    verl_loop.memory_before.cache_clear()
    folder, config = tmp_path / "played", str(write_config(run, world.url, tutor_memory=True))
    first = await group(run, world, folder, True, tutor_memory=True)
    assert {turn.meta.get("approach") for one in first for turn in one.turns} > {None}
    [file] = folder.glob("000001-*.jsonl")
    file.write_text(to_jsonl(gave_way(first, "story")))
    again = folder / "000001-other-1.jsonl"  # sampled again after a resume: what was written last counts
    again.write_text(to_jsonl(gave_way(first, "before")) + '{"id": "torn')
    memory = [verl_loop.memory_before(config, str(folder), step) for step in (1, 2, 1 + WINDOW, 2 + WINDOW)]
    counts = [[one.counts(name) for name in ("before", "story")] for one in memory if one]
    assert counts == [[{}, {}], *[[{"": (10 * K, 10 * K)}, {"": (10 * K, 0)}]] * 2, [{}, {}]]
    second = await group(run, world, folder, True, step=2, tutor_memory=True)
    assert [one.turns[0].meta.get("approach") for one in second].count("before") >= 3, "of five"
    with pytest.raises(UserError, match=r"safer_steer.trajectories: rl.tutor_memory"):
        verl_loop.memory_before(config, None, 1)
    assert verl_loop.memory_before(str(write_config(run, world.url)), None, 1) is None
