"""What the config of a continuation may add to a run's: a finished bench may get more models, suites, sets of
questions, attackers and typographic variants, and plays those alone. All else is compared by
`config/changes.py`."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from safer_steer.config.keys import NOT_FILES

ATTACKERS = ("attackers", "own", "trained")
"""The lists of `bench.adaptive` that name who attacks."""
MAY_GROW = (
    *("bench.targets", "bench.models", "bench.suites", "bench.capability"),
    *(f"bench.adaptive.{name}" for name in ATTACKERS),
)
"""Beginnings of the keys whose lists may get further entries."""


def with_additions(old: Any, new: dict[str, Any]) -> tuple[Any, Any, frozenset[str]]:
    """A run's config as it is in its folder (`old`), with what `new` adds to its bench, and `new`, to be
    compared; and the stages that have more to do by that.

    Suites are not added to a run with the section `assembly`, which kept their pictures and questions out of
    the training; nor to others that share the number `bench.dialogues` with them, which would shrink.
    """
    bench = old.get("bench") if isinstance(old, dict) else None
    if not isinstance(bench, dict):
        return old, new, frozenset()
    old, new = deepcopy(old), deepcopy(new)
    grown = [_add(old["bench"], new["bench"], key) for key in ("models", "capability")]
    if not (new.get("assembly") or _share_a_number(old["bench"])):
        grown.append(_add(old["bench"], new["bench"], "suites"))
    grown += [_add_targets(old, new), _add_attackers(old, new)]
    if new["bench"].get("typographic") and not old["bench"].get("typographic"):
        old["bench"]["typographic"] = new["bench"]["typographic"]
        grown.append(True)
    return old, new, frozenset({"bench"} if any(grown) else ())


def advice(key: str, new: Any) -> str:
    """What to do about a difference in `key`, besides to choose another folder; "" for nothing."""
    if key.startswith("bench.suites") and _share_a_number(new["bench"]):
        return " with bench.dialogues, a further suite would take its share from those that are there;"
    if key.startswith("roles.judge") and isinstance(new["roles"].get("judge"), list):
        return " `bench --judge-only` scores its answers with further judges;"
    return " name what is there too, to add to it," if key.startswith(MAY_GROW) else ""


def _share_a_number(bench: dict[str, Any]) -> bool:
    """Whether suites that are files have a part of `bench.dialogues` each. The embedded ones do not."""
    return bench.get("dialogues") is not None and any(suite not in NOT_FILES for suite in bench["suites"])


def _add(old: dict[str, Any], new: dict[str, Any], key: str) -> bool:
    """Make the list under `key` that of `new` if it has all that was there; whether it has more."""
    before, after = old.get(key) or [], new.get(key) or []
    if not set(before) <= set(after):
        return False
    if after != before:
        old[key] = after
    return set(before) < set(after)


def _add_targets(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """The same for models behind endpoints: those of `bench.targets`, or that of `roles.target`."""
    if not (old["bench"].get("targets") or new["bench"].get("targets")):
        return False
    before, after = _targets(old), _targets(new)
    more = set(before) <= set(after)
    old["bench"]["targets"], new["bench"]["targets"] = ", ".join(after if more else before), ", ".join(after)
    _same_model(old, new, "target")
    return more and len(after) > len(before)


def _targets(config: dict[str, Any]) -> list[str]:
    targets = config["bench"].get("targets")
    role = (config.get("roles") or {}).get("target") or {}
    return [str(target["model"]) for target in targets or [role] if "model" in target]


def _add_attackers(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """The same for the attackers of `bench.adaptive`; it may be there for the first time."""
    before, after = old["bench"].get("adaptive"), new["bench"].get("adaptive")
    if not after:
        return False
    attacker = (new.get("roles") or {}).get("attacker")
    if not before:
        old["bench"]["adaptive"] = after
        if attacker:
            old.setdefault("roles", {})["attacker"] = attacker
        return True
    if not any(before.get(key) for key in ATTACKERS):
        return False  # the role's model alone attacks
    if attacker and not before.get("attackers"):
        old.setdefault("roles", {})["attacker"] = attacker
    elif set(before.get("attackers") or ()) <= set(after.get("attackers") or ()):
        _same_model(old, new, "attacker")
    grown = [_add(before, after, key) for key in ATTACKERS]
    return any(grown)


def _same_model(old: dict[str, Any], new: dict[str, Any], role: str) -> None:
    """Where a list names a role's models, the model of the role itself is none of its settings."""
    roles = old.get("roles") or {}
    if role in roles and role in new["roles"]:
        roles[role]["model"] = new["roles"][role]["model"]
