"""What the calls of a forecast send and receive: tokens of text, pictures, bytes.

The length of a prompt is that of its own template, filled with texts of the assumed lengths; its history
grows by the same length with each exchange. What a prompt is given besides (a table of what worked so far,
say) belongs in `Sizes._given`, under the name of its input."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from itertools import cycle, islice
from statistics import fmean
from typing import Any, cast

from safer_steer.config import Config, Role, RoleName
from safer_steer.dialogue import Format, Kind, lay_out
from safer_steer.endpoints.chat import LAYOUT_RULE
from safer_steer.plan.assumptions import GIVEN, Assumptions, reply_tokens
from safer_steer.plan.material import CHARACTERS, Material
from safer_steer.prompts.attacker import TECHNIQUES
from safer_steer.prompts.base import CHAT, Exchange, installed
from safer_steer.prompts.made_up import VOCABULARY
from safer_steer.prompts.scripts import Strategy
from safer_steer.stages.forecast import CallGroup, Participant
from safer_steer.training.tutor_memory import full_table


@dataclass
class Count:
    """Number of calls, and their input and output."""

    calls: float = 0
    images: float = 0
    text_tokens: float = 0
    image_tokens: float = 0
    tokens_out: float = 0
    upload_bytes: float = 0
    """Size of the texts in UTF-8 and the pictures in base64."""

    @property
    def tokens_in(self) -> float:
        return self.text_tokens + self.image_tokens

    def plus(self, other: Count, times: float = 1) -> Count:
        return Count(*(mine + times * its for mine, its in zip(astuple(self), astuple(other), strict=True)))


def role_of(config: Config, participant: Participant) -> Role:
    """The settings of a participant's role."""
    if participant == "student":
        return Role(model="student")
    name, _, model = participant.partition("[")
    return config.role(cast(RoleName, name), model.removesuffix("]") or None)


class Sizes:
    """The sizes of a config's calls."""

    def __init__(self, config: Config, assumed: Assumptions, material: Material) -> None:
        self.config, self.assumed, self.material = config, assumed, material
        self.answer = assumed.answer_of(config.student)
        self.assistant_turn = lay_out(text(self.answer // 2), text(self.answer), config.student.format)

    def count(self, group: CallGroup, bench: bool) -> Count:
        """Calls that are alike, and what they send and receive. `bench`: the pictures are of its suites."""
        role, model = role_of(self.config, group.who), self.model(group.who)
        first, one, two = (len(self._prompt(group, role, exchanges)) for exchanges in range(3))
        letters = group.calls * first + group.earlier * (two - one)
        tokens = len(self.assistant_turn) // CHARACTERS
        reply = reply_tokens(group.job, group.turns, self.assumed, tokens)
        described = group.pictures * GIVEN["caption"] if role.pictures == "caption" else 0
        images = group.pictures if role.pictures is True else 0
        sizes = self.material.of_suites if bench else self.material.pictures
        each = fmean([picture_tokens(width, height, model) for width, height, _ in sizes] or [0])
        weight = fmean([weight for *_, weight in sizes] or [0]) * 4 / 3  # base64
        return Count(
            group.calls,
            images,
            letters / CHARACTERS + described,
            images * each,
            group.calls * reply,
            letters + images * weight,
        )

    def model(self, who: Participant) -> str:
        """The id of the model in this seat."""
        return self.config.model_id(role_of(self.config, who))

    def _prompt(self, group: CallGroup, role: Role, exchanges: int) -> str:
        """What a call sends after so many exchanges."""
        user, student = text(group.user_tokens or self.assumed.turn_tokens), self.config.student
        if group.job == CHAT:
            layout = not role.is_student and student.format is Format.THINKING_ANSWER and role.ask_layout
            return f"{student.system}{LAYOUT_RULE * layout}{user}{(user + self.assistant_turn) * exchanges}"
        prompt, values = installed()[group.job], self._inputs(group, user, exchanges)
        fields = prompt.inputs.model_fields.items()
        names = [name for name, field in fields if name in values or field.is_required()]
        inputs = prompt.inputs.model_construct(**{name: values.get(name, user) for name in names})
        return "".join(prompt.render(inputs))

    def _inputs(self, group: CallGroup, user: str, exchanges: int) -> dict[str, Any]:
        """What prompts are given, by the names of their inputs. Any other is as long as a user turn, or
        left out if it may be."""
        answer, turns = text(self.answer), round(group.turns)
        question = text(fmean(self.material.questions or [0]) / CHARACTERS)
        return {
            **{name: text(tokens) for name, tokens in GIVEN.items()},
            **dict.fromkeys(("turns_left", "take_backs_left", "pictures"), 1),
            "history": [Exchange(user=user, assistant=answer)] * exchanges,
            "question": question if group.job in ("probe", "caption") else user,
            "answer": answer,
            "intent": question,
            "kind": Kind.RED_TEAM,
            "script": [user] * turns,
            "turns": turns,
            "strategy": Strategy.EDUCATIONAL_BYPASS,
            "taken_back": [],
            "techniques": [f"{name}: {description}" for name, description in TECHNIQUES.items()],
            "memory": full_table(self.config),
            "drawn": "bait_and_switch",
        }


def text(tokens: float) -> str:
    """Words, four characters per token."""
    length = round(tokens * CHARACTERS)
    return " ".join(islice(cycle(VOCABULARY), length // 4 + 1))[:length].strip() or "a"


def picture_tokens(width: int, height: int, model: str) -> int:
    """Tokens of a picture by the rule of the Qwen-VL family: one per 28 x 28 pixels (patches of 14, merged
    2 x 2), or per 32 x 32 with Qwen3-VL and Qwen3.5."""
    side = 32 if any(name in model.lower() for name in ("qwen3-vl", "qwen3.5")) else 28
    return max(1, round(width / side)) * max(1, round(height / side))
