"""Stage I.4, module 3: the red-team script, with a goal and a risk level 1-5 for every turn."""

from enum import StrEnum

from pydantic import Field

from safer_steer.prompts.base import Inputs, Prompt, Verdicts
from safer_steer.prompts.rewrite import Strategy


class Escalation(StrEnum):
    YES_LADDERING = "yes_laddering"
    SUNK_COST = "sunk_cost"
    GRADUAL = "gradual_escalation"
    HYPOTHETICAL_TO_ACTIONABLE = "hypothetical_to_actionable"
    NARROWING = "narrowing"
    REFRAMING = "reframing"


class PlanInput(Inputs):
    rewrite: str
    intent: str
    caption: str
    strategy: Strategy
    turns: int = Field(ge=2, le=10)


class PlannedTurn(Verdicts):
    user: str = Field(min_length=1)
    goal: str = Field(min_length=1, description="what this turn is to obtain")
    risk: int = Field(ge=1, le=5)


class PlanOutput(Verdicts):
    escalation: Escalation
    turns: list[PlannedTurn] = Field(min_length=2, max_length=10)


PLAN = Prompt("plan", PlanInput, PlanOutput)
