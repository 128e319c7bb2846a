"""When and where the modules of a model run: chosen in `compile(schedule=...)`.

    "together"   one program holds the whole network (the default)
    "in_turn"    module after module on one device: the same numbers in less memory

A schedule is an execution option, as `jit_compile` is: it is not saved with a model.
"""

from typing import TypeAlias

from keras_sg.schedules.in_turn import InTurn as InTurn
from keras_sg.schedules.schedule import Runner as Runner
from keras_sg.schedules.schedule import Schedule as Schedule
from keras_sg.schedules.schedule import Together as Together

Identifier: TypeAlias = str | Schedule

SCHEDULES: dict[str, type[Schedule]] = {"together": Together, "in_turn": InTurn}


def get(identifier: Identifier) -> Schedule:
    """The schedule that an identifier stands for.

    Args:
        identifier: `"together"`, `"in_turn"`, or a schedule.

    Raises:
        ValueError: there is no such schedule.
    """
    if isinstance(identifier, Schedule):
        return identifier
    if not isinstance(identifier, str) or identifier not in SCHEDULES:
        raise ValueError(
            f"`schedule` says when and where modules run: one of {sorted(SCHEDULES)}, or a schedule such as "
            f"keras_sg.schedules.InTurn(). Received: schedule={identifier!r} (of type "
            f"{type(identifier).__name__})."
        )
    return SCHEDULES[identifier]()
