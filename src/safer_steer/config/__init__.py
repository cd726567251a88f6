"""The configuration: one YAML file, typed; an unknown key is an error. The sections are in `student.py`,
`roles.py`, `data.py`, `rl.py` and `bench.py`; `whole.py` puts them together, `file.py` reads and writes the
YAML, `keys.py` lists keys and sets single ones, `kinds.py` and `changes.py` say which may change between a
run and its continuation."""

from safer_steer.config.bench import Adaptive, Bench, JoinedBy, ModelName, Target
from safer_steer.config.data import SFT, Assembly, Bootstrap, Seeds, Source, Use
from safer_steer.config.rl import Reinforce
from safer_steer.config.roles import SANDBOX_AGENTS, Agent, Role, RoleName, same_model
from safer_steer.config.student import SHIPPED, Student
from safer_steer.config.whole import Config, Tracker

__all__ = [
    "SANDBOX_AGENTS",
    "SFT",
    "SHIPPED",
    "Adaptive",
    "Agent",
    "Assembly",
    "Bench",
    "Bootstrap",
    "Config",
    "JoinedBy",
    "ModelName",
    "Reinforce",
    "Role",
    "RoleName",
    "Seeds",
    "Source",
    "Student",
    "Target",
    "Tracker",
    "Use",
    "same_model",
]
