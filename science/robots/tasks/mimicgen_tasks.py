"""What this project knows of MimicGen's tasks, in its own words: horizons, observations, and what is to be moved where.

Nothing here is MimicGen's code and nothing imports it. Horizons are those of its released datasets. The observation
is laid out as in those datasets, which is robosuite 1.4.1's order: robosuite 1.5 orders Stack, Square, NutAssembly and
PickPlace otherwise, at equal length, so a policy would be fed wrong numbers without any error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_POSE = ("{}_pos", "{}_quat", "{}_to_robot0_eef_pos", "{}_to_robot0_eef_quat")


@dataclass(frozen=True)
class Goal:
    """One object to be moved, and how it is told that it is where it belongs.

    Attributes
    ----------
    moved : the object's name in the model.
    place : `touch:<object>`, `metric:<MimicGen's partial metric>`, `on_peg:<i>` or `in_bin:<i>` (robosuite's own
        predicates); None where only the task's success tells.
    align : the object above which it must be, for the milestone of that name; None where none is meant.
    suffix : end of its milestones' names: `reach_<suffix>`; the first object's have none.
    release : whether being released in its place is a milestone; False where that is the task's success.
    silent : it has no milestones of its own (another goal of the same object has them).
    drop_m : how far it falls after the reset until it rests; `lift` is counted from where it rests.
    """

    moved: str
    place: str | None = None
    align: str | None = None
    suffix: str = ""
    release: bool = True
    silent: bool = False
    drop_m: float = 0.0

    def milestones(self) -> tuple[str, ...]:
        """Names in order; the simulation gives their values in the same order."""
        if self.silent:
            return ()
        kinds = ["reach", "grasp", "lift"]
        kinds += ["align"] if self.align else []
        kinds += ["release"] if self.place and self.release else []
        return tuple(f"{kind}_{self.suffix}" if self.suffix else kind for kind in kinds)


@dataclass(frozen=True)
class Family:
    """Tasks that differ in their reset distribution only.

    Attributes
    ----------
    horizon_steps : MimicGen's evaluation horizon.
    object_observables : what the key `object` is made of, in order.
    goals : in the order in which MimicGen's demonstrations reach them.
    task_zoo : whether the environment is built on the package robosuite_task_zoo.
    """

    horizon_steps: int
    object_observables: tuple[str, ...]
    goals: tuple[Goal, ...]
    task_zoo: bool = False

    def object_length(self) -> int:
        """Length of the key `object`."""
        return sum(observable_length(name) for name in self.object_observables)


def observable_length(name: str) -> int:
    """Length of one observable of an object, by its name: a joint 1, a quaternion 4, anything else a position 3."""
    if name in ("hinge_angle", "drawer_joint_angle", "drawer_joint_pos"):
        return 1
    return 4 if name.endswith("_quat") else 3


def _poses(*things: str) -> tuple[str, ...]:
    """Position, quaternion, and both relative to the gripper, of each."""
    return tuple(part.format(thing) for thing in things for part in _POSE)


_STACK = (
    *("cubeA_pos", "cubeA_quat", "cubeB_pos", "cubeB_quat"),
    *("gripper_to_cubeA", "gripper_to_cubeB", "cubeA_to_cubeB"),
)
_COFFEE = _poses("coffee_pod", "coffee_machine", "coffee_pod_holder", "coffee_machine_lid")
_KITCHEN = _poses("Stove1", "cube_bread", "PotObject", "ServingRegionRed")
_KITCHEN_GOALS = (
    Goal("PotObject", place="touch:Stove1"),
    Goal("cube_bread", place="touch:PotObject", suffix="bread"),
    Goal("PotObject", place="touch:ServingRegionRed", silent=True),
)
_ON_B = Goal("cubeA", place="touch:cubeB", align="cubeB", drop_m=0.01)
_SQUARE = Family(400, (*_poses("SquareNut"), "peg1_pos"), (Goal("SquareNut", place="on_peg:0", drop_m=0.06),))
_MUG = Family(
    500, (*_poses("object", "drawer"), "drawer_joint_pos"), (Goal("cleanup_object", place="touch:DrawerObject"),)
)

FAMILIES: Mapping[str, Family] = {
    "Stack": Family(400, _STACK, (_ON_B,)),
    "StackThree": Family(
        400,
        (*_STACK, "cubeC_pos", "cubeC_quat", "gripper_to_cubeC", "cubeA_to_cubeC", "cubeB_to_cubeC"),
        (_ON_B, Goal("cubeC", place="touch:cubeA", align="cubeA", suffix="c", drop_m=0.01)),
    ),
    "Coffee": Family(400, (*_COFFEE, "hinge_angle"), (Goal("coffee_pod", place="metric:insertion"),)),
    "CoffeePreparation": Family(
        800,
        (*_COFFEE, *_poses("drawer", "mug"), "hinge_angle", "drawer_joint_angle"),
        (
            Goal("mug", place="metric:mug_place", drop_m=0.02),
            Goal("coffee_pod", place="metric:insertion", suffix="pod"),
        ),
    ),
    "Threading": Family(400, _poses("needle", "tripod"), (Goal("needle_obj"),)),
    "ThreePieceAssembly": Family(
        500,
        _poses("base", "piece_1", "piece_2"),
        (Goal("piece_1", place="metric:first_piece_assembled"), Goal("piece_2", suffix="2")),
    ),
    "Square_D0": Family(400, _poses("SquareNut"), _SQUARE.goals),
    "Square": _SQUARE,
    "NutAssembly": Family(
        500,
        _poses("SquareNut", "RoundNut"),
        (
            Goal("SquareNut", place="on_peg:0", drop_m=0.06),
            Goal("RoundNut", place="on_peg:1", suffix="round", drop_m=0.06),
        ),
    ),
    "PickPlace": Family(
        1000,
        _poses("Milk", "Bread", "Cereal", "Can"),
        (
            Goal("Milk", place="in_bin:0"),
            Goal("Bread", place="in_bin:1", suffix="bread"),
            Goal("Cereal", place="in_bin:2", suffix="cereal"),
            Goal("Can", place="in_bin:3", suffix="can"),
        ),
    ),
    "MugCleanup": _MUG,
    "HammerCleanup": Family(
        500, _poses("hammer", "CabinetObject"), (Goal("hammer", place="touch:CabinetObject"),), task_zoo=True
    ),
    "Kitchen_D0": Family(800, _KITCHEN, _KITCHEN_GOALS, task_zoo=True),
    "Kitchen": Family(800, (*_KITCHEN, *_poses("Button1")), _KITCHEN_GOALS, task_zoo=True),
}
"""By the task's name where it differs from the others of its family, else by the name before `_`."""

_INSTRUCTIONS = {
    "Stack": "stack the red cube on the green cube",
    "StackThree": "stack the red cube on the green cube, then the blue cube on the red cube",
    "Coffee": "put the pod into the coffee machine and close its lid",
    "CoffeePreparation": "put the mug under the coffee machine, take a pod from the drawer and close the lid on it",
    "Threading": "thread the needle through the ring",
    "ThreePieceAssembly": "put the first piece into the base, then the second piece onto it",
    "Square": "put the square nut on the square peg",
    "NutAssembly": "put each nut on its peg",
    "PickPlace": "put each object into its bin",
    "MugCleanup": "put the mug into the drawer and close it",
    "HammerCleanup": "put the hammer into the drawer and close it",
    "Kitchen": "cook the bread in the pot and bring the pot to the serving region",
}

NAMES = (
    *("Stack_D0", "Stack_D1", "StackThree_D0", "StackThree_D1"),
    *("Square_D0", "Square_D1", "Square_D2"),
    *("Threading_D0", "Threading_D1", "Threading_D2"),
    *("Coffee_D0", "Coffee_D1", "Coffee_D2"),
    *("ThreePieceAssembly_D0", "ThreePieceAssembly_D1", "ThreePieceAssembly_D2"),
    *("CoffeePreparation_D0", "CoffeePreparation_D1", "NutAssembly_D0", "PickPlace_D0"),
    *("MugCleanup_D0", "MugCleanup_D1", "MugCleanup_O1", "MugCleanup_O2"),
    *("HammerCleanup_D0", "HammerCleanup_D1", "Kitchen_D0", "Kitchen_D1"),
)
"""Every task that MimicGen registers with robosuite, under its own name."""


def family(name: str) -> Family:
    """The family of a task's name."""
    return FAMILIES.get(name) or FAMILIES[name.partition("_")[0]]


def instruction(name: str) -> str:
    """What is to be done, in this project's words: MimicGen's tasks come without."""
    return _INSTRUCTIONS[name.partition("_")[0]]
