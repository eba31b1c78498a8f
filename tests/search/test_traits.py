"""What networks are made of, as a Gaussian process sees it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from random import Random

import numpy as np
import pytest
from small_spaces import SMALL, small

from nasdeploy.search.features import Features
from nasdeploy.search.space import Arch
from nasdeploy.search.spaces import make_space
from nasdeploy.search.spaces.nasbench201 import NasBench201Space
from nasdeploy.search.traits import traits
from nasdeploy.search.wired_space import WiredSpace
from nasdeploy.search.wiring import IMAGE, Plan

WIRED = sorted(name for name in SMALL if isinstance(small(name), WiredSpace))
NONE, SKIP, CONV_1X1, CONV_3X3, POOL = range(5)
NO_LAYER = {"add", "avg_pool", "max_pool", "concat", "batch_norm", "bn_relu", "resize"}


def drawn(space: WiredSpace, n: int) -> list[Arch]:
    """Random choices, idle ones too."""
    rng = Random(4)
    sizes = [len(decision.choices) for decision in space.decisions]
    return [tuple(rng.randrange(size) for size in sizes) for _ in range(n)]


def layers(plan: Plan, which: Callable[[Iterable[int]], int]) -> int:
    """On the longest or shortest way through a plan, followed step by step."""
    found: dict[str, int] = {IMAGE: 0}
    zero = set[str]()
    for step in plan.steps:
        ways = [found[name] for name in step.inputs if name not in zero]
        if step.key.kind == "zeros" or not ways:
            zero.add(step.name)
            continue
        found[step.name] = which(ways) + (step.key.kind not in NO_LAYER)
    return 0 if plan.output in zero else found[plan.output]


@pytest.mark.parametrize("name", WIRED)
def test_ways_are_as_long_as_those_through_the_plan(name: str) -> None:
    space = small(name)
    assert isinstance(space, WiredSpace)
    archs = drawn(space, 40)
    names, values = traits(space, archs)
    assert names[-2:] == ["longest", "shortest"]
    plans = [space.plan(arch) for arch in archs]
    assert values[:, -2].tolist() == [layers(plan, max) for plan in plans]
    assert values[:, -1].tolist() == [layers(plan, min) for plan in plans]


@pytest.mark.parametrize("name", WIRED)
def test_convolutions_are_counted_as_the_plan_has_them(name: str) -> None:
    space = small(name)
    assert isinstance(space, WiredSpace)
    archs = drawn(space, 40)
    names, values = traits(space, archs)
    kinds = [kind for kind in names[:-2] if kind.startswith(("sep_conv", "branch", "depthwise"))]
    assert kinds or name == "nasbench201"
    if name == "nasbench201":
        kinds = ["relu_conv_bn kernel=1", "relu_conv_bn kernel=3"]
    for row, arch in zip(values, archs, strict=True):
        plan = space.plan(arch)
        if any(step.key.kind == "zeros" for step in plan.steps):
            continue  # what is computed of zeros is in a plan
        counts = Counter(
            " ".join([step.key.kind, *(f"{k}={v}" for k, v in step.key.attributes
                                       if k not in ("out", "stride"))])
            for step in plan.steps
        )  # fmt: skip
        for kind in kinds:
            assert row[names.index(kind)] == counts[kind], kind


def test_a_cell_has_the_same_traits_however_it_is_written() -> None:
    """x + 3x3(3x3(x)) in five ways that share few choices, and a cell that differs."""
    space = NasBench201Space(cells=1)
    same = [
        (CONV_3X3, SKIP, NONE, NONE, CONV_3X3, SKIP),
        (CONV_3X3, SKIP, NONE, SKIP, CONV_3X3, NONE),
        (SKIP, NONE, CONV_3X3, SKIP, NONE, CONV_3X3),
        (SKIP, CONV_3X3, NONE, NONE, SKIP, CONV_3X3),
        (CONV_3X3, SKIP, SKIP, SKIP, CONV_3X3, NONE),
    ]
    other = (CONV_3X3, NONE, CONV_1X1, SKIP, NONE, CONV_3X3)
    names, values = traits(space, [*same, other, (NONE,) * 6])
    # the stem and two residual blocks, of which a layer each, lie on every way
    expected = {"relu_conv_bn kernel=1": 0, "relu_conv_bn kernel=3": 6, "avg_pool kernel=3": 0}
    assert dict(zip(names, values[0], strict=True)) == expected | {"longest": 9, "shortest": 3}
    assert (values[:5] == values[0]).all() and (values[5] != values[0]).any()
    assert not values[6].any()
    features = Features(space)
    correlation = features.kernel()(features(same), features([*same, other]))
    assert correlation[:, :5].min() > correlation[:, 5].max()


def test_features_of_a_small_space_are_looked_up_and_agree() -> None:
    space = NasBench201Space(channels=4, cells=1)
    archs = drawn(space, 30)
    features = Features(space)
    np.testing.assert_array_equal(features(archs), features._of(np.array(archs)))


def test_in_chains_the_choices_are_counted() -> None:
    """Four blocks that offer the same: which of them takes a choice makes no difference."""
    choices = [{"conv_bn_relu6": {"kernel": kernel}} for kernel in (3, 5)]
    stages = [{"name": "body", "out": 8, "blocks": 4, "choices": choices}]
    shape = {"input_shape": [3, 8, 8], "classes": 3}
    chain = make_space({"kind": "custom", "name": "chain", "stages": stages, **shape})
    assert isinstance(chain, WiredSpace)
    features = Features(chain)
    assert features.kernel().share < 0.5
    taken = sum(features.choices)
    one, other, two = features([(0, 0, 0, 1), (1, 0, 0, 0), (1, 1, 0, 0)])[:, taken:]
    assert (one == other).all()
    assert one == pytest.approx(two * [1.5, 0.5])  # three and one of either kernel; two and two
