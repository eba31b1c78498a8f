"""Training the weights of a supernet, one path a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nasdeploy.errors import TrainingDiverged, UsageError
from nasdeploy.search.data import SearchData, Split
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.supernet import SinglePath, Supernet
from nasdeploy.search.task import Task
from nasdeploy.search.wired_space import partial_supernet


@dataclass(frozen=True, slots=True, kw_only=True)
class SupernetSettings:
    """How a supernet is trained and how its paths are scored.

    Attributes:
        weight_lr: Peak learning rate of SGD with Nesterov momentum; a half cosine over all epochs.
        weight_decay: On weights of convolutions and linear layers only.
        recalibration_batches: Training batches that a path's batch norm statistics are taken from
            before it is scored.
        valid_batches: Validation batches that it is scored on; all of them if None.
    """

    weight_lr: float = 0.05
    weight_momentum: float = 0.9
    weight_decay: float = 4e-5
    recalibration_batches: int = 4
    valid_batches: int | None = None

    def __post_init__(self) -> None:
        positive = {
            "weight_lr": self.weight_lr,
            "recalibration_batches": self.recalibration_batches,
            "valid_batches": 1 if self.valid_batches is None else self.valid_batches,
        }
        require("above 0", positive, lambda value: value > 0)
        shares = {"weight_momentum": self.weight_momentum, "weight_decay": self.weight_decay}
        require("at least 0 and below 1", shares, lambda value: 0 <= value < 1)


class SupernetTrainer:
    """A supernet, its optimiser, and one step of it.

    Args:
        epochs: How many the learning rate's schedule spans.
        seed: Of the initial weights. The global random state is left as it was.
        weights: A trained supernet's, in place of initial ones.
        nesterov: Whether momentum looks ahead.
        partial: Candidates take one channel in so many; for spaces of cells.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        task: Task,
        deployment: Deployment,
        data: SearchData,
        settings: SupernetSettings,
        epochs: int,
        seed: int,
        weights: Mapping[str, Tensor] | None = None,
        nesterov: bool = True,
        partial: int = 1,
    ) -> None:
        self.task = task
        self.data = data
        self.settings = settings
        self.epochs = epochs
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._path = SinglePath((0,) * len(space.decisions))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            if partial > 1:
                supernet = partial_supernet(
                    space, self._path, task=task, deployment=deployment, channels=partial
                )
            else:
                supernet = space.supernet(self._path, task=task, deployment=deployment)
        if weights is not None:
            load_supernet(supernet, weights)
        self.supernet: Supernet = supernet.to(self.device).to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            _decayed_apart(self.supernet, settings.weight_decay),
            lr=settings.weight_lr,
            momentum=settings.weight_momentum,
            nesterov=nesterov and settings.weight_momentum > 0,
        )

    def batches(self, split: Split, epoch: int) -> Any:
        """(images in channels_last, targets) on this trainer's device."""
        for x, y in self.data.batches(split, epoch):
            yield x.to(self.device, memory_format=torch.channels_last), y.to(self.device)

    def start_epoch(self, epoch: int) -> None:
        """Set the learning rate of an epoch: the cosine at its middle."""
        self.supernet.train()
        share = (epoch + 0.5) / self.epochs
        rate = 0.5 * self.settings.weight_lr * (1 + math.cos(math.pi * min(share, 1.0)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def step(self, arch: Arch, x: Tensor, y: Tensor, *, epoch: int, number: int) -> float:
        """One step on the path of `arch`; the loss before it."""
        self._path.arch = arch
        return self.update(x, y, epoch=epoch, number=number)

    def update(
        self, x: Tensor, y: Tensor, *, epoch: int, number: int, clip: float | None = None
    ) -> float:
        """One step on what the supernet computes as it is mixed now; the loss before it.

        Args:
            clip: Greatest norm of the gradient.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(self.supernet(x), y)
        value = finite(loss, "supernet's weights", epoch, number, "weight_lr", self.settings)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip is not None:
            # the optimiser has them at hand; the supernet looks for them in thousands of modules
            weights = [p for group in self.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(weights, clip)
        self.optimizer.step()
        return value

    def state_dict(self) -> dict[str, Any]:
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])


def finite(loss: Tensor, of: str, epoch: int, number: int, lever: str, settings: object) -> float:
    """The value of a loss; `TrainingDiverged`, naming the setting to lower, if it is not finite."""
    value = float(loss.detach())
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"The loss of the {of} is {value} in epoch {epoch}, step {number}. Lower {lever} (now "
            f"{getattr(settings, lever)}), or look for damaged images: nasdeploy doctor."
        )
    return value


def load_supernet(supernet: Supernet, weights: Mapping[str, Tensor]) -> None:
    """Take over trained weights; `UsageError` if they belong to another supernet."""
    own = supernet.state_dict()
    unlike = [
        name
        for name in sorted({*own, *weights})
        if name not in own or name not in weights or own[name].shape != weights[name].shape
    ]
    if unlike:
        raise UsageError(
            f"The trained supernet is of another space, shape or number of classes: "
            f"{len(unlike)} of {len(own)} tensors differ, first {unlike[0]}. Train one for this "
            "space: nasdeploy search without --supernet."
        )
    supernet.load_state_dict(dict(weights))


def require(rule: str, values: Mapping[str, float], holds: Any) -> None:
    """`UsageError` for the first setting that breaks a rule."""
    for name, value in values.items():
        if not holds(value):
            raise UsageError(f"{name} is {value}: it must be {rule}.")


def _decayed_apart(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
