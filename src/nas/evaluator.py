"""What an architecture is worth: accuracy, latency, and exact counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from nas.architecture import Architecture
from nas.running import console_of, script_runs_once

if TYPE_CHECKING:
    from nasdeploy.pipeline.console import Console
    from nasdeploy.pipeline.evaluating import Evaluation

METRICS = ("accuracy", "latency", "flops", "params")


class ArchitectureEvaluator:
    """Evaluates architectures at the shape and classes of a data set.

    Args:
        epochs: Of the training behind ``accuracy``, where the architecture has not been trained on
            that data set yet.
        table: ``latency`` is then this table's estimate; else it is measured.
        device, runtime, precision, threads: What ``latency`` is measured on, as the command line
            names them: the network is exported with random weights, since latency hardly depends
            on them, and run in three process starts. The median counts.
        images, data_root, seed, quiet: As a searcher's.
    """

    def __init__(
        self,
        *,
        epochs: int = 10,
        batch_size: int = 64,
        table: str | None = None,
        device: str = "local",
        runtime: str = "onnxruntime",
        precision: str = "fp32",
        threads: int = 1,
        images: int | None = None,
        data_root: str | None = None,
        seed: int = 0,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        values: dict[str, Any] = {
            "table": table,
            "device": device,
            "runtime": runtime,
            "precision": precision,
            "threads": threads,
            "images": images,
            "data_root": data_root,
            "seed": seed,
            "train": {"settings": {"epochs": epochs, "batch_size": batch_size}},
        }
        self._values = {key: value for key, value in values.items() if value is not None}

    def evaluate_architecture(
        self,
        architecture: Architecture,
        dataset: str | None = None,
        metrics: Sequence[str] = METRICS,
    ) -> dict[str, float]:
        """Exactly the metrics that were asked for.

        ``accuracy`` is the share of test images whose top class is right (0 to 1), ``latency``
        milliseconds, ``flops`` multiply-accumulates, ``params`` trained numbers. On the data set of
        the search they are of the network that ships; on another one, of the same architecture at
        its shape and classes.

        Args:
            dataset: That of the search if None.
        Raises: `UnknownName` for a metric that there is not; the errors of nasdeploy.
        """
        from nasdeploy.errors import UnknownName

        for name in metrics:
            if name not in METRICS:
                raise UnknownName("metric", name, METRICS)
        console = console_of(self._quiet)
        console.loading()
        is_own = dataset is None or dataset == architecture.dataset
        evaluation = self._evaluation(architecture, dataset, console, is_own)

        def accuracy() -> float:
            same = is_own and evaluation.config.images == architecture.images
            found = (_trained(architecture) if same else None) or evaluation.trained()
            return float(found["test"]["accuracy"])

        of: dict[str, Callable[[], float]] = {
            "accuracy": accuracy,
            "latency": evaluation.latency_ms,
            "flops": lambda: evaluation.counted("macs"),
            "params": lambda: evaluation.counted("params"),
        }
        with script_runs_once():
            return {name: of[name]() for name in metrics}

    def _evaluation(
        self, architecture: Architecture, dataset: str | None, console: Console, is_own: bool
    ) -> Evaluation:
        from nasdeploy.pipeline.config import make_config
        from nasdeploy.pipeline.evaluating import Evaluation

        values = {**self._values, "space": dict(architecture.space)}
        values["data"] = dataset or architecture.dataset
        if is_own and architecture.images is not None:
            values.setdefault("images", architecture.images)
        config = make_config(values, source="ArchitectureEvaluator")
        return Evaluation(config, architecture.arch, console, at_data=not is_own)


def _trained(architecture: Architecture) -> dict[str, Any] | None:
    """What the training of a run's architecture came to, if it was this one's."""
    from nasdeploy.pipeline.run_folder import RunFolder

    outputs = RunFolder(architecture.run).outputs_of("train")
    winner: dict[str, Any] = (outputs or {}).get("winner", {})
    return winner if winner.get("arch") == list(architecture.arch) else None
