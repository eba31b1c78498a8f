from __future__ import annotations

from random import Random

import pytest
import torch
from small_search import Blobs, small_space
from torch import nn

from nasdeploy.search.ops import MBConv
from nasdeploy.search.supernet import Choice, SinglePath, recalibrate_batch_norm
from nasdeploy.search.supernet_training import SupernetSettings, SupernetTrainer
from nasdeploy.search.task import Classification, evaluate

SPACE = small_space()
TASK = Classification()


@pytest.fixture(scope="module")
def trained() -> SupernetTrainer:
    trainer = SupernetTrainer(
        SPACE,
        task=TASK,
        deployment=SPACE.deployment,
        data=Blobs(),
        settings=SupernetSettings(weight_lr=0.1),
        epochs=4,
        seed=0,
    )
    rng = Random(0)
    for epoch in range(4):
        trainer.start_epoch(epoch)
        for number, (x, y) in enumerate(trainer.batches("weights", epoch)):
            trainer.step(SPACE.sample(rng), x, y, epoch=epoch, number=number)
    return trainer


def test_an_extracted_network_computes_what_the_supernet_computes_on_its_path(
    trained: SupernetTrainer,
) -> None:
    supernet, rng = trained.supernet.eval(), Random(5)
    x = torch.randn(8, *SPACE.deployment.input_shape)
    for _ in range(5):
        arch = SPACE.sample(rng)
        with supernet.mixed_by(SinglePath(arch)), torch.no_grad():
            assert torch.allclose(supernet(x), supernet.extract(arch)(x), atol=1e-6)


def test_an_extracted_network_takes_the_names_and_a_copy_of_the_weights(
    trained: SupernetTrainer,
) -> None:
    supernet, arch = trained.supernet, SPACE.sample(Random(2))
    network = supernet.extract(arch)
    assert list(network.state_dict()) == list(SPACE.build(arch, task=TASK).state_dict())
    before = {name: value.clone() for name, value in supernet.state_dict().items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    after = supernet.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_another_mixing_lasts_as_long_as_it_is_asked_for(trained: SupernetTrainer) -> None:
    supernet = trained.supernet
    choices = [module for module in supernet.modules() if isinstance(module, Choice)]
    before = [choice.mixing for choice in choices]
    with pytest.raises(KeyError), supernet.mixed_by(SinglePath((0,) * len(choices))):
        raise KeyError
    assert [choice.mixing for choice in choices] == before


def test_all_candidates_of_a_decision_begin_as_the_same_function() -> None:
    supernet = SPACE.supernet(SinglePath(()), task=TASK)
    for choice in supernet.modules():
        if isinstance(choice, Choice):
            first = next(block for block in choice.candidates if isinstance(block, MBConv))
            channels = (first.expand or first.depthwise).conv.in_channels
            x = torch.randn(4, channels, 6, 6)
            outputs = [candidate(x) for candidate in choice.candidates]
            assert all(torch.allclose(out, outputs[0], atol=1e-5) for out in outputs)


def test_recalibrated_statistics_are_plain_averages_over_the_batches() -> None:
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3)
    model = nn.Sequential(conv, norm)
    batches = [(torch.randn(16, 1, 5, 5) + shift, None) for shift in (0.0, 1.0, 5.0)]
    recalibrate_batch_norm(model, batches, limit=2)
    inner = [conv(x).detach() for x, _ in batches[:2]]
    mean = torch.stack([y.mean((0, 2, 3)) for y in inner]).mean(0)
    variance = torch.stack([y.transpose(0, 1).flatten(1).var(1) for y in inner]).mean(0)
    assert norm.running_mean is not None and norm.running_var is not None
    assert torch.allclose(norm.running_mean, mean, atol=1e-5)
    assert torch.allclose(norm.running_var, variance, atol=1e-5)
    assert norm.momentum == 0.1
    assert model.training


def test_a_metric_is_the_mean_over_images_and_not_over_batches() -> None:
    linear = nn.Linear(2, 2, bias=False)
    model = nn.Sequential(nn.Flatten(), linear)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(2))
    right = torch.tensor([[[1.0, 0.0]]])
    batches = [
        (right.repeat(3, 1, 1)[:, :, None], torch.zeros(3, dtype=torch.int64)),
        (right[:, :, None], torch.ones(1, dtype=torch.int64)),
    ]
    assert evaluate(model, batches, TASK)["accuracy"] == pytest.approx(0.75)
