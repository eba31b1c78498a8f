"""Training one network from its first weights to the ones that ship.

SGD or AdamW under a cosine with a linear warm-up (Loshchilov & Hutter, arXiv:1608.03983), and the
exponential moving average of the weights, which is what gets evaluated and kept. A training that
was killed goes on from its last epoch and ends with the same bits.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from nasdeploy.errors import TrainingDiverged, UsageError
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.task import Task, evaluate
from nasdeploy.seeds import derived_seed

Batch = tuple[Tensor, Tensor]
_STEPS_BETWEEN_CHECKS = 50


class TrainingData(Protocol):
    """Batches of the splits ``"train"`` and ``"valid"``."""

    def batches(self, split: Literal["train", "valid"], epoch: int) -> Iterator[Batch]:
        """(N, C, H, W) float32 and targets, in an order that only (seed, split, epoch) decide."""
        ...

    def steps(self, split: Literal["train", "valid"]) -> int:
        """How many batches that is."""
        ...


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How to train. What is set here is for small images and a few epochs on one core: there, small
    batches learn more in the same time, since the time goes by the images and not by the steps.

    Attributes:
        learning_rate: The highest; reached after the warm-up.
        warmup_epochs: Over these the rate rises from zero in a straight line; may be a fraction.
        cosine: Whether it then falls to zero along a half cosine, or stays.
        weight_decay: For convolutions and linear layers; biases and batch norm are left alone
            (Goyal et al., arXiv:1706.02677, section 5.3).
        ema_decay: Of the average of the weights, or None for none. The first updates decay less,
            (1 + n) / (10 + n), so that a short training is not held back by its random start.
        grad_clip: Greatest norm of the gradient, or None.
        mixed_precision: ``"bf16"`` and ``"fp16"`` need CUDA; ``"auto"`` is bf16 there, and none on
            the CPU, whose bf16 kernels are slower than its fp32 ones.
        batch_size: For whoever makes the batches.
    Raises: `UsageError` for a number that makes no training.
    """

    epochs: int = 10
    optimizer: Literal["sgd", "adamw"] = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: float = 1.0
    cosine: bool = True
    ema_decay: float | None = 0.99
    grad_clip: float | None = 5.0
    mixed_precision: Literal["auto", "none", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        rules = {
            "epochs": self.epochs >= 1,
            "optimizer": self.optimizer in ("sgd", "adamw"),
            "learning_rate": 0 < self.learning_rate < math.inf,
            "momentum": 0 <= self.momentum < 1,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup_epochs": 0 <= self.warmup_epochs <= self.epochs,
            "ema_decay": self.ema_decay is None or 0 <= self.ema_decay < 1,
            "grad_clip": self.grad_clip is None or self.grad_clip > 0,
            "mixed_precision": self.mixed_precision in ("auto", "none", "bf16", "fp16"),
            "batch_size": self.batch_size >= 1,
        }
        for name, holds in rules.items():
            if not holds:
                raise UsageError(
                    f"{name} = {getattr(self, name)!r} makes no training; see its docs."
                )

    def rate_at(self, epoch: float) -> float:
        """The learning rate at a moment, counted in epochs."""
        if epoch < self.warmup_epochs:
            return self.learning_rate * epoch / self.warmup_epochs
        if not self.cosine or self.warmup_epochs == self.epochs:
            return self.learning_rate
        done = (epoch - self.warmup_epochs) / (self.epochs - self.warmup_epochs)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one epoch came to.

    Attributes:
        number: From 1.
        loss: Mean training loss.
        metrics: Of the task, on the validation split, with the averaged weights.
    """

    number: int
    loss: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """For a progress line: the epoch that ended, and the seconds that are left, or None."""

    epoch: Epoch
    epochs: int
    eta_s: float | None


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A trained network.

    Attributes:
        weights: The state dict of the best epoch, on the CPU.
        best: That epoch: the highest validation metric, the latest among equals.
    """

    weights: dict[str, Tensor]
    best: Epoch
    history: tuple[Epoch, ...]

    @property
    def top1(self) -> float:
        """Share of validation images that were right, 0 to 1."""
        return self.best.metrics["accuracy"]

    @property
    def top5(self) -> float:
        return self.best.metrics["top5"]


def train(
    model: nn.Module,
    data: TrainingData,
    *,
    task: Task,
    settings: TrainSettings,
    checkpoint: Path | None = None,
    identity: Mapping[str, str] | None = None,
    device: str = "auto",
    until: int | None = None,
    on_epoch: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train `model`; it ends in eval mode, on the device it came from, with the best weights.

    Args:
        until: The epoch after which to stop for now, at all of the settings' if None. Schedule and
            checkpoint are those of the whole training: another call goes on from there. What was
            trained further before stays so.
        checkpoint: Written after every epoch, whole; if it is there, the training goes on from it.
        identity: What else decides the result (architecture, data), so that a checkpoint of
            another training is refused.
        device: ``"auto"`` is CUDA where there is one.
    Raises: `TrainingDiverged` naming epoch and step, `UsageError` for a checkpoint of another
        training, `BadInput` for a damaged one.
    """
    run = _Run(model, data, task, settings, _device(device))
    belongs = {**asdict(settings), **(identity or {})}
    home = next(model.parameters()).device
    stored = checkpoints.load(checkpoint, identity=belongs) if checkpoint else None
    if stored is not None:
        run.load_state_dict(stored)
    # what the network itself draws (dropout) is seeded anew in every epoch, and the caller's
    # random state is left as it was
    gpus = [run.device] if run.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        last = settings.epochs if until is None else min(until, settings.epochs)
        while len(run.history) < last:
            began = time.monotonic()
            torch.manual_seed(derived_seed(settings.seed, "epoch", len(run.history)))
            epoch = run.epoch()
            if checkpoint:
                checkpoints.save(checkpoint, run.state_dict(), identity=belongs)
            if on_epoch:
                left = last - epoch.number
                eta_s = (time.monotonic() - began) * left if left else None
                on_epoch(TrainProgress(epoch, last, eta_s))
    model.load_state_dict(run.best_weights)
    model.to(home).eval()
    return TrainResult(run.best_weights, run.best, tuple(run.history))


class _Run:
    """The state of a training, and its one visible unit of work."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainingData,
        task: Task,
        settings: TrainSettings,
        device: torch.device,
    ) -> None:
        self.data, self.task, self.settings, self.device = data, task, settings, device
        self.layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self.layout)
        self.average = _Average(model, settings.ema_decay) if settings.ema_decay else None
        self.optimizer = _optimizer(model, settings)
        self.autocast = _autocast_dtype(settings.mixed_precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast is torch.float16)
        self.history: list[Epoch] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best(self) -> Epoch:
        """The highest metric, the latest among equals."""
        return max(self.history, key=lambda epoch: (epoch.metrics[self.task.metric], epoch.number))

    def epoch(self) -> Epoch:
        number = len(self.history) + 1
        loss = self._pass(number)
        judged = self.average.model if self.average else self.model
        metrics = evaluate(judged, self.data.batches("valid", number), self.task)
        if not all(math.isfinite(value) for value in metrics.values()):
            raise _diverged(
                f"The validation loss is not finite after epoch {number}", self.settings
            )
        self.history.append(Epoch(number, loss, metrics))
        if self.best is self.history[-1]:
            self.best_weights = {
                name: value.detach().cpu().clone() for name, value in judged.state_dict().items()
            }
        return self.history[-1]

    def _pass(self, number: int) -> float:
        """One pass over the training split; the mean loss."""
        self.model.train()
        steps = self.data.steps("train")
        losses: list[Tensor] = []
        for step, (x, y) in enumerate(self.data.batches("train", number)):
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.rate_at(number - 1 + (step + 1) / steps)
            losses.append(self._step(x, y))
            # a look at the loss waits for the device, so not at every step
            if (step + 1) % _STEPS_BETWEEN_CHECKS == 0:
                _require_finite(losses, number, self.settings)
        if not losses:
            raise UsageError("There is no image to train on: the training split is empty.")
        _require_finite(losses, number, self.settings)
        return float(torch.stack(losses).mean())

    def _step(self, x: Tensor, y: Tensor) -> Tensor:
        x = x.to(self.device, non_blocking=True, memory_format=self.layout)
        y = y.to(self.device, non_blocking=True)
        with torch.autocast(
            self.device.type, self.autocast, enabled=self.autocast is not None, cache_enabled=True
        ):
            loss = self.task.loss(self.model(x), y)
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(self.scaler.scale(loss))
        if self.settings.grad_clip is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update(self.model)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best_weights": self.best_weights,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
        except RuntimeError as error:
            raise UsageError(
                "The checkpoint holds the weights of another network: write to another folder."
            ) from error
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.best_weights = dict(state["best_weights"])


class _Average:
    """The exponential moving average of weights and of batch norm's statistics."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for mean, value in zip(_tensors(self.model), _tensors(model), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.updates = state["updates"]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(
            groups, settings.learning_rate, settings.momentum, nesterov=settings.momentum > 0
        )
    return torch.optim.AdamW(groups, settings.learning_rate, betas=(settings.momentum, 0.999))


def _require_finite(losses: Iterable[Tensor], epoch: int, settings: TrainSettings) -> None:
    bad = (~torch.stack(list(losses)).isfinite()).nonzero().flatten().tolist()
    if bad:
        raise _diverged(
            f"The training loss is not finite at step {bad[0] + 1} of epoch {epoch}", settings
        )


def _diverged(what: str, settings: TrainSettings) -> TrainingDiverged:
    return TrainingDiverged(
        f"{what} (learning rate at most {settings.learning_rate:g}): lower the learning rate, "
        "warm up longer, or clip the gradient; then run the same command again."
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"{name!r} is not a device of torch: use auto, cpu or cuda.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"There is no {name} here: use auto or cpu.")
    return device


def _autocast_dtype(wanted: str, device: torch.device) -> torch.dtype | None:
    if wanted in ("bf16", "fp16") and device.type != "cuda":
        raise UsageError(
            f"mixed_precision = {wanted!r} needs CUDA, and this runs on {device.type}: use auto."
        )
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "none"
    return {"none": None, "bf16": torch.bfloat16, "fp16": torch.float16}[wanted]
