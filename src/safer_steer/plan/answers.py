"""Rule-based stub replies: valid answers for every job, texts of a given length, and attacks that succeed at
a given rate. The texts are random words."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from safer_steer.config import Config
from safer_steer.data.seeds.attempts import ATTEMPTS
from safer_steer.dialogue import Kind, lay_out
from safer_steer.plan.assumptions import ITEMS, LENGTHS, OTHER, USER_TURNS, Assumptions
from safer_steer.prompts.made_up import VOCABULARY, fill


class Answers:
    """Makes the replies of a whole estimate. It remembers which planned scripts should succeed."""

    def __init__(self, config: Config, assumed: Assumptions) -> None:
        self.config, self.assumed = config, assumed
        self._rng = random.Random("cost")
        self._times: Counter[str] = Counter()
        self._success: dict[str, int] = {}
        """A script's first turn -> the turn at which it succeeds, counted from 1; 0 for never."""

    def speak(self) -> str:
        """An assistant's turn in the student's format."""
        tokens = self.assumed.answer_of(self.config.student)
        return lay_out(self.text(tokens // 2), self.text(tokens), self.config.student.format)

    def do(self, job: str, given: Mapping[str, str], schema: dict[str, Any], repeat: int) -> str:
        """A job's answer as JSON; `given` has the sections of the prompt."""
        made = fill(schema, _Sized(self, job, given))
        if job == "plan":
            self._decide(made["turns"], repeat % ATTEMPTS)
        if job == "attack_judge":
            made["score"] = 5 if self._succeeds(given) else 2
        if job == "script_check":
            made |= {"of_kind": self._even(job) < self.assumed.keeps, "harmful": given["kind"] != Kind.BENIGN}
        if job == "turn_check":
            made["harmful"] = self._even(job) >= self.assumed.keeps
        return json.dumps(made)

    def text(self, tokens: int) -> str:
        """Random words, four characters per token."""
        words, length = [], 0
        while length < 4 * tokens:
            words.append(self._rng.choice(VOCABULARY))
            length += len(words[-1]) + 1
        return " ".join(words)[: 4 * tokens].strip() or "a"

    def _even(self, what: str, step: float = 0.618034) -> float:
        """The next number of a sequence spread evenly over [0, 1) (Kronecker sequence), so that even a small
        sample has the assumed share."""
        self._times[what] += 1
        return self._times[what] * step % 1

    def _decide(self, turns: list[dict[str, Any]], attempt: int) -> None:
        """Decide whether and where a planned script succeeds. The success share applies to each attempt
        separately."""
        succeeds = self._even(f"success {attempt}") < self.assumed.success
        place = int(self._even(f"place {attempt}", 0.414214) * len(turns))
        self._success[turns[0]["user"]] = 1 + place if succeeds else 0

    def _succeeds(self, given: Mapping[str, str]) -> bool:
        told = json.loads(given["history"])
        first = told[0]["user"] if told else given["question"]
        return self._success.get(first) == len(told) + 1


class _Sized:
    """Texts of the assumed lengths, as many turns as were asked for, and the highest scores."""

    def __init__(self, answers: Answers, job: str, given: Mapping[str, str]) -> None:
        self.answers, self.job, self.given = answers, job, given

    def text(self, field: str) -> str:
        return self.answers.text(self._length(f"{self.job}.{field}"))

    def number(self, field: str, schema: Mapping[str, Any]) -> int:
        return int(schema.get("maximum", 1))

    def flag(self, field: str) -> bool:
        return True

    def entries(self, field: str, schema: Mapping[str, Any]) -> int:
        if field == "turns" and "turns" in self.given:
            return int(self.given["turns"])
        return max(ITEMS, schema.get("minItems", 0))

    def _length(self, name: str) -> int:
        assumed, student = self.answers.assumed, self.answers.config.student
        if name in USER_TURNS:
            return assumed.turn_tokens
        answer = assumed.answer_of(student)
        return {"blue.answer": answer, "blue.thinking": answer // 2}.get(name) or LENGTHS.get(name, OTHER)
