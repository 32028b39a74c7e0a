"""Which openpi server is asked, who it must be, and how an observation is turned into what it was trained on.

A descriptor is a TOML file that stands where other policies have a checkpoint: its hash is in every rollout. Importing
this is light.

    address = "ws://127.0.0.1:8000"
    api_key_variable = "OPENPI_API_KEY"     # name of the environment variable; leave out where no key is asked for
    replan_steps = 5                        # actions of a chunk that are executed
    action_horizon = 10                     # left out: what the server's metadata says
    action_dim = 7                          # left out: what the server's metadata says
    prompt = "lift the red cube"            # left out: the task's instruction

    [identity]                              # what the server's metadata must say, key by key; or, for a server that
    config = "pi05_lift_lora"               # says nothing of itself, `unidentified = true` in place of this table
    step = 29999

    [state]                                 # the server's key: vectors that are put one after another
    "observation/state" = ["robot0_eef_pos", "robot0_eef_quat as axis_angle", "robot0_gripper_qpos"]

    [pictures."observation/image"]
    camera = "agentview"
    render_px = 256                         # drawn so large, and then made
    size_px = 224                           # so large, as openpi's clients do
    flip = ["horizontal"]                   # as the converter of the training data left its pictures; [] is upright
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from science.robots.policies.base import PolicyError

AXIS_ANGLE = " as axis_angle"
FLIPS = ("horizontal", "vertical")

_FIELDS: dict[str, type] = {
    "address": str,
    "api_key_variable": str,
    "replan_steps": int,
    "action_horizon": int,
    "action_dim": int,
    "prompt": str,
    "unidentified": bool,
    "identity": dict,
    "state": dict,
    "pictures": dict,
}
_NEEDED = ("address", "replan_steps")
_SCHEMES = ("ws://", "wss://")


@dataclass(frozen=True)
class Picture:
    """One picture: drawn square by a camera, flipped, and made smaller, sizes in pixels."""

    camera: str
    render_px: int = 256
    size_px: int = 224
    flip: tuple[str, ...] = ()


@dataclass(frozen=True)
class Descriptor:
    """What a descriptor says, see above.

    Attributes
    ----------
    identity : metadata that the server must give; None where it is taken as it is.
    state : the server's key -> the task's keys, each perhaps with ``as axis_angle``.
    pictures : the server's key -> the picture.
    """

    address: str
    replan_steps: int
    identity: Mapping[str, Any] | None
    state: Mapping[str, tuple[str, ...]]
    pictures: Mapping[str, Picture]
    api_key_variable: str | None = None
    action_horizon: int | None = None
    action_dim: int | None = None
    prompt: str | None = None
    content: Mapping[str, Any] = field(default_factory=dict)


def read_descriptor(path: Path) -> Descriptor:
    """Read a descriptor.

    Raises
    ------
    PolicyError
        Naming the file, what was found and what was expected.
    """
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyError(f"{path} cannot be read as TOML: {error}; it must describe an openpi server") from error

    def expect(holds: bool, found: str, expected: str) -> None:
        if not holds:
            raise PolicyError(f"{path}: found {found}, expected {expected}")

    missing = [name for name in _NEEDED if name not in content]
    expect(not missing, f"no {' and no '.join(missing)}", "the address of an openpi server, and replan_steps")
    unknown = sorted(set(content) - set(_FIELDS))
    expect(not unknown, f"{unknown}", f"only {[*_FIELDS]}")
    for name, value in content.items():
        expect(_is(value, _FIELDS[name]), f"{name} = {value!r}", f"a value of type {_FIELDS[name].__name__}")
    expect(content["address"].startswith(_SCHEMES), f"address = {content['address']!r}", "ws://host:port")
    for name in ("replan_steps", "action_horizon", "action_dim"):
        expect(content.get(name, 1) >= 1, f"{name} = {content.get(name)}", "at least 1")
    unidentified = content.get("unidentified", False)
    expect(
        unidentified != bool(content.get("identity")),
        "both unidentified = true and [identity]" if unidentified else "neither [identity] nor unidentified = true",
        "a table [identity] of what the server's metadata must say, or unidentified = true for a server that says "
        "nothing of itself",
    )
    state, pictures = content.get("state", {}), content.get("pictures", {})
    expect(bool(state or pictures), "neither [state] nor [pictures]", "what the server is shown")
    for key, parts in state.items():
        fits = isinstance(parts, list) and bool(parts) and all(isinstance(part, str) for part in parts)
        expect(fits, f"[state] {key} = {parts!r}", "a list of observation keys")
    for key, given in pictures.items():
        where = f'[pictures."{key}"]'
        expect(isinstance(given, dict) and "camera" in given, f"{where} = {given!r}", "a table with a camera")
        types = {"camera": str, "render_px": int, "size_px": int, "flip": list}
        wrong = {name: value for name, value in given.items() if name not in types or not _is(value, types[name])}
        expect(not wrong, f"{where} with {wrong}", f"only {[*types]}: a name, two numbers of pixels, a list")
        expect(set(given.get("flip", [])) <= set(FLIPS), f"{where} flip = {given.get('flip')}", f"some of {[*FLIPS]}")
        small = min(given.get("render_px", 1), given.get("size_px", 1)) < 1
        expect(not small, f"{where} = {given}", "at least one pixel")
    return Descriptor(
        address=content["address"],
        replan_steps=content["replan_steps"],
        identity=None if unidentified else content["identity"],
        state={key: tuple(parts) for key, parts in state.items()},
        pictures={key: Picture(**{**given, "flip": tuple(given.get("flip", ()))}) for key, given in pictures.items()},
        api_key_variable=content.get("api_key_variable"),
        action_horizon=content.get("action_horizon"),
        action_dim=content.get("action_dim"),
        prompt=content.get("prompt"),
        content=content,
    )


def _is(value: object, kind: type) -> TypeGuard[Any]:
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
