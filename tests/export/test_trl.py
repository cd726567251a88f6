"""TRL takes the export as it is: the tokens are those that this package trains on, and an SFT step runs."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
from trl import SFTConfig, SFTTrainer
from trl.data_utils import is_conversational, prepare_multimodal_messages

from safer_steer.config.file import load_config
from safer_steer.data.assembly.splits import read_split
from safer_steer.dialogue import read_dialogues
from safer_steer.files.images import pictures_in
from safer_steer.student.assistant import open_images
from safer_steer.student.transcript import Transcript
from safer_steer.training.sft import Collator


@pytest.fixture(scope="module")
def made(exported):
    """The run, its config, and its sft and rl rows as `datasets` loads them."""
    rows = {
        part: datasets.load_dataset(str(exported / "export"), part, cache_dir=str(exported.parent))["train"]
        for part in ("sft", "rl")
    }
    return exported, load_config(exported / "config.yaml"), rows


def rendered(student, said, images, generation: bool) -> list[int]:
    """Ids by the processor's own chat template, as TRL's collator and GRPO trainer make them."""
    prepared = prepare_multimodal_messages(said, images)
    processor = student.renderer.processor
    options = {"tokenize": True, "return_dict": True, "add_generation_prompt": generation}
    output = processor.apply_chat_template([prepared], **options)
    return list(output["input_ids"][0])


def test_sft_tokens_are_those_of_our_own_training(made, student):
    run, config, rows = made
    kept = read_dialogues(run / "bootstrap" / "kept.jsonl")
    collator = Collator(kept, student.renderer, Path(run), config)
    newline = student.renderer.plain("x\ny")[1:2]
    for row, dialogue in zip(rows["sft"], kept, strict=True):
        assert is_conversational(row)
        if not dialogue.id.startswith("hostile"):
            assert (
                rendered(student, row["messages"], row["images"], generation=False)
                == collator.transcript(dialogue).ids + newline
            )
        ids = rendered(student, row["messages"], row["images"], generation=False)
        ends = ids.count(student.renderer.end)
        assert ends == 1 + 2 * len(dialogue.turns), "no turn of a hostile dialogue closes itself"
        image_token = student.model.config.image_token_id
        assert ids.count(image_token) == collator.transcript(dialogue).ids.count(image_token)


def test_rl_prompts_are_those_of_our_own_rollouts(made, student):
    run, config, rows = made
    pictures_of = pictures_in(run, config.student.max_pixels)
    for row, seed in zip(rows["rl"], read_split(run, "rl"), strict=True):
        assert is_conversational({"prompt": row["prompt"]})
        transcript = Transcript(student.renderer)
        transcript.add_user(seed.script[0], open_images(pictures_of(seed.images)))
        assert rendered(student, row["prompt"], row["images"], generation=True) == transcript.prompt_ids


def test_an_sft_step_of_trl_runs_on_it(made, student, tmp_path):
    _, _, rows = made
    from copy import deepcopy

    two = rows["sft"].filter(lambda row: len(row["images"]) == 1).select(range(2))
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=2,
        max_length=None,
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
    )
    model, processor = deepcopy(student.model), student.renderer.processor
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=two, processing_class=processor)
    done = trainer.train()
    assert done.global_step == 1 and torch.isfinite(torch.tensor(done.training_loss))
