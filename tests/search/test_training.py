"""Training: the schedule, the average, what a kill may not change, and what is refused."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nasdeploy.errors import BadInput, TrainingDiverged, UsageError
from nasdeploy.pipeline.data import Feed, load_data
from nasdeploy.search.spaces import make_space
from nasdeploy.search.task import Classification, evaluate
from nasdeploy.search.training import (
    Epoch,
    TrainProgress,
    TrainResult,
    TrainSettings,
    _Average,
    _optimizer,
    train,
)

TASK = Classification(label_smoothing=0.1)
QUICK = TrainSettings(epochs=3, learning_rate=0.1, batch_size=32, warmup_epochs=0.5)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Results are promised bit for bit on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Beginning:
    """The first few batches of a pass over real images; kills the process before one of them."""

    feed: Feed
    count: int = 12
    kill_before: tuple[int, int] | None = None

    def batches(self, split: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for step, batch in enumerate(islice(self.feed.batches(split, epoch), self.count)):
            if split == "train" and (epoch, step) == self.kill_before:
                os.kill(os.getpid(), signal.SIGKILL)
            yield batch

    def steps(self, split: str) -> int:
        return min(self.count, self.feed.steps(split))


def images(**changes: object) -> Beginning:
    feed = load_data("fashion-mnist-mini").feed(batch_size=QUICK.batch_size, seed=0)
    return replace(Beginning(feed), **changes)  # type: ignore[arg-type]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.1), nn.Linear(64, 10),
    )  # fmt: skip


def same(one: TrainResult, two: TrainResult) -> bool:
    return one.history == two.history and all(
        torch.equal(one.weights[name], two.weights[name]) for name in one.weights
    )


def test_a_network_learns_real_images_and_keeps_its_best_epoch() -> None:
    data, model = images(count=60), network()
    result = train(model, data, task=TASK, settings=QUICK)
    assert [epoch.number for epoch in result.history] == [1, 2, 3]
    assert result.history[-1].loss < result.history[0].loss
    assert result.top1 == max(epoch.metrics["accuracy"] for epoch in result.history) > 0.6
    assert result.top5 > 0.9
    again = evaluate(model, data.batches("valid", 1), TASK)
    assert again == pytest.approx(dict(result.best.metrics), abs=1e-6)
    assert not model.training


@pytest.mark.slow
def test_a_small_mobile_network_learns_the_shipped_images_in_three_epochs() -> None:
    space = make_space("mobile-small", stages=[[24, 2, 2], [48, 2, 1], [96, 2, 2]])
    arch = tuple([decision.choices.index("k3e3") for decision in space.decisions[1:]])
    torch.manual_seed(0)
    model = space.build((0, *arch), task=TASK)
    feed = load_data("fashion-mnist-mini").feed(batch_size=32, seed=0)
    settings = replace(TrainSettings(), epochs=3)
    result = train(model, feed, task=TASK, settings=settings)
    test = evaluate(model, feed.batches("test"), TASK)
    # six epochs of the like gave 87.5 % on both splits
    assert result.top1 > 0.82 and test["accuracy"] > 0.82


def test_the_same_seed_gives_the_same_weights_whatever_the_caller_drew() -> None:
    one = train(network(), images(), task=TASK, settings=QUICK)
    model = network()
    torch.manual_seed(123)
    before = torch.get_rng_state()
    two = train(model, images(), task=TASK, settings=QUICK)
    assert torch.equal(torch.get_rng_state(), before)
    assert same(one, two)
    assert not same(one, train(network(), images(), task=TASK, settings=replace(QUICK, seed=1)))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_stopping_after_any_epoch_and_resuming_changes_nothing(
    tmp_path: Path, optimizer: str
) -> None:
    settings = replace(QUICK, optimizer=optimizer, learning_rate=0.01)  # type: ignore[arg-type]
    whole = train(network(), images(), task=TASK, settings=settings)

    def stop(progress: TrainProgress) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "training.pt"
    for _ in range(settings.epochs):
        with pytest.raises(KeyboardInterrupt):
            train(network(), images(), task=TASK, settings=settings, checkpoint=path, on_epoch=stop)
    seen: list[TrainProgress] = []
    # another start: everything comes from the checkpoint, and nothing is left to do
    resumed = train(
        network(7), images(), task=TASK, settings=settings, checkpoint=path, on_epoch=seen.append
    )
    assert same(whole, resumed) and not seen


def test_a_kill_in_the_middle_of_an_epoch_changes_nothing(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "import test_training as t; torch.set_num_threads(1);"
        "t.train(t.network(), t.images(kill_before=(2, 5)), task=t.TASK, settings=t.QUICK,"
        " checkpoint=Path(sys.argv[2]))"
    )
    path = tmp_path / "training.pt"
    argv = [sys.executable, "-c", script, str(Path(__file__).parent), str(path)]
    assert subprocess.run(argv, check=False).returncode == -signal.SIGKILL
    seen: list[TrainProgress] = []
    resumed = train(
        network(), images(), task=TASK, settings=QUICK, checkpoint=path, on_epoch=seen.append
    )
    assert [progress.epoch.number for progress in seen] == [2, 3]
    assert seen[0].eta_s is not None and seen[1].eta_s is None
    assert same(resumed, train(network(), images(), task=TASK, settings=QUICK))


def test_a_loss_that_is_not_finite_names_epoch_and_step() -> None:
    class Poisoned(Beginning):
        def batches(self, split: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            for step, (x, y) in enumerate(super().batches(split, epoch)):
                poisoned = split == "train" and (epoch, step) == (2, 3)
                yield (x * float("nan") if poisoned else x), y

    with pytest.raises(TrainingDiverged, match="at step 4 of epoch 2") as caught:
        train(network(), Poisoned(images().feed), task=TASK, settings=QUICK)
    assert caught.value.exit_code == 8


def test_a_validation_loss_that_is_not_finite_names_the_epoch() -> None:
    class Poisoned(Beginning):
        def batches(self, split: str, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            for x, y in super().batches(split, epoch):
                yield (x * float("inf") if (split, epoch) == ("valid", 2) else x), y

    with pytest.raises(TrainingDiverged, match="validation loss is not finite after epoch 2"):
        train(network(), Poisoned(images().feed), task=TASK, settings=QUICK)


def test_too_great_a_learning_rate_diverges_and_is_named() -> None:
    settings = replace(QUICK, learning_rate=1e30, grad_clip=None)
    with pytest.raises(TrainingDiverged, match=r"1e\+30.*lower the learning rate"):
        train(network(), images(), task=TASK, settings=settings)


def test_the_rate_rises_in_a_line_and_falls_along_a_half_cosine() -> None:
    settings = TrainSettings(epochs=10, learning_rate=0.4, warmup_epochs=2)
    # by hand: 0.4 x (1 + cos(pi x (e - 2) / 8)) / 2
    expected = {0: 0.0, 1: 0.2, 2: 0.4, 4: 0.3414214, 6: 0.2, 10: 0.0}
    assert {e: settings.rate_at(e) for e in expected} == pytest.approx(expected)
    assert replace(settings, cosine=False).rate_at(9) == 0.4


def test_the_average_follows_its_closed_form_and_copies_counters() -> None:
    layer, norm = nn.Linear(1, 1), nn.BatchNorm1d(1)
    average = _Average(model := nn.Sequential(layer, norm), 0.25)
    start = layer.weight.item()
    for value in (1.0, 2.0):
        nn.init.constant_(layer.weight, value)
        norm(torch.zeros(2, 1))
        average.update(model)
    # the first two updates decay by 2 / 11 and 3 / 12, the latter equal to the 0.25 that is asked
    after = (start * 2 / 11 + 9 / 11) * 0.25 + 2.0 * 0.75
    weights = average.model.state_dict()
    assert weights["0.weight"].item() == pytest.approx(after)
    assert weights["1.num_batches_tracked"].item() == 2


def test_biases_and_batch_norm_do_not_decay() -> None:
    groups = _optimizer(network(), QUICK).param_groups
    assert [group["weight_decay"] for group in groups] == [QUICK.weight_decay, 0.0]
    assert [p.ndim for p in groups[0]["params"]] == [4, 4, 2]
    assert [p.ndim for p in groups[1]["params"]] == [1] * 5


def test_without_an_average_the_weights_themselves_are_judged() -> None:
    settings = replace(QUICK, epochs=1, ema_decay=None)
    model = network()
    result = train(model, images(), task=TASK, settings=settings)
    assert all(torch.equal(result.weights[n], v) for n, v in model.state_dict().items())


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    path, short = tmp_path / "training.pt", replace(QUICK, epochs=1)
    data = images(count=2)
    train(network(), data, task=TASK, settings=short, checkpoint=path, identity={"arch": "[0, 1]"})
    with pytest.raises(UsageError, match=r"arch was '\[0, 1\]' and is now '\[0, 2\]'"):
        train(
            network(), data, task=TASK, settings=short, checkpoint=path, identity={"arch": "[0, 2]"}
        )
    other = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    with pytest.raises(UsageError, match="weights of another network"):
        train(other, data, task=TASK, settings=short, checkpoint=path, identity={"arch": "[0, 1]"})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(BadInput, match="is not a readable checkpoint"):
        train(network(), data, task=TASK, settings=short, checkpoint=path)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"optimizer": "lion"},
        {"learning_rate": float("inf")},
        {"warmup_epochs": 4},
        {"ema_decay": 1.0},
        {"grad_clip": 0.0},
        {"mixed_precision": "int4"},
    ],
)
def test_settings_that_make_no_training_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        replace(QUICK, **wrong)  # type: ignore[arg-type]


def test_what_needs_cuda_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UsageError, match="There is no cuda here"):
        train(network(), images(), task=TASK, settings=QUICK, device="cuda")
    with pytest.raises(UsageError, match="needs CUDA"):
        train(network(), images(), task=TASK, settings=replace(QUICK, mixed_precision="bf16"))
    with pytest.raises(UsageError, match="'tpu9' is not a device"):
        train(network(), images(), task=TASK, settings=QUICK, device="tpu9")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_learns_as_well(precision: str) -> None:
    settings = replace(QUICK, mixed_precision=precision)  # type: ignore[arg-type]
    assert train(network(), images(count=60), task=TASK, settings=settings).top1 > 0.6


def test_the_latest_of_equally_good_epochs_is_the_best() -> None:
    class Undecided(Classification):
        def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
            return {"accuracy": 0.5, "top5": 1.0}

    result = train(network(), images(count=2), task=Undecided(), settings=QUICK)
    assert isinstance(result.best, Epoch) and result.best.number == 3
