from __future__ import annotations

from functools import cache
from random import Random

import pytest
import torchvision
from small_search import small_space

from nasdeploy.errors import UnknownName
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.counters import Counts, count, counted_cost
from nasdeploy.search.ops import op_module
from nasdeploy.search.space import Arch
from nasdeploy.search.spaces import make_space
from nasdeploy.search.task import Classification

SPACE = small_space()


def test_mobilenet_v2_has_the_published_number_of_multiply_accumulates() -> None:
    # 300,774,272 at 224 px: Sandler et al. (CVPR 2018) round it to 300 M; 3,504,872 parameters
    counts = count(torchvision.models.mobilenet_v2(), [(3, 224, 224)])
    assert counts.macs == 300_774_272
    assert counts.params == 3_504_872


@cache
def counted_networks() -> list[tuple[Arch, Counts]]:
    found, rng = [], Random(1)
    for _ in range(3):
        arch = SPACE.sample(rng)
        network = SPACE.build(arch, task=Classification())
        found.append((arch, count(network, [SPACE.deployment.input_shape])))
    return found


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("what", ["macs", "params", "size_bytes", "memory_bytes"])
def test_counting_the_terms_equals_counting_the_network(what: str, precision: str) -> None:
    cost = counted_cost(SPACE, what, precision=precision)
    for arch, counts in counted_networks():
        assert cost.of(arch) == counts.value(what, precision)


def test_a_block_s_memory_peaks_where_its_input_waits_for_the_addition() -> None:
    residual = op_module(OpKey.parse("mbconv[expand=6,kernel=3,out=8,stride=1](8x4x4)"))
    # at the depthwise convolution: 48 channels in, 48 out, and 8 that wait
    assert count(residual, [(8, 4, 4)]).peak_activations == (48 + 48 + 8) * 16
    straight = op_module(OpKey.parse("mbconv[expand=6,kernel=3,out=16,stride=1](8x4x4)"))
    assert count(straight, [(8, 4, 4)]).peak_activations == (48 + 48) * 16


def test_a_block_s_size_has_its_batch_norm_folded() -> None:
    block = op_module(OpKey.parse("mbconv[expand=6,kernel=3,out=16,stride=1](8x4x4)"))
    weights, channels = 8 * 48 + 48 * 9 + 48 * 16, 48 + 48 + 16
    counts = count(block, [(8, 4, 4)])
    assert counts.size_bytes("fp32") == 4 * (weights + channels)
    assert counts.size_bytes("int8") == weights + 8 * channels
    assert counts.params == weights + 2 * channels


def test_counting_changes_nothing() -> None:
    block = op_module(OpKey.parse("mbconv[expand=6,kernel=3,out=16,stride=1](8x4x4)"))
    before = {name: value.clone() for name, value in block.state_dict().items()}
    count(block, [(8, 4, 4)])
    assert block.training
    assert all(value.equal(before[name]) for name, value in block.state_dict().items())
    assert all(not module._forward_hooks for module in block.modules())


def test_the_mobile_space_reaches_from_a_third_of_mobilenet_v2_to_twice_that() -> None:
    space = make_space("mobile")
    reach = counted_cost(space, "macs").range()
    for value, arch in ((reach.low, reach.lowest), (reach.high, reach.highest)):
        network = space.build(arch, task=Classification())
        assert count(network, [(3, 224, 224)]).macs == value
    assert reach.low < 300_774_272 / 2.9 < 300_774_272 * 2.05 < reach.high
    # the largest takes 7x7 and expansion 6 everywhere, the smallest no block where it can
    assert reach.highest == (2, *[5] * 21)
    assert reach.lowest == (0, *[0, 6, 6, 6] * 5, 0)


def test_an_unknown_quantity_is_an_error() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'macs'"):
        counted_cost(small_space(), "mac")
    with pytest.raises(UnknownName, match="Unknown precision 'int4'"):
        counted_cost(small_space(), "size_bytes", precision="int4")
