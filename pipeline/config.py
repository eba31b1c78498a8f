"""What a run is asked to do: one YAML file, checked as a whole before anything starts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator

from nasdeploy.durable import write_text
from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.units import parse_bytes, parse_count, parse_latency

Runtime = Literal["executorch", "litert", "onnxruntime"]
Precision = Literal["fp32", "int8"]
Statistic = Literal["min", "p10", "median", "mean", "p90", "p95"]
RUNTIMES: tuple[Runtime, ...] = ("executorch", "litert", "onnxruntime")


def _read_by(parse: Callable[[str], object], *, keep: bool = False) -> BeforeValidator:
    """A field that is written with a unit; pydantic then names the field that is wrong."""

    def read(value: Any) -> object:
        if isinstance(value, int) and not keep:
            return value
        try:
            parsed = parse(str(value))
        except UsageError as error:
            raise ValueError(str(error)) from error
        return str(value) if keep else parsed

    return BeforeValidator(read)


LatencyText = Annotated[str, _read_by(parse_latency, keep=True)]
Count = Annotated[int, _read_by(parse_count)]
Bytes = Annotated[int, _read_by(parse_bytes)]


def _numbers(settings: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a text, since it has no point; people mean the number."""
    if not isinstance(settings, dict):
        return settings
    number = re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+")
    return {
        name: float(value) if isinstance(value, str) and number.fullmatch(value) else value
        for name, value in settings.items()
    }


Settings = Annotated[dict[str, Any], BeforeValidator(_numbers)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BoundsConfig(_Section):
    """What the network must hold; each is optional.

    `latency` with its unit ("100ms"), or as a share of what the space can reach on the table
    ("40%"). `statistic` is that of the latency: of the table's rows, of the candidates and of the
    final file alike; the median where none is named, or what a published table has instead.
    """

    latency: LatencyText | None = None
    statistic: Statistic | None = None
    params: Count | None = Field(None, gt=0)
    flops: Count | None = Field(None, gt=0)
    memory: Bytes | None = Field(None, gt=0)
    size: Bytes | None = Field(None, gt=0)

    @property
    def any(self) -> bool:
        """Whether there is a bound at all."""
        return any(value is not None for name, value in self if name != "statistic")


class ProfileConfig(_Section):
    """How operators are measured; docs/measuring.md explains each."""

    min_samples: int = Field(50, ge=1)
    min_duration_s: float = Field(10.0, ge=0)
    anchors: int = Field(8, ge=0)
    workers: int | None = Field(None, ge=1)


class VerifyConfig(_Section):
    """How whole networks are measured, candidates and files alike; at least three starts each.

    `wait_s` is how long each is measured at most for the device to be as quick as when the table
    was measured.
    """

    min_samples: int = Field(150, ge=3)
    min_duration_s: float = Field(2.0, ge=0)
    wait_s: float = Field(45.0, ge=0)


class GoalConfig(_Section):
    """What a search is after: docs/strategies/goals.md explains the forms.

    `costs` are of latency_ms, params, macs, memory_bytes, size_bytes; `targets`, `weights` and the
    ends of `prefer` are in their units, accuracies between 0 and 1.
    """

    form: Literal["metric", "loss", "product", "additive", "weights", "pareto"] = "metric"
    costs: tuple[str, ...] = ()
    targets: dict[str, float] = Field(default_factory=dict)
    weights: dict[str, float] = Field(default_factory=dict)
    prefer: dict[str, tuple[float, float]] = Field(default_factory=dict)


class SearchConfig(_Section):
    """Which strategy, with which settings, for how long, and how many candidates are measured.

    The best `finalists` are trained as the winner is, the better half of them for twice as long,
    and so on, `finalist_epochs` at first, until one is left. With one finalist nothing is trained.
    """

    strategy: str = "proxyless"
    evaluator: str = "supernet"
    goal: GoalConfig = GoalConfig()
    settings: Settings = Field(default_factory=dict)
    batch_size: int = Field(64, ge=2)
    steps: int | None = Field(None, ge=1)
    trials: int | None = Field(None, ge=1)
    wall_s: float | None = Field(None, gt=0)
    candidates: int = Field(8, ge=1)
    finalists: int = Field(1, ge=1)
    finalist_epochs: int = Field(1, ge=1)
    supernet: str | None = None
    history: str | None = None


class TrainConfig(_Section):
    """How the winner is trained; `settings` are those of the trainer (docs/data.md)."""

    settings: Settings = Field(default_factory=dict)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    random_baselines: int = Field(0, ge=0)
    workers: int | None = Field(None, ge=1)


class ExportConfig(_Section):
    """Files beside the one that was searched for, and what int8 may cost in accuracy."""

    runtimes: tuple[Runtime, ...] = ()
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    calibration_images: int = Field(256, ge=1)
    test_images: int = Field(2000, ge=1)
    max_drop_points: float = Field(2.0, ge=0)


class RunConfig(_Section):
    """A whole run. Every field has a default but the bound and the data.

    `cpus`, `max_temp_c` and `runner` (native without) go before what devices.yaml says of the
    device. `allow_simulated` lets
    a search stand on times that are no measurement: of a simulated device, or of an emulator.
    `images` takes at most so many of each split, for trying things.
    """

    name: str | None = None
    device: str = "local"
    cpus: str | None = None
    max_temp_c: float | None = Field(None, gt=0, lt=150)
    allow_simulated: bool = False
    runtime: Runtime = "litert"
    precision: Precision = "int8"
    threads: int = Field(1, ge=1)
    runner: str | None = None
    space: str | dict[str, Any] = "mobile"
    data: str
    data_root: str | None = None
    images: int | None = Field(None, ge=1)
    table: str | None = None
    seed: int = Field(0, ge=0)
    bounds: BoundsConfig = BoundsConfig()
    profile: ProfileConfig = ProfileConfig()
    search: SearchConfig = SearchConfig()
    train: TrainConfig = TrainConfig()
    export: ExportConfig = ExportConfig()
    verify: VerifyConfig = VerifyConfig()

    @field_validator("cpus", mode="before")
    @classmethod
    def _one_cpu(cls, value: Any) -> Any:
        """YAML reads a single processor as a number."""
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @property
    def space_name(self) -> str:
        return self.space if isinstance(self.space, str) else str(self.space.get("name", "mobile"))

    @property
    def space_parameters(self) -> dict[str, Any]:
        if isinstance(self.space, str):
            return {}
        return {key: value for key, value in self.space.items() if key != "name"}


def make_config(values: dict[str, Any], *, source: str) -> RunConfig:
    """Check plain values; one line that names the first field that is wrong.

    A space that is a YAML file becomes what the file says, so that a run keeps it.
    """
    from nasdeploy.pipeline.space_files import is_file, resolved

    space = values.get("space")
    space = {"name": space} if isinstance(space, str) else space
    if isinstance(space, dict) and is_file(str(space.get("name", ""))):
        values = {**values, "space": resolved(space)}
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        if first["type"] == "extra_forbidden":
            raise BadInput(f"{source}: {_unknown_field(first['loc'])}{more}") from None
        message = re.sub(r"^Value error, ", "", first["msg"]).rstrip(".")
        raise BadInput(f"{source}: {where}: {message}.{more}") from None


def _unknown_field(location: tuple[int | str, ...]) -> str:
    section = ".".join(str(part) for part in location[:-1])
    kind = f"field of {section}" if section else "field"
    return str(UnknownName(kind, str(location[-1]), _fields_at(location[:-1])))


def _fields_at(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = RunConfig
    for part in location:
        annotation = model.model_fields[str(part)].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


def read_yaml(path: Path) -> Any:
    """A YAML file of plain data, or `BadInput` that says where it breaks."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder; a file is needed.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise BadInput(f"{path}{where}: this is not YAML that can be read safely.") from None


def read_config(path: Path) -> RunConfig:
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise BadInput(f"{path}: a run's configuration is a mapping, such as examples/*.yaml.")
    return make_config(values, source=str(path))


def write_config(config: RunConfig, path: Path) -> None:
    values = config.model_dump(mode="json", exclude_none=True)
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))
