from __future__ import annotations

from random import Random

import pytest
import torch

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.search.space import size_of
from nasdeploy.search.spaces.darts import CELLS, GENOTYPES, NODES, DartsSpace, Genotype
from nasdeploy.search.task import Classification

SPACE = DartsSpace()

# Liu et al., table 1, to the last parameter as their code counts them, without the auxiliary head;
# Xu et al. (arXiv:1907.05737), table 1: 3.6 M
PARAMETERS = {"DARTS_V1": 3_169_414, "DARTS_V2": 3_349_342, "PCDARTS": 3_634_678}


@pytest.mark.parametrize("name", GENOTYPES)
def test_a_published_genotype_has_the_published_parameters(name: str) -> None:
    arch = SPACE.arch_of(GENOTYPES[name])
    with torch.device("meta"):
        network = SPACE.build(arch, task=Classification())
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[name]


def test_genotypes_come_back_with_their_inputs_in_order() -> None:
    rng = Random(0)
    for arch in [SPACE.sample(rng) for _ in range(20)]:
        assert SPACE.arch_of(SPACE.genotype_of(arch)) == arch


def test_a_cell_has_14_edges_of_8_operators_and_the_pairs_of_three_nodes_are_decided() -> None:
    sizes = [len(decision.choices) for decision in SPACE.decisions]
    assert sizes == [8] * 2 + [3] + [8] * 3 + [6] + [8] * 4 + [10] + [8] * 5 + sizes[17:]
    assert sizes[:17] == sizes[17:]
    without = DartsSpace(operators=[o for o in SPACE.operators if o != "none"])
    # section 2.4: (products of k (k + 1) / 2 * 7**2)**2 networks, each of them once per idle edge
    idle = 7 ** (2 * (14 - 8))
    assert size_of(without) // idle == (1 * 3 * 6 * 10 * 7**8) ** 2


def test_a_moved_edge_takes_its_operator_along() -> None:
    rng = Random(1)
    arch = SPACE.sample(rng)
    for _ in range(200):
        child = SPACE.mutate(arch, rng)
        for cell in CELLS:
            for node in range(1, NODES):
                old, new = (SPACE.inputs_of(a, cell, node) for a in (arch, child))
                if old != new:
                    index = {d.label: i for i, d in enumerate(SPACE.decisions)}
                    before, after = (
                        sorted(a[index[f"{cell}.node{node}.from{s}"]] for s in inputs)
                        for a, inputs in ((arch, old), (child, new))
                    )
                    assert before == after
        arch = child


def test_what_is_no_cell_is_refused_by_name() -> None:
    good = GENOTYPES["DARTS_V1"]
    with pytest.raises(UsageError, match=r"Node 0 of the normal cell has the inputs \[0, 0\]"):
        SPACE.arch_of(Genotype((("none", 0), ("none", 0), *good.normal[2:]), good.reduction))
    with pytest.raises(UnknownName, match="Did you mean 'sep_conv_3x3'"):
        DartsSpace(operators=["sep_conv_3"])
    with pytest.raises(UsageError, match="layers of darts is 2"):
        DartsSpace(layers=2)
