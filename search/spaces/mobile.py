"""ProxylessNAS's mobile space: inverted residuals whose kernel, width and depth are searched.

Cai et al. (ICLR 2019, arXiv:1812.00332), section 4.2, with the channels of the published code: a
3x3 stem, a first block without expansion whose kernel is searched, then six stages of blocks. Each
block is a choice of kernel 3, 5, 7 and expansion 3, 6; where the shape stays, also of no block at
all. The presets differ in numbers only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision, Deployment, Op, check_arch

if TYPE_CHECKING:
    from torch import nn

    from nasdeploy.search.supernet import Mixing, Supernet
    from nasdeploy.search.task import Task

SKIP = "skip"

Shape = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Layout:
    """The numbers of a mobile space.

    Attributes:
        stem, stem_stride: Channels and stride of the first convolution, 3x3.
        first: Channels of the block without expansion behind it.
        stages: (channels, blocks, stride of the first block) of each stage.
        features: Channels of the last 1x1 convolution.
        kernels, expansions: What a block chooses from.
    """

    stem: int
    stem_stride: int
    first: int
    stages: tuple[tuple[int, int, int], ...]
    features: int
    kernels: tuple[int, ...] = (3, 5, 7)
    expansions: tuple[int, ...] = (3, 6)


PRESETS: dict[str, Layout] = {
    "mobile": Layout(
        stem=32,
        stem_stride=2,
        first=16,
        stages=((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1)),
        features=1280,
    ),
    # for 28 to 64 pixels: most of the work at a quarter of the size, few enough operators to
    # profile in half a minute, and networks that train on one core in a minute or two
    "mobile-small": Layout(
        stem=16,
        stem_stride=2,
        first=16,
        stages=((32, 3, 2), (64, 3, 2)),
        features=256,
        kernels=(3, 5),
        expansions=(3, 6),
    ),
}

DEPLOYMENTS: dict[str, Deployment] = {
    "mobile": Deployment((3, 224, 224), 1000),
    "mobile-small": Deployment((1, 28, 28), 10),
}


@dataclass(frozen=True, slots=True)
class _Slot:
    """A block's place: the choices there, None for no block."""

    label: str
    keys: tuple[OpKey | None, ...]
    choices: tuple[str, ...]


class MobileSpace:
    """A `SearchSpace` of inverted residuals.

    Args:
        preset: ``"mobile"`` or ``"mobile-small"``.
        input_shape: (channels, height, width) of the network that ships; the preset's own if None.
        classes: Outputs of its head; the preset's own if None.
        width_mult: Multiplies all channels but the features (those only above 1, as in the
            published code), rounded to a multiple of 8 that is at most 10 % lower.
        layout: Fields of `Layout` that differ from the preset's.
    Raises: `UnknownName`, or `UsageError` naming the number that makes no network.
    """

    def __init__(
        self,
        preset: str = "mobile",
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        width_mult: float = 1.0,
        **layout: Any,
    ) -> None:
        if preset not in PRESETS:
            raise UnknownName("space", preset, PRESETS)
        usual = DEPLOYMENTS[preset]
        self.name = preset
        self.deployment = Deployment(
            _checked_shape(usual.input_shape if input_shape is None else input_shape),
            usual.classes if classes is None else classes,
        )
        self.width_mult = width_mult
        self.layout = _checked_layout(preset, layout)
        if width_mult <= 0 or self.deployment.classes < 2:
            raise UsageError(
                f"{preset} with width_mult={width_mult} and classes={self.deployment.classes}: "
                "the width must be above 0, and there must be at least 2 classes."
            )
        slots = tuple(self._slots(self.deployment))
        self.decisions = tuple(Decision(slot.label, slot.choices) for slot in slots)

    @property
    def config(self) -> Mapping[str, Any]:
        """The preset, the deployment, the width, and what differs from the preset."""
        usual, own = asdict(PRESETS[self.name]), asdict(self.layout)
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "width_mult": self.width_mult,
            **{field: _plain(value) for field, value in own.items() if value != usual[field]},
        }

    def sample(self, rng: Random) -> Arch:
        return tuple(rng.randrange(len(decision.choices)) for decision in self.decisions)

    def mutate(self, arch: Arch, rng: Random) -> Arch:
        """`arch` with one decision, drawn evenly, changed to another choice."""
        check_arch(self, arch)
        changeable = [i for i, decision in enumerate(self.decisions) if len(decision.choices) > 1]
        if not changeable:
            raise UsageError(f"{self.name} has a single architecture: there is nothing to change.")
        at = rng.choice(changeable)
        others = [c for c in range(len(self.decisions[at].choices)) if c != arch[at]]
        return (*arch[:at], rng.choice(others), *arch[at + 1 :])

    def canonical(self, arch: Arch) -> str:
        """The blocks that are there: which of a stage's blocks is skipped makes no difference."""
        check_arch(self, arch)
        slots = zip(arch, self._slots(self.deployment), strict=True)
        keys = [slot.keys[choice] for choice, slot in slots]
        return " ".join(str(key) for key in keys if key)

    def all_ops(self) -> frozenset[Op]:
        # torch is imported where a network is built: costs and ranges need none
        from nasdeploy.search.ops import op_module

        keys = {key for slot in self._slots(self.deployment) for key in slot.keys if key}
        keys.update(self._fixed(self.deployment))
        return frozenset(Op(key, partial(op_module, key)) for key in keys)

    def cost_terms(self) -> tuple[CostTerm, ...]:
        fixed = tuple(str(key) for key in self._fixed(self.deployment))
        terms = [CostTerm((), (), (fixed,))]
        for index, slot in enumerate(self._slots(self.deployment)):
            costs = tuple((str(key),) if key else () for key in slot.keys)
            terms.append(CostTerm((index,), (len(costs),), costs))
        return tuple(terms)

    def build(self, arch: Arch, *, task: Task, deployment: Deployment | None = None) -> nn.Module:
        from torch import nn

        from nasdeploy.search.ops import op_module

        check_arch(self, arch)

        def chosen(index: int, slot: _Slot) -> nn.Module:
            key = slot.keys[arch[index]]
            return op_module(key) if key else nn.Identity()

        return self._assemble(deployment or self.deployment, task, chosen)

    def supernet(
        self, mixing: Mixing, *, task: Task, deployment: Deployment | None = None
    ) -> Supernet:
        from torch import nn

        from nasdeploy.search.alike import start_alike
        from nasdeploy.search.ops import op_module
        from nasdeploy.search.supernet import Choice, Supernet

        def choice(index: int, slot: _Slot) -> nn.Module:
            candidates = [op_module(key) if key else nn.Identity() for key in slot.keys]
            start_alike(candidates)
            return Choice(index, candidates, mixing)

        body = self._assemble(deployment or self.deployment, task, choice)
        return Supernet(body, partial(self.build, task=task, deployment=deployment))

    def _assemble(
        self, deployment: Deployment, task: Task, block: Callable[[int, _Slot], nn.Module]
    ) -> nn.Module:
        from torch import nn

        from nasdeploy.search.ops import op_module

        stem, features, classifier = self._fixed(deployment)
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=op_module(stem))
        for index, slot in enumerate(self._slots(deployment)):
            parts[slot.label.replace(".", "_")] = block(index, slot)
        parts["features"] = op_module(features)
        channels, height, width = classifier.input_shapes[0]
        parts["head"] = task.head((channels, height, width), deployment.classes)
        return nn.Sequential(parts)

    def _slots(self, deployment: Deployment) -> Iterator[_Slot]:
        layout = self.layout
        shape = shape_after(deployment.input_shape, self._width(layout.stem), layout.stem_stride)
        first = self._width(layout.first)
        yield _Slot(
            "first",
            tuple(mbconv_key(shape, first, 1, kernel, 1) for kernel in layout.kernels),
            tuple(f"k{kernel}" for kernel in layout.kernels),
        )
        shape = shape_after(shape, first, 1)
        for stage, (channels, blocks, stage_stride) in enumerate(layout.stages, start=1):
            out = self._width(channels)
            for block in range(1, blocks + 1):
                stride = stage_stride if block == 1 else 1
                options = [(k, e) for e in layout.expansions for k in layout.kernels]
                keys = [mbconv_key(shape, out, e, k, stride) for k, e in options]
                labels = [f"k{k}e{e}" for k, e in options]
                may_skip = stride == 1 and shape[0] == out
                yield _Slot(
                    f"stage{stage}.block{block}",
                    (*keys, *([None] if may_skip else [])),
                    (*labels, *([SKIP] if may_skip else [])),
                )
                shape = shape_after(shape, out, stride)

    def _fixed(self, deployment: Deployment) -> tuple[OpKey, OpKey, OpKey]:
        """Stem, feature convolution and classifier: what every network has."""
        layout = self.layout
        stem = OpKey.of(
            "conv_bn_relu6",
            [deployment.input_shape],
            kernel=3,
            out=self._width(layout.stem),
            stride=layout.stem_stride,
        )
        shape = shape_after(deployment.input_shape, self._width(layout.stem), layout.stem_stride)
        for channels, _, stride in layout.stages:
            shape = shape_after(shape, self._width(channels), stride)
        out = self._width(layout.features) if self.width_mult > 1 else layout.features
        features = OpKey.of("conv_bn_relu6", [shape], kernel=1, out=out, stride=1)
        head = OpKey.of("classifier", [(out, *shape[1:])], classes=deployment.classes)
        return stem, features, head

    def _width(self, channels: int) -> int:
        return rounded_width(channels * self.width_mult)


def rounded_width(channels: float) -> int:
    """The nearest multiple of 8, or the one above where that loses more than a tenth."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


def mbconv_key(shape: Shape, out: int, expand: int, kernel: int, stride: int) -> OpKey:
    return OpKey.of("mbconv", [shape], expand=expand, kernel=kernel, out=out, stride=stride)


def shape_after(shape: Shape, channels: int, stride: int) -> Shape:
    """The shape behind a convolution that pads by half its kernel."""
    return channels, (shape[1] - 1) // stride + 1, (shape[2] - 1) // stride + 1


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(part) for part in value) if isinstance(value, list | tuple) else value


def _checked_shape(shape: Sequence[int]) -> Shape:
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise UsageError(
            f"input_shape is {list(shape)}: it takes channels, height and width, such as 3,224,224."
        )
    return shape[0], shape[1], shape[2]


def _checked_layout(preset: str, changes: Mapping[str, Any]) -> Layout:
    known = {field.name for field in fields(Layout)}
    for name in changes:
        if name not in known:
            raise UnknownName(f"parameter of {preset}", name, known | {"width_mult"})
    layout = replace(PRESETS[preset], **{name: _tuples(value) for name, value in changes.items()})
    if any(kernel % 2 == 0 or kernel < 1 for kernel in layout.kernels) or not layout.kernels:
        raise UsageError(f"kernels is {list(layout.kernels)}: each must be odd, such as 3, 5, 7.")
    if any(expand < 1 for expand in layout.expansions) or not layout.expansions:
        raise UsageError(f"expansions is {list(layout.expansions)}: each must be at least 1.")
    if not layout.stages or any(len(stage) != 3 or min(stage) < 1 for stage in layout.stages):
        raise UsageError(
            f"stages is {_plain(layout.stages)}: each takes channels, blocks and stride, such as "
            "24,4,2."
        )
    if min(layout.stem, layout.stem_stride, layout.first, layout.features) < 1:
        raise UsageError(f"{layout}: channels and strides must be at least 1.")
    return layout
