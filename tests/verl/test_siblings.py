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
from safer_steer.dialogue import Dialogue, read_dialogues
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


async def group(run: Path, world: Server, folder: Path, sessions: bool) -> list[Dialogue]:
    """The trajectories of a risky script of the export; the newer trainer numbers them."""
    verl = verl_config(run / "export", write_config(run, world.url), folder)
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
        numbered = {"session_id": session, "global_steps": 1} if sessions else {}
        await loop.run({"temperature": 1.0}, extra_info=about, **numbered)
    [file] = folder.glob("*.jsonl")
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
