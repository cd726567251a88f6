"""Rule-based stub replies: valid answers for every job, texts of a given length, and attacks that succeed at
a given rate. The texts are random words."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from safer_steer.config import Config
from safer_steer.cost.assumptions import ITEMS, LENGTHS, OTHER, USER_TURNS, Assumptions
from safer_steer.dialogue import Kind, lay_out
from safer_steer.seeds.attempts import ATTEMPTS

VOCABULARY = (
    "about above after again along among area around begin below between bottle bridge brown carry "
    "chair circle clear close colour corner cover describe door edge engine every example field first "
    "floor following front garden glass green ground handle house inside kitchen label ladder large "
    "later letter light little machine material metal middle morning nothing number object often other "
    "outside paper people picture place please point question reason right river second should shown "
    "simple small something stand station step still stone street surface table their there these thing "
    "though through together tools tower under until upper usually water wheel where which while window "
    "without wooden would write yellow"
)
"""Enough words that the duplicate check finds no two texts alike."""


class Answers:
    """Makes the replies of a whole estimate. It remembers which planned scripts should succeed."""

    def __init__(self, config: Config, assumed: Assumptions) -> None:
        self.config, self.assumed = config, assumed
        self._rng = random.Random("cost")
        self._words = VOCABULARY.split()
        self._times: Counter[str] = Counter()
        self._success: dict[str, int] = {}
        """A script's first turn -> the turn at which it succeeds, counted from 1; 0 for never."""

    def speak(self) -> str:
        """An assistant's turn in the student's format."""
        tokens = self.assumed.answer_of(self.config.student)
        return lay_out(self.text(tokens // 2), self.text(tokens), self.config.student.format)

    def do(self, job: str, given: Mapping[str, str], schema: dict[str, Any], repeat: int) -> str:
        """A job's answer as JSON; `given` has the sections of the prompt."""
        made = self._value(schema, schema.get("$defs", {}), job, "", given)
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
            words.append(self._rng.choice(self._words))
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

    def _value(
        self,
        schema: Mapping[str, Any],
        defined: Mapping[str, Any],
        job: str,
        field: str,
        given: Mapping[str, str],
    ) -> Any:
        """A value the JSON schema allows; scores are the highest possible."""
        if "$ref" in schema:
            schema = defined[schema["$ref"].rpartition("/")[2]]
        if "enum" in schema:
            return schema["enum"][0]
        kind = schema.get("type")
        if kind == "object":
            return {
                name: self._value(part, defined, job, name, given)
                for name, part in schema.get("properties", {}).items()
            }
        if kind == "array":
            items = (
                int(given["turns"])
                if field == "turns" and "turns" in given
                else max(ITEMS, schema.get("minItems", 0))
            )
            return [self._value(schema["items"], defined, job, field, given) for _ in range(items)]
        if kind in ("integer", "number"):
            return schema.get("maximum", 1)
        if kind == "boolean":
            return True
        return self.text(self._length(f"{job}.{field}"))

    def _length(self, name: str) -> int:
        if name in USER_TURNS:
            return self.assumed.turn_tokens
        answer = self.assumed.answer_of(self.config.student)
        return {"blue.answer": answer, "blue.thinking": answer // 2}.get(name) or LENGTHS.get(name, OTHER)
