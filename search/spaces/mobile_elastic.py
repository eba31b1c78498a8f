"""The mobile space with once-for-all's decisions: resolution, and each stage's width and depth.

Cai et al., Once-for-All (ICLR 2020, arXiv:1908.09791), section 3.2: depths of 2 to 4 blocks a
stage, kernels 3, 5, 7, expansions 3, 4, 6, several input sizes; here each stage's width is decided
as well. The channels are those of `mobile`. The shape of a block depends on the resolution, on the
width of its stage and, at its beginning, on that of the stage before: cost terms look at up to four
decisions each, and the exact range still takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import TYPE_CHECKING, Any

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cells import decision_index
from nasdeploy.search.space import Arch, Decision, Deployment, check_arch
from nasdeploy.search.spaces.mobile import PRESETS, mbconv_key, rounded_width, shape_after
from nasdeploy.search.wired_space import PlannedSpace, checked_deployment
from nasdeploy.search.wiring import IMAGE, Plan, PlanWiring, Shape, TermWiring, Wire, output_shape

if TYPE_CHECKING:
    from torch import nn

    from nasdeploy.search.supernet import Mixing, Supernet
    from nasdeploy.search.task import Task

LAYOUT = PRESETS["mobile"]
USUAL = Deployment((3, 224, 224), 1000)


@dataclass(frozen=True, slots=True)
class _Part:
    """A place in the chain: which decisions its operator depends on, and the operator.

    Attributes:
        key: From the choices of `decisions` to the operator there; None for none.
    """

    name: str
    decisions: tuple[int, ...]
    key: Callable[..., OpKey | None]


class ElasticMobileSpace(PlannedSpace):
    """Inverted residuals with elastic depth, width, resolution, kernel and expansion.

    Args:
        input_shape: (channels, height, width) of the image that the network takes; it makes it
            smaller itself where a lower resolution was chosen.
        classes: Outputs of its head.
        resolutions: Heights to choose from, the input's at most; 4, 5, 6 and 7 sevenths of it if
            None.
        widths: What the channels of a stage are multiplied with, rounded to multiples of 8.
        depths: Blocks of a stage, except of stages that have one block anyway.
        kernels, expansions: What a block chooses from.
        stages: (channels, most blocks, stride of the first block) of each; those of `mobile` if
            None.
    Raises: `UsageError` naming the number that makes no network.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        resolutions: Sequence[int] | None = None,
        widths: Sequence[float] = (0.75, 1.0),
        depths: Sequence[int] = (2, 3, 4),
        kernels: Sequence[int] = (3, 5, 7),
        expansions: Sequence[int] = (3, 4, 6),
        stages: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.name = "mobile-elastic"
        self.deployment = checked_deployment(self.name, USUAL, input_shape, classes)
        height = self.deployment.input_shape[1]
        if resolutions is None:
            resolutions = sorted({max(1, round(height * part / 7)) for part in (4, 5, 6, 7)})
        self.resolutions, self.widths = tuple(resolutions), tuple(map(float, widths))
        self.depths = tuple(depths)
        self.blocks = tuple((k, e) for e in expansions for k in kernels)
        self.kernels, self.expansions = tuple(kernels), tuple(expansions)
        self.stages = tuple((c, n, s) for c, n, s in (stages or LAYOUT.stages))
        self._check(height)
        self.decisions = tuple(self._decisions())
        self._index = decision_index(self.decisions)

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "resolutions": list(self.resolutions),
            "widths": list(self.widths),
            "depths": list(self.depths),
            "kernels": list(self.kernels),
            "expansions": list(self.expansions),
            "stages": [list(stage) for stage in self.stages],
        }

    def idle(self, arch: Arch) -> frozenset[int]:
        """Blocks behind the depth of their stage."""
        check_arch(self, arch)
        return frozenset(
            self._index[f"stage{stage}.block{block}"]
            for stage, (_, most, _) in enumerate(self.stages, start=1)
            for block in range(2, most + 1)
            if block > self._depth(stage, arch)
        )

    def plan(self, arch: Arch, deployment: Deployment | None = None) -> Plan:
        check_arch(self, arch)
        deployment = deployment or self.deployment
        net = PlanWiring(arch)
        wire = Wire(IMAGE, deployment.input_shape)
        for part in self._parts(deployment):
            key = part.key(*(arch[decision] for decision in part.decisions))
            if key is not None:
                wire = net.op(part.name, key, wire)
        return net.finish(wire)

    def cost_terms(self) -> tuple[CostTerm, ...]:
        return self._cost_terms

    @cached_property
    def _cost_terms(self) -> tuple[CostTerm, ...]:
        net = TermWiring(self.decisions)
        for part in [*self._parts(self.deployment), self._head()]:
            joint = product(*(range(net.sizes[decision]) for decision in part.decisions))
            keys = [part.key(*choices) for choices in joint]
            net.add(part.decisions, [() if key is None else (str(key),) for key in keys])
        return net.finish()

    def supernet(
        self, mixing: Mixing, *, task: Task, deployment: Deployment | None = None
    ) -> Supernet:
        """Paths of different shapes have weights of their own: only one can be taken at a time."""
        from nasdeploy.search.supernet import Supernet
        from nasdeploy.search.wired import Network

        deployment = deployment or self.deployment
        parts: list[tuple[str, nn.Module, tuple[str, ...]]] = []
        last = IMAGE
        for part in self._parts(deployment):
            # what differs in the input's size only shares its weights
            weighty = [d for d in part.decisions if d != 0 or part.name == "resize"]
            module = self._nested(part, weighty, {0: len(self.resolutions) - 1}, mixing)
            parts.append((part.name, module, (last,)))
            last = part.name
        features = self.plan((0,) * len(self.decisions), deployment).shape
        parts.append(("head", task.head(features, deployment.classes), (last,)))
        return Supernet(
            Network(parts, "head"), partial(self.build, task=task, deployment=deployment)
        )

    def _nested(
        self, part: _Part, ahead: Sequence[int], chosen: dict[int, int], mixing: Mixing
    ) -> nn.Module:
        """A choice for each decision of a part, one within the other."""
        from torch import nn

        from nasdeploy.search.ops import op_module
        from nasdeploy.search.supernet import Choice

        if not ahead:
            key = part.key(*(chosen[decision] for decision in part.decisions))
            return nn.Identity() if key is None else op_module(key)
        decision, *others = ahead
        candidates: list[nn.Module] = []
        for choice in range(len(self.decisions[decision].choices)):
            if self.decisions[decision].label.endswith(".depth"):
                candidates.append(self._at_depth(part, choice, others, chosen, candidates, mixing))
            else:
                now = {**chosen, decision: choice}
                candidates.append(self._nested(part, others, now, mixing))
        return Choice(decision, candidates, mixing)

    def _at_depth(
        self,
        part: _Part,
        depth: int,
        others: Sequence[int],
        chosen: dict[int, int],
        before: Sequence[nn.Module],
        mixing: Mixing,
    ) -> nn.Module:
        """No block, or one that all depths share."""
        from torch import nn

        from nasdeploy.search.supernet import Choice

        at = next(d for d in part.decisions if self.decisions[d].label.endswith(".depth"))
        now = {**chosen, at: depth}
        if part.key(*(now.get(decision, 0) for decision in part.decisions)) is None:
            return nn.Identity()
        shared = next((module for module in before if isinstance(module, Choice)), None)
        return self._nested(part, others, now, mixing) if shared is None else shared

    def _decisions(self) -> Iterator[Decision]:
        yield Decision("resolution", tuple(map(str, self.resolutions)))
        labels = tuple(f"k{kernel}e{expand}" for kernel, expand in self.blocks)
        for stage, (_, most, _) in enumerate(self.stages, start=1):
            yield Decision(f"stage{stage}.width", tuple(f"{width:g}" for width in self.widths))
            if most > 1:
                yield Decision(f"stage{stage}.depth", tuple(map(str, self.depths)))
            for block in range(1, most + 1):
                yield Decision(f"stage{stage}.block{block}", labels)

    def _depth(self, stage: int, arch: Arch) -> int:
        if self.stages[stage - 1][1] == 1:
            return 1
        return self.depths[arch[self._index[f"stage{stage}.depth"]]]

    def _parts(self, deployment: Deployment) -> Iterator[_Part]:
        """Everything before the head, in order; decision 0 is the resolution."""

        def stem(resolution: int) -> OpKey:
            shape = self._resized(deployment, resolution)
            return OpKey.of("conv_bn_relu6", [shape], kernel=3, out=LAYOUT.stem, stride=2)

        def first(resolution: int) -> OpKey:
            return mbconv_key(output_shape(stem(resolution)), LAYOUT.first, 1, 3, 1)

        def features(resolution: int, width: int) -> OpKey:
            shape = self._behind(deployment, len(self.stages), resolution, width)
            return OpKey.of("conv_bn_relu6", [shape], kernel=1, out=LAYOUT.features, stride=1)

        yield _Part("resize", (0,), partial(self._resize, deployment))
        yield _Part("stem", (0,), stem)
        yield _Part("first", (0,), first)
        for stage in range(1, len(self.stages) + 1):
            yield from self._stage(deployment, stage)
        yield _Part("features", (0, self._index[f"stage{len(self.stages)}.width"]), features)

    def _stage(self, deployment: Deployment, stage: int) -> Iterator[_Part]:
        _, most, stride = self.stages[stage - 1]
        own = self._index[f"stage{stage}.width"]

        def begins(resolution: int, *choices: int) -> OpKey:
            *before, width, block = choices
            kernel, expand = self.blocks[block]
            shape = self._behind(deployment, stage - 1, resolution, *before)
            return mbconv_key(shape, self._channels(stage, width), expand, kernel, stride)

        def follows(number: int, resolution: int, width: int, *choices: int) -> OpKey | None:
            depth, block = choices
            if number > self.depths[depth]:
                return None
            kernel, expand = self.blocks[block]
            shape = self._behind(deployment, stage, resolution, width)
            return mbconv_key(shape, shape[0], expand, kernel, 1)

        before = () if stage == 1 else (self._index[f"stage{stage - 1}.width"],)
        block = self._index[f"stage{stage}.block1"]
        yield _Part(f"stage{stage}_block1", (0, *before, own, block), begins)
        for number in range(2, most + 1):
            depth = self._index[f"stage{stage}.depth"]
            block = self._index[f"stage{stage}.block{number}"]
            name = f"stage{stage}_block{number}"
            yield _Part(name, (0, own, depth, block), partial(follows, number))

    def _head(self) -> _Part:
        def head(resolution: int) -> OpKey:
            _, height, width = self._behind(self.deployment, len(self.stages), resolution, 0)
            return self.head_key((LAYOUT.features, height, width))

        return _Part("head", (0,), head)

    def _resize(self, deployment: Deployment, resolution: int) -> OpKey | None:
        shape = self._resized(deployment, resolution)
        if shape == deployment.input_shape:
            return None
        return OpKey.of("resize", [deployment.input_shape], height=shape[1], width=shape[2])

    def _resized(self, deployment: Deployment, resolution: int) -> Shape:
        """The image at a resolution, in proportion where a proxy is trained at another size."""
        channels, height, width = deployment.input_shape
        share = self.resolutions[resolution] / self.deployment.input_shape[1]
        return channels, max(1, round(height * share)), max(1, round(width * share))

    def _behind(self, deployment: Deployment, stage: int, resolution: int, *width: int) -> Shape:
        """The shape behind a stage; behind the first block for stage 0."""
        shape = shape_after(self._resized(deployment, resolution), LAYOUT.first, 2)
        for number, (_, _, stride) in enumerate(self.stages[:stage], start=1):
            channels = self._channels(number, *width) if number == stage else shape[0]
            shape = shape_after(shape, channels, stride)
        return shape

    def _channels(self, stage: int, width: int) -> int:
        return rounded_width(self.stages[stage - 1][0] * self.widths[width])

    def _check(self, height: int) -> None:
        rules = {
            "resolutions": (self.resolutions, lambda value: 0 < value <= height),
            "widths": (self.widths, lambda value: value > 0),
            "depths": (self.depths, lambda value: isinstance(value, int) and value > 0),
            "kernels": (self.kernels, lambda value: value > 0 and value % 2 == 1),
            "expansions": (self.expansions, lambda value: isinstance(value, int) and value > 0),
        }
        for what, (values, holds) in rules.items():
            if not values or len(set(values)) < len(values) or not all(map(holds, values)):
                raise UsageError(
                    f"{what} of {self.name} is {list(values)}: different positive numbers, kernels "
                    f"odd, resolutions at most {height}."
                )
        for channels, most, stride in self.stages:
            if min(channels, most, stride) < 1 or (most > 1 and max(self.depths) > most):
                raise UsageError(
                    f"stages of {self.name} has {channels, most, stride}: channels, blocks and "
                    f"stride, as many blocks as the depth {max(self.depths)} needs."
                )
