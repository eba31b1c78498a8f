"""Options that several commands take, written once so that they read the same everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from nasdeploy.errors import UsageError
from nasdeploy.pipeline.console import Format

FormatOption = Annotated[Format, typer.Option("--format", help="How the result is written.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="A name or an address; `nasdeploy devices`.")
]
DevicesOption = Annotated[
    list[str] | None,
    typer.Option("--device", help="A name or an address; several are measured at once."),
]
CpusOption = Annotated[
    str | None, typer.Option("--cpus", help="Processors: big, little, 0-3,6 or 0xf0.")
]
MaxTempOption = Annotated[
    float | None, typer.Option("--max-temp", help="Wait until it is no warmer, degrees Celsius.")
]
AllowSimulatedOption = Annotated[
    bool, typer.Option("--allow-simulated", help="Search on times that are no measurement.")
]
RuntimeOption = Annotated[
    str | None, typer.Option("--runtime", help="executorch, litert or onnxruntime.")
]
RunnerOption = Annotated[
    str | None,
    typer.Option("--runner", help="native, native+glibc, ndk:AAR, python or a path."),
]
PrecisionOption = Annotated[str | None, typer.Option("--precision", help="fp32 or int8.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", help="Worker threads.")]
SpaceOption = Annotated[
    str | None,
    typer.Option("--space", help="A space (`nasdeploy space list`), YAML file or module:Class."),
]
InputShapeOption = Annotated[
    str | None, typer.Option("--input-shape", help="Channels, height, width: 3x96x96.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Of the run's folder below runs/.")]
ClassesOption = Annotated[int | None, typer.Option("--classes", help="Outputs of the head.")]
WidthOption = Annotated[
    float | None, typer.Option("--width", help="Width multiplier of the space's channels.")
]
TableOption = Annotated[
    str | None, typer.Option("--table", help="A table's file, or a shipped one: pixel1.")
]
StatisticOption = Annotated[
    str | None, typer.Option("--statistic", help="min, p10, median, mean, p90 or p95.")
]
DataOption = Annotated[
    str | None, typer.Option("--data", help="A data set's name, folder:PATH or FILE.npz.")
]
RunOption = Annotated[
    str | None, typer.Option("--run", help="A run's name or folder; the newest one without.")
]
ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--measurements", help="Take recorded measurements of this file instead of measuring."
    ),
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="One seed in, one result out.")]


@dataclass(frozen=True, slots=True)
class SpaceOptions:
    """A space, and at which shape and width."""

    space: SpaceOption = None
    input_shape: InputShapeOption = None
    classes: ClassesOption = None
    width: WidthOption = None

    def values(self) -> dict[str, object] | None:
        """The `space` section of a configuration; None where nothing is said of it."""
        return space_values(self.space, self.input_shape, self.classes, self.width) or None


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """What a network is exported for."""

    runtime: RuntimeOption = None
    precision: PrecisionOption = None
    threads: ThreadsOption = None

    def values(self) -> dict[str, object]:
        return {
            "runtime": self.runtime, "precision": self.precision, "threads": self.threads,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class SetupOptions:
    """How a device is to be while it is measured."""

    cpus: CpusOption = None
    max_temp: MaxTempOption = None
    runner: RunnerOption = None

    def values(self) -> dict[str, object]:
        return {"cpus": self.cpus, "max_temp_c": self.max_temp, "runner": self.runner}


def parse_shape(text: str | None) -> list[int] | None:
    """``"3x96x96"`` to [3, 96, 96]."""
    if text is None:
        return None
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise UsageError(
            f"{text!r} is not an input shape: write channels x height x width, 3x96x96."
        )
    return [int(part) for part in parts]


def space_values(
    space: str | None, input_shape: str | None, classes: int | None, width: float | None
) -> dict[str, object]:
    """The `space` section of a configuration, as far as options say something of it."""
    values: dict[str, object] = {
        "name": space,
        "input_shape": parse_shape(input_shape),
        "classes": classes,
        "width_mult": width,
    }
    return {name: value for name, value in values.items() if value is not None}


def settings_of(texts: Sequence[str] | None) -> dict[str, Any]:
    """``["epochs=20", ...]`` to {"epochs": 20, ...}; values are read as YAML."""
    import yaml

    settings = {}
    for text in texts or ():
        name, _, value = text.partition("=")
        if not name or not value:
            raise UsageError(f"--set takes NAME=VALUE, such as epochs=20; got {text!r}.")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"--set {text!r}: the value cannot be read.") from None
    return settings
