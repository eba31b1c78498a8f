"""Spaces that a user writes: as data, and as a class."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import yaml

from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.search.counters import count, counted_cost
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.spaces.custom import Misfit
from nasdeploy.search.spaces.python_class import check_space
from nasdeploy.search.supernet import SinglePath
from nasdeploy.search.task import Classification

EXAMPLES = Path(__file__).parents[2] / "examples" / "spaces"
TASK = Classification()


def tiny() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((EXAMPLES / "tiny.yaml").read_text())
    return values


@pytest.fixture(params=["tiny", "wide_or_deep:WideOrDeep"])
def space(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> SearchSpace:
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLES)])
    name = str(request.param)
    return make_space(tiny() if name == "tiny" else name)


def test_an_example_is_built_costed_and_made_again(space: SearchSpace) -> None:
    rng = Random(0)
    cost = counted_cost(space, "macs")
    for arch in [space.sample(rng) for _ in range(5)]:
        network = space.build(arch, task=TASK)
        assert count(network, [space.deployment.input_shape]).macs == cost.of(arch)
        assert space.mutate(arch, rng) != arch
    again = make_space(json.loads(json.dumps(space.config)))
    assert again.config == space.config
    assert again.decisions == space.decisions


def test_an_example_s_supernet_gives_its_paths(space: SearchSpace) -> None:
    torch.manual_seed(0)
    supernet, rng = space.supernet(SinglePath(()), task=TASK).eval(), Random(1)
    x = torch.randn(2, *space.deployment.input_shape)
    for arch in [space.sample(rng) for _ in range(4)]:
        network = supernet.extract(arch)
        with supernet.mixed_by(SinglePath(arch)), torch.no_grad():
            assert torch.allclose(supernet(x), network(x), atol=1e-6)


def test_a_block_that_changes_the_shape_cannot_be_left_out() -> None:
    space = make_space(tiny())
    assert [(d.label, len(d.choices)) for d in space.decisions] == [
        *[("low.block1", 3), ("low.block2", 4)],
        *[("high.block1", 3), ("high.block2", 4), ("high.block3", 4)],
    ]


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("stages", 1, "choices", 0), {"mbconf": {}}, "Did you mean 'mbconv'"),
        (("stages", 1, "choices", 0), {"mbconv": {"kernel": 3}}, "mbconv takes expand, kernel"),
        (("stages", 1, "choices", 0), {"sep_conv": {"kernel": 3}}, "keeps the channels"),
        (("stages", 1, "choices", 1, "mbconv", "kernel"), 4, "must be odd"),
        (("stages", 1, "blocks"), 0, "0 is not a whole number of at least 1"),
        (("stages", 1, "strides"), 2, "Did you mean 'stride'"),
        (("stages", 1, "name"), "stem", "there is a stage 'stem' already"),
        (("stages", 1, "choices"), ["skip"], "needs a choice beside skip"),
        (("classes",), 1, "at least 2"),
        (("input_shape",), [32, 32], "is not channels, height and width"),
    ],
)
def test_what_is_wrong_says_where(place: tuple[Any, ...], value: Any, message: str) -> None:
    values = tiny()
    inner: Any = values
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = value
    with pytest.raises(Misfit, match=message) as failed:
        make_space(values)
    assert failed.value.place[: len(place)] == place


def test_a_class_that_is_not_there_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(EXAMPLES)])
    with pytest.raises(UsageError, match="there is no module nowhere"):
        make_space("nowhere:Space")
    with pytest.raises(UnknownName, match="Did you mean 'WideOrDeep'"):
        make_space("wide_or_deep:WideOrDeeper")
    with pytest.raises(BadInput, match=r"wide_or_deep\.py, line \d+ \(WideOrDeep\): .*'wide'"):
        make_space("wide_or_deep:WideOrDeep", wide=3)


def test_a_class_whose_terms_do_not_fit_is_refused_when_it_is_loaded() -> None:
    space: Any = make_space(tiny())
    name = space.name
    check_space(space, name, "here")
    with pytest.raises(BadInput, match=r"here: its config must hold name: 'other'"):
        check_space(space, "other", "here")
    good = space.cost_terms()
    for term, message in [
        (CostTerm((0,), (2,), ((), ())), r"looks at decisions \(0,\) with \(2,\) choices"),
        (CostTerm((), (), (("mbconv[](1x1x1)",),)), "which all_ops has not"),
    ]:
        space.__dict__["_cost_terms"] = good
        ops = space.all_ops()
        space.all_ops = lambda ops=ops: ops
        space.__dict__["_cost_terms"] = (*good, term)
        with pytest.raises(BadInput, match=message):
            check_space(space, name, "here")
    with pytest.raises(BadInput, match="here: a space needs deployment, decisions"):
        check_space(type("Empty", (), {"name": "x"})(), "x", "here")
