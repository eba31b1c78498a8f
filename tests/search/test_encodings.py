from __future__ import annotations

import json
from random import Random

import networkx
import numpy as np
import pytest
from small_spaces import SMALL, small

from nasdeploy.errors import BadInput, UnknownName
from nasdeploy.search.encodings import (
    canonical_arch,
    canonical_hash,
    from_adjacency,
    from_graph,
    from_json,
    from_text,
    to_adjacency,
    to_graph,
    to_json,
    to_text,
)
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces.darts import DartsSpace, Genotype
from nasdeploy.search.spaces.nasbench201 import NasBench201Space
from nasdeploy.search.wiring import all_archs


@pytest.fixture(params=sorted(SMALL))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return small(str(request.param))


def test_text_and_nested_data_keep_every_choice(space: SearchSpace) -> None:
    rng = Random(0)
    for _ in range(10):
        arch = tuple(rng.randrange(len(decision.choices)) for decision in space.decisions)
        assert from_text(space, to_text(space, arch)) == arch
        assert from_json(space, json.loads(json.dumps(to_json(space, arch)))) == arch


def test_graph_and_matrix_give_the_architecture_back(space: SearchSpace) -> None:
    rng = Random(1)
    for _ in range(10):
        arch = canonical_arch(space, space.sample(rng))
        graph = to_graph(space, arch)
        assert networkx.is_directed_acyclic_graph(graph)
        assert from_graph(space, graph) == arch
        adjacency = to_adjacency(space, arch)
        assert not np.tril(adjacency.matrix).any()
        assert from_adjacency(space, adjacency) == arch


def test_idle_decisions_change_neither_network_nor_hash(space: SearchSpace) -> None:
    rng = Random(2)
    for _ in range(5):
        arch = tuple(rng.randrange(len(decision.choices)) for decision in space.decisions)
        assert canonical_hash(space, arch) == canonical_hash(space, canonical_arch(space, arch))


def test_nasbench201_falls_into_the_published_number_of_cells() -> None:
    space = NasBench201Space()
    assert len({canonical_hash(space, arch) for arch in all_archs(space.decisions)}) == 6_466


def test_cells_whose_nodes_change_places_are_alike_and_others_are_not() -> None:
    space = DartsSpace(channels=4, layers=3)
    first, second = ("sep_conv_3x3", 0), ("dil_conv_5x5", 1)
    third = ("max_pool_3x3", 0), ("skip_connect", 1)
    rest = (("avg_pool_3x3", 0), ("skip_connect", 1)) * 2
    one = Genotype((first, second, *third, *rest), (first, second, *third, *rest))
    other = Genotype((*third, first, second, *rest), (first, second, *third, *rest))
    unlike = Genotype((*third, first, second, *rest), (second, ("none", 0), *third, *rest))
    hashes = [canonical_hash(space, space.arch_of(genotype)) for genotype in (one, other, unlike)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_what_is_no_architecture_says_where() -> None:
    space = small("nasbench201")
    arch = space.sample(Random(0))
    text = to_text(space, arch)
    with pytest.raises(UnknownName, match=r"Unknown decision of nasbench201 'node1\.from1'"):
        from_text(space, text.replace("node1.from0", "node1.from1"))
    with pytest.raises(BadInput, match=r"needs a choice of node3\.from2"):
        from_text(space, text.rpartition(";")[0])
    graph = to_graph(space, arch)
    graph.nodes["stage1_cell1_node1_from0"]["op"] = "conv"
    with pytest.raises(BadInput, match="stage1_cell1_node1_from0 is 'conv'"):
        from_graph(space, graph)
