"""A user's own space, written as data: stages of blocks, and what each block may be.

::

    kind: custom
    name: tiny
    input_shape: [3, 32, 32]
    classes: 10
    stages:
      - {name: stem, out: 16, stride: 2, choices: [{conv_bn_relu6: {kernel: 3}}]}
      - name: body
        out: 32
        blocks: 3
        stride: 2
        choices:
          - mbconv: {kernel: 3, expand: 3}
          - mbconv: {kernel: 5, expand: 6}
          - skip

A block with several choices is a decision. Its stage's first block has the stride and changes the
channels; ``skip``, no block at all, is left out there if the shape would not stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cells import decision_index
from nasdeploy.search.space import Decision, Deployment
from nasdeploy.search.wired_space import WiredSpace
from nasdeploy.search.wiring import Shape, Wire, Wiring, output_shape

KIND = "custom"
SKIP = "skip"

# kind of operator: the attributes that a choice gives it; those with `out` change the channels
CHANGING = {
    "conv_bn": ("kernel",),
    "conv_bn_relu": ("kernel",),
    "conv_bn_relu6": ("kernel",),
    "mbconv": ("expand", "kernel"),
    "relu_conv_bn": ("kernel",),
}
KEEPING = {
    "avg_pool": ("kernel",),
    "depthwise_separable": ("dilation", "kernel"),
    "factorized_conv": ("kernel",),
    "max_pool": ("kernel",),
    "sep_conv": ("kernel",),
}
OPERATORS = {**CHANGING, **KEEPING, SKIP: ()}

Place = tuple[str | int, ...]
"""Where in the data something stands: ("stages", 1, "choices", 0)."""


class Misfit(UsageError):
    """The data of a space is wrong somewhere; `place` says where, for the line of a file."""

    def __init__(self, place: Place, reason: str) -> None:
        self.place, self.reason = place, reason
        super().__init__(f"{'.'.join(map(str, place)) or 'the space'}: {reason}")


@dataclass(frozen=True, slots=True)
class _Stage:
    name: str
    out: int
    blocks: int
    stride: int
    choices: tuple[tuple[str, tuple[tuple[str, int], ...]], ...]


class CustomSpace(WiredSpace):
    """A chain of stages of blocks.

    Args:
        name: Of the space, in tables and runs.
        input_shape: (channels, height, width) of the network that ships.
        classes: Outputs of its head.
        stages: As in the example above; `blocks` and `stride` are 1 where they are not given.
    Raises: `Misfit` with the place of what makes no network.
    """

    def __init__(
        self,
        *,
        name: str,
        input_shape: Sequence[int],
        classes: int,
        stages: Sequence[Mapping[str, Any]],
    ) -> None:
        if not isinstance(name, str) or not name:
            raise Misfit(("name",), f"{name!r} is not a name.")
        self.name = name
        self.deployment = Deployment(_shape(input_shape), _count(classes, ("classes",), least=2))
        if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
            raise Misfit(("stages",), "a space needs a list of at least one stage.")
        self._given = [dict(stage) for stage in map(_mapping, stages, range(len(stages)))]
        self.stages = tuple(_stage(stage, at) for at, stage in enumerate(self._given))
        names = [stage.name for stage in self.stages]
        for at, stage in enumerate(names):
            if stage in names[:at]:
                raise Misfit(("stages", at, "name"), f"there is a stage {stage!r} already.")
        slots = list(self._slots(self.deployment))
        self.decisions: tuple[Decision, ...] = tuple(
            Decision(label, labels) for label, labels, _ in slots if len(labels) > 1
        )
        self._index = decision_index(self.decisions)
        if not self.decisions:
            raise Misfit(("stages",), "no block has two choices: there is nothing to search.")

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "kind": KIND,
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "stages": self._given,
        }

    def wire(self, net: Wiring, image: Wire, deployment: Deployment) -> Wire:
        x = image
        for label, _, keys in self._slots(deployment):
            name = label.replace(".", "_")
            if label in self._index:
                x = net.choose(name, self._index[label], keys, x)
            elif keys[0] is not None:
                x = net.op(name, keys[0], x)
        return x

    def _slots(
        self, deployment: Deployment
    ) -> Iterator[tuple[str, tuple[str, ...], tuple[OpKey | None, ...]]]:
        """(label, choices, their operators) of each block."""
        shape = deployment.input_shape
        for at, stage in enumerate(self.stages):
            for block in range(1, stage.blocks + 1):
                stride = stage.stride if block == 1 else 1
                stays = stride == 1 and shape[0] == stage.out
                labels: list[str] = []
                keys: list[OpKey | None] = []
                for number, (kind, attributes) in enumerate(stage.choices):
                    place: Place = ("stages", at, "choices", number)
                    if kind == SKIP and not stays:
                        continue
                    labels.append(_label(kind, attributes))
                    keys.append(_key(kind, dict(attributes), shape, stage.out, stride, place))
                if not labels:
                    raise Misfit(
                        ("stages", at, "choices"),
                        f"block {block} changes the shape, so it needs a choice beside {SKIP}.",
                    )
                label = f"{stage.name}.block{block}" if stage.blocks > 1 else stage.name
                yield label, tuple(labels), tuple(keys)
                key = next((key for key in keys if key is not None), None)
                shape = shape if key is None else output_shape(key)


def _label(kind: str, attributes: Sequence[tuple[str, int]]) -> str:
    return "_".join([kind, *(f"{name[0]}{value}" for name, value in attributes)])


def _key(
    kind: str, attributes: Mapping[str, int], shape: Shape, out: int, stride: int, place: Place
) -> OpKey | None:
    if kind == SKIP:
        return None
    if kind in CHANGING:
        return OpKey.of(kind, [shape], out=out, stride=stride, **attributes)
    if shape[0] != out:
        raise Misfit(
            place,
            f"{kind} keeps the channels, and here they go from {shape[0]} to {out}. Put a stage "
            f"with {', '.join(CHANGING)} before it.",
        )
    return OpKey.of(kind, [shape], stride=stride, **attributes)


def _stage(given: Mapping[str, Any], at: int) -> _Stage:
    place: Place = ("stages", at)
    known = ("name", "out", "blocks", "stride", "choices")
    for field in given:
        if field not in known:
            raise Misfit((*place, field), str(UnknownName("field of a stage", str(field), known)))
    for field in ("name", "out", "choices"):
        if field not in given:
            raise Misfit(place, f"a stage needs the field {field}.")
    name, choices = given["name"], given["choices"]
    if not isinstance(name, str) or not name.replace("_", "").isalnum():
        raise Misfit((*place, "name"), f"{name!r} is not a name of letters and digits.")
    if not isinstance(choices, list | tuple) or not choices:
        raise Misfit((*place, "choices"), "a stage needs a list of choices.")
    read = tuple(_choice(c, (*place, "choices", number)) for number, c in enumerate(choices))
    for number, choice in enumerate(read):
        if choice in read[:number]:
            raise Misfit((*place, "choices", number), f"{_label(*choice)} is there twice.")
    return _Stage(
        name,
        _count(given["out"], (*place, "out")),
        _count(given.get("blocks", 1), (*place, "blocks")),
        _count(given.get("stride", 1), (*place, "stride")),
        read,
    )


def _choice(given: Any, place: Place) -> tuple[str, tuple[tuple[str, int], ...]]:
    if isinstance(given, str):
        given = {given: {}}
    if not isinstance(given, Mapping) or len(given) != 1:
        raise Misfit(
            place, f"{given!r} is not a choice; one reads mbconv: {{kernel: 3, expand: 6}}."
        )
    ((kind, attributes),) = given.items()
    if kind not in OPERATORS:
        raise Misfit(place, str(UnknownName("operator", str(kind), OPERATORS)))
    if not isinstance(attributes, Mapping) or set(attributes) != set(OPERATORS[kind]):
        raise Misfit(
            place, f"{kind} takes {', '.join(OPERATORS[kind]) or 'nothing'}; given: {attributes}."
        )
    for name, value in attributes.items():
        _count(value, (*place, kind, name))
        if name == "kernel" and value % 2 == 0:
            raise Misfit((*place, kind, name), f"a kernel of {value}: it must be odd.")
    return kind, tuple(sorted(attributes.items()))


def _mapping(stage: Any, at: int) -> Mapping[str, Any]:
    if not isinstance(stage, Mapping):
        raise Misfit(("stages", at), f"{stage!r} is not a stage: it needs name, out and choices.")
    return stage


def _shape(given: Any) -> Shape:
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise Misfit(("input_shape",), f"{given!r} is not channels, height and width.")
    channels, height, width = (_count(v, ("input_shape", i)) for i, v in enumerate(given))
    return channels, height, width


def _count(value: Any, place: Place, *, least: int = 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise Misfit(place, f"{value!r} is not a whole number of at least {least}.")
    return value
