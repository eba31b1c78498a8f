"""The devices that a user or a project has names for: devices.yaml.

Two files, of the user (``~/.config/nasdeploy/devices.yaml``) and of the project (``devices.yaml``
beside nasdeploy.yaml); where both have a name the project's entry is the one that counts::

    pixel: {address: "adb:8A1X0PZ2", cpus: big, max_temp_c: 40}
    pi:    {address: "ssh:pi@raspberrypi.local"}
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nasdeploy.device_agent.address import is_address, parse_address
from nasdeploy.durable import write_text
from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.pipeline.config import read_yaml

PROJECT_DEVICES = Path("devices.yaml")
RESERVED = ("android",)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class FaultEntry(BaseModel):
    """Something that goes wrong on a simulated device; `nasdeploy.device_agent.simulated.Fault`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    call: str = "run"
    number: int = 1
    after_lines: int = 0


class SimulationEntry(BaseModel):
    """How a ``sim:`` device strays from its table; `nasdeploy.device_agent.simulated.Behaviour`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: int = 0
    noise: float = 0.02
    drift: float = 0.0
    drift_rounds: float = 20.0
    slow_rounds: tuple[int, int] | None = None
    slow_factor: float = 1.5
    pace: float = 1.0
    faults: tuple[FaultEntry, ...] = ()


class DeviceEntry(BaseModel):
    """Where a device is, and how it is to be measured.

    `cpus` is ``big``, ``little``, a list such as ``0-3,6`` or a mask such as ``0xf0``;
    `max_temp_c` is waited for before measuring, `cool_limit_s` at most; `runner` is how runtimes
    are started there where nobody asks for another; `emulated` says what
    cannot always be seen, that the device is an emulator, whose times say nothing of speed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    address: str
    cpus: str | None = None
    max_temp_c: float | None = Field(None, gt=0, lt=150)
    cool_limit_s: float = Field(600.0, ge=0)
    runner: str | None = None
    emulated: bool | None = None
    simulation: SimulationEntry | None = None

    @field_validator("cpus", mode="before")
    @classmethod
    def _one_cpu(cls, value: Any) -> Any:
        """YAML reads a single processor as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("address")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            return str(parse_address(value))
        except UsageError as error:
            raise ValueError(str(error)) from error


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """An entry, and the file that it stands in."""

    name: str
    entry: DeviceEntry
    path: Path


def user_devices() -> Path:
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "nasdeploy" / "devices.yaml"


def known_devices() -> dict[str, KnownDevice]:
    """Every named device; `BadInput` names the file, the line and the key that is wrong."""
    found: dict[str, KnownDevice] = {}
    for path in (user_devices(), PROJECT_DEVICES):
        for name, values in _raw(path).items():
            entry = make_entry(values, source=f"{path}, {name}", line=partial(_line, path, name))
            found[name] = KnownDevice(name, entry, path)
    return found


def add_device(name: str, entry: DeviceEntry, *, path: Path, replace: bool = False) -> None:
    """Write a name into a devices.yaml; other entries stay as they are, comments don't.

    Raises: `UsageError` if the name cannot be one, or is taken.
    """
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise UsageError(
            f"{name!r} cannot be a device's name: letters, digits, '.', '_' and '-' make one"
            f"{', and android means the phone that is attached' if name in RESERVED else ''}."
        )
    entries = _raw(path)
    if name in entries and not replace:
        raise UsageError(
            f"{path} has a device {name} already. Replace it: add --replace; or remove it: "
            f"nasdeploy devices remove {name}"
        )
    _write(path, {**entries, name: entry.model_dump(exclude_unset=True, mode="json")})


def remove_device(name: str) -> Path:
    """Remove the entry that counts, and say from which file."""
    known = known_devices()
    if name not in known:
        raise UnknownName("device", name, known)
    path = known[name].path
    _write(path, {key: value for key, value in _raw(path).items() if key != name})
    return path


def _write(path: Path, entries: Mapping[str, Any]) -> None:
    text = yaml.safe_dump(dict(entries), sort_keys=False, allow_unicode=True) if entries else ""
    write_text(path, text)


def _raw(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    values = read_yaml(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise BadInput(f"{path}: names of devices are expected, such as pixel: {{address: ...}}.")
    for name in values:
        if not isinstance(name, str) or is_address(name) or not _NAME.fullmatch(name):
            raise BadInput(f"{path}{_line(path, name)}: {name!r} cannot be a device's name.")
    return values


def make_entry(
    values: Any, *, source: str, line: Callable[..., str] = lambda *keys: ""
) -> DeviceEntry:
    """Check plain values; one line that names the first field that is wrong.

    Args:
        line: Says where the keys of a field stand in the source.
    """
    if isinstance(values, str):  # the short form, `pi: ssh:pi@raspberrypi`
        values = {"address": values}
    if isinstance(values, Mapping):
        values = {key: value for key, value in values.items() if value is not None}
    try:
        return DeviceEntry.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = f"{source}{line(*first['loc'])}"
        if first["type"] == "extra_forbidden":
            fields = SimulationEntry if "simulation" in first["loc"] else DeviceEntry
            known = FaultEntry if "faults" in first["loc"] else fields
            unknown = UnknownName("field", str(first["loc"][-1]), known.model_fields)
            raise BadInput(f"{where}: {unknown}") from None
        field = ".".join(map(str, first["loc"]))
        message = re.sub(r"^Value error, ", "", first["msg"]).rstrip(".")
        raise BadInput(f"{where}: {field + ': ' if field else ''}{message}.") from None


def _line(path: Path, *keys: object) -> str:
    """``", line 3"``: where the last of `keys` stands, as far down as there is one."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line: int | None = None
    for key in keys:
        if isinstance(node, yaml.SequenceNode) and isinstance(key, int):
            node = node.value[key]
            line = node.start_mark.line
        elif isinstance(node, yaml.MappingNode):
            pairs = {name.value: (name, value) for name, value in node.value}
            if str(key) not in pairs:
                break
            line, node = pairs[str(key)][0].start_mark.line, pairs[str(key)][1]
    return "" if line is None else f", line {line + 1}"
