from __future__ import annotations

import json
import pickle
from random import Random

import pytest
import torch
from small_search import small_space
from torch import nn

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.latency_tables.table import find_table, read_table
from nasdeploy.search.encodings import canonical_hash
from nasdeploy.search.ops import MBConv, op_module
from nasdeploy.search.space import Deployment, size_of
from nasdeploy.search.spaces import make_space
from nasdeploy.search.task import Classification

TASK = Classification()


def test_the_mobile_space_has_the_72_operators_of_the_published_pixel_1_table() -> None:
    space = make_space("mobile")
    keys = {str(op.key) for op in space.all_ops()}
    assert len(keys) == 72
    assert keys == set(read_table(find_table("pixel1")).ops)
    assert {
        "conv_bn_relu6[kernel=3,out=32,stride=2](3x224x224)",
        "mbconv[expand=1,kernel=7,out=16,stride=1](32x112x112)",
        "mbconv[expand=6,kernel=3,out=24,stride=2](16x112x112)",
        "mbconv[expand=3,kernel=5,out=320,stride=1](192x7x7)",
        "conv_bn_relu6[kernel=1,out=1280,stride=1](320x7x7)",
        "classifier[classes=1000](1280x7x7)",
    } <= keys


def test_it_has_22_decisions_and_only_where_the_shape_stays_no_block() -> None:
    space = make_space("mobile")
    # 3 kernels, then for each stage 6 choices in its first block and 7 in the others
    assert [len(decision.choices) for decision in space.decisions] == ([3] + [6, 7, 7, 7] * 5 + [6])
    # 3 * 6**6 * 7**15, the paper's search space with its first block
    assert size_of(space) == 3 * 6**6 * 7**15


def test_every_cost_term_names_operators_that_are_in_all_ops_and_no_others() -> None:
    space = small_space()
    named = {key for term in space.cost_terms() for keys in term.op_keys for key in keys}
    assert named == {str(op.key) for op in space.all_ops()}


def test_a_network_is_made_of_the_operators_that_its_choices_name() -> None:
    space = small_space()
    arch = space.sample(Random(3))
    seen: list[str] = []

    def note(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        if isinstance(module, MBConv):
            kernel = module.depthwise.conv.kernel_size[0]
            stride = module.depthwise.conv.stride[0]
            wide = module.depthwise.conv.in_channels
            key = OpKey.of(
                "mbconv",
                [tuple(inputs[0].shape[1:])],
                expand=wide // inputs[0].shape[1],
                kernel=kernel,
                out=output.shape[1],
                stride=stride,
            )
            seen.append(str(key))

    network = space.build(arch, task=TASK)
    for module in network.modules():
        module.register_forward_hook(note)
    network(torch.zeros(2, *space.deployment.input_shape))
    named = [
        key
        for term in space.cost_terms()
        if term.decisions
        for key in term.op_keys[arch[term.decisions[0]]]
    ]
    assert seen == named


@pytest.mark.parametrize("preset", ["mobile", "mobile-small"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 64)])
def test_any_shape_can_be_deployed_or_trained_at(preset: str, shape: tuple[int, int, int]) -> None:
    space = make_space(preset, input_shape=shape, classes=7)
    arch = space.sample(Random(0))
    assert space.build(arch, task=TASK)(torch.zeros(2, *shape)).shape == (2, 7)
    proxy = space.build(arch, task=TASK, deployment=Deployment((3, 32, 32), 5))
    assert proxy(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


def test_an_operator_can_be_built_in_another_process_and_keeps_its_shapes() -> None:
    for op in small_space().all_ops():
        module = pickle.loads(pickle.dumps(op)).build().eval()
        out = module(torch.zeros(1, *op.input_shapes[0]))
        wanted = op.key.attribute.get("out", op.key.attribute.get("classes"))
        assert out.shape[1] == wanted


def test_the_input_is_added_exactly_where_the_shape_stays() -> None:
    stays = "mbconv[expand=3,kernel=3,out=8,stride=1](8x4x4)"
    widens = "mbconv[expand=3,kernel=3,out=16,stride=1](8x4x4)"
    halves = "mbconv[expand=3,kernel=3,out=8,stride=2](8x4x4)"
    blocks = [op_module(OpKey.parse(key)) for key in (stays, widens, halves)]
    assert [isinstance(block, MBConv) and block.residual for block in blocks] == [
        True,
        False,
        False,
    ]


def test_an_operator_of_an_unknown_kind_is_an_error() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'mbconv'"):
        op_module(OpKey.of("mbconf", [(8, 4, 4)]))


def test_a_width_multiplier_rounds_to_eights_and_loses_at_most_a_tenth() -> None:
    keys = {str(op.key) for op in make_space("mobile", width_mult=0.35).all_ops()}
    # 32 * 0.35 = 11.2 would be 8: more than a tenth is lost, so 16; the features stay at 1280
    assert "conv_bn_relu6[kernel=3,out=16,stride=2](3x224x224)" in keys
    assert "classifier[classes=1000](1280x7x7)" in keys
    wide = {str(op.key) for op in make_space("mobile", width_mult=1.4).all_ops()}
    assert "classifier[classes=1000](1792x7x7)" in wide


def test_a_configuration_makes_the_same_space_again() -> None:
    space = small_space(width_mult=1.5)
    again = make_space(json.loads(json.dumps(space.config)))
    assert again.config == space.config
    assert again.decisions == space.decisions
    assert again.all_ops() == space.all_ops()


def test_a_mutation_changes_one_decision() -> None:
    space, rng = small_space(), Random(0)
    arch = space.sample(rng)
    for _ in range(50):
        child = space.mutate(arch, rng)
        assert sum(a != b for a, b in zip(arch, child, strict=True)) == 1
        arch = child


def test_which_block_of_a_stage_is_skipped_makes_no_other_network() -> None:
    space = make_space("mobile")
    labels = [decision.label for decision in space.decisions]
    second, third = labels.index("stage1.block2"), labels.index("stage1.block3")
    skip = space.decisions[second].choices.index("skip")

    def with_choices(at_second: int, at_third: int) -> str:
        arch = [0] * len(labels)
        arch[second], arch[third] = at_second, at_third
        return canonical_hash(space, tuple(arch))

    assert with_choices(skip, 1) == with_choices(1, skip)
    assert len({with_choices(skip, 1), with_choices(skip, 2), with_choices(1, 1)}) == 3


def test_the_small_preset_has_at_most_30_operators() -> None:
    assert len(make_space("mobile-small").all_ops()) <= 30


def test_what_makes_no_network_is_refused_by_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'mobile'"):
        make_space("moblie")
    with pytest.raises(UnknownName, match="Did you mean 'features'"):
        make_space("mobile", feature=3)
    with pytest.raises(UsageError, match=r"kernels is \[4\]"):
        make_space("mobile", kernels=[4])
    with pytest.raises(UsageError, match=r"input_shape is \[224, 224\]"):
        make_space("mobile", input_shape=[224, 224])
    with pytest.raises(UsageError, match="is not an architecture of mobile-small"):
        small_space().build((0,), task=TASK)
