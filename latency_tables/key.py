"""The name of an operator: one canonical text for its kind, attributes and input shapes.

::

    mbconv[expand=6,kernel=3,out=24,stride=2](16x112x112)
    add[](24x56x56,24x56x56)

Attributes are sorted by name; shapes are channels first and leave the batch out, since one image
at a time is what is measured. The text is parsed back without loss, and it is all that a table
knows of an operator.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from nasdeploy.errors import BadInput

_NAME = r"[a-z][a-z0-9_]*"
_VALUE = r"-?[0-9]+|[a-z][a-z0-9_]*"
_KEY = re.compile(rf"({_NAME})\[([^\]]*)\]\(([0-9x,]*)\)")
_ATTRIBUTE = re.compile(rf"({_NAME})=({_VALUE})")


@dataclass(frozen=True, slots=True, order=True)
class OpKey:
    """An operator at its shapes.

    Attributes:
        kind: What it is, such as ``"mbconv"``.
        attributes: (name, value) pairs, sorted by name; a value is an integer or a word.
        input_shapes: One shape per input, without the batch.
    """

    kind: str
    attributes: tuple[tuple[str, int | str], ...]
    input_shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, kind: str, input_shapes: Sequence[Sequence[int]], **attributes: int | str) -> Self:
        shapes = tuple(tuple(shape) for shape in input_shapes)
        return cls(kind, tuple(sorted(attributes.items())), shapes)

    @property
    def attribute(self) -> Mapping[str, int | str]:
        return dict(self.attributes)

    def __str__(self) -> str:
        attributes = ",".join(f"{name}={value}" for name, value in self.attributes)
        shapes = ",".join("x".join(map(str, shape)) for shape in self.input_shapes)
        return f"{self.kind}[{attributes}]({shapes})"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key behind a text; `BadInput` if the text is not what `str` would write."""
        match = _KEY.fullmatch(text)
        attributes: list[tuple[str, int | str]] = []
        if match:
            for part in filter(None, match[2].split(",")):
                pair = _ATTRIBUTE.fullmatch(part)
                if not pair:
                    break
                value = pair[2]
                attributes.append((pair[1], int(value) if value.lstrip("-").isdigit() else value))
            shapes = tuple(
                tuple(int(size) for size in shape.split("x") if size)
                for shape in match[3].split(",")
                if shape
            )
            key = cls(match[1], tuple(attributes), shapes)
            if str(key) == text and list(attributes) == sorted(attributes):
                return key
        raise BadInput(
            f"{text!r} is not an operator key; one reads like "
            "mbconv[expand=6,kernel=3,out=24,stride=2](16x112x112)."
        )
