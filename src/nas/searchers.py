"""One class for each way of searching; all of them build a run's configuration and start it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from nas.architecture import Architecture
from nas.running import SHIPPED_DATASET, console_of, script_runs_once, space_of

if TYPE_CHECKING:
    from nasdeploy.pipeline.config import RunConfig
    from nasdeploy.pipeline.console import Console

TARGETS = {"mobile": "pixel1"}
"""Tables by the platform that they stand for; any other name is a table's own."""


class _Searcher:
    """A search as it will be run, `search` or `progressive_search` starts it.

    Args:
        dataset: As ``--data`` has it: ``cifar10``, ``imagenet``, ``folder:PATH``, ``FILE.npz``;
            without one the Fashion-MNIST subset that is shipped, ``fashion-mnist-mini``.
        search_space: A space's name, ``_space`` behind it or not.
        epochs: Of the search; the strategy's own without. A strategy that warms up does so in the
            share of them that it usually takes.
        batch_size: Of the search and of the final training.
        space: Parameters of the space that differ from its defaults: ``{"channels": 8}``.
        settings: Of the strategy, as ``--set`` has them; they go before all else.
        latency_constraint: Milliseconds, or ``"100ms"``, ``"40%"``; needs a table.
        table: A latency table's file or name (``pixel1``). Without one no latency is known, and
            none is bounded.
        images: At most so many of each split, to try things.
        data_root: Where the data lie or are downloaded to.
        seed: Of everything that is drawn.
        name: Of the run's folder in ``runs/``; one that the same arguments find again without.
        quiet: No log.
    """

    strategy: ClassVar[str]
    space_name: ClassVar[str]

    def __init__(
        self,
        dataset: str = SHIPPED_DATASET,
        search_space: str | None = None,
        epochs: int | None = None,
        batch_size: int = 64,
        *,
        space: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
        latency_constraint: float | str | None = None,
        table: str | None = None,
        images: int | None = None,
        data_root: str | None = None,
        seed: int = 0,
        name: str | None = None,
        quiet: bool = False,
    ) -> None:
        self._quiet = quiet
        self._batch_size = batch_size
        values = {
            "data": dataset,
            "data_root": data_root,
            "images": images,
            "space": space_of(search_space or self.space_name, space),
            "table": table,
            "seed": seed,
            "name": name,
            "bounds": {"latency": _milliseconds(latency_constraint)},
            "search": {
                "strategy": self.strategy,
                "batch_size": batch_size,
                "settings": {**self._settings(epochs), **(settings or {})},
            },
        }
        self._values = {key: value for key, value in values.items() if value is not None}

    def _settings(self, epochs: int | None) -> dict[str, Any]:
        """`epochs` as the strategy's own settings."""
        if epochs is None:
            return {}
        from nasdeploy.search.strategies import STRATEGIES

        usual = STRATEGIES[self.strategy].settings()
        share = usual.warmup_epochs / (usual.warmup_epochs + usual.search_epochs)
        warmup = int(share * epochs)
        return {"warmup_epochs": warmup, "search_epochs": epochs - warmup}

    @property
    def _config(self) -> RunConfig:
        from nasdeploy.pipeline.config import make_config

        return make_config(self._values, source=type(self).__name__)

    def search(self) -> Architecture:
        """Search; the best architecture within the bounds. The same call goes on after any stop.

        Raises: the errors of nasdeploy (`nasdeploy.errors`), each with what to do about it.
        """
        config, console = self._config, console_of(self._quiet)
        console.loading()
        from nasdeploy.pipeline import flow

        opened = None
        if config.table is not None:
            config, opened = flow.settle_search(config, console, asked={})
        with script_runs_once():
            folder, winner = flow.search_architecture(config, console, opened)
        return Architecture(
            space=winner["space"],
            choices=winner["choices"],
            arch=tuple(winner["arch"]),
            run=folder.path,
            dataset=config.data,
            images=config.images,
            estimated_ms=winner["estimated_ms"],
        )

    def train_final_architecture(
        self, architecture: Architecture, epochs: int = 600, **settings: Any
    ) -> dict[str, Any]:
        """Train an architecture that this search found, from its first weights on.

        Args:
            settings: Of the trainer, such as ``learning_rate``; docs/data.md has them.
        Returns: ``accuracy`` on the test images and ``validation_accuracy``, 0 to 1, the
            ``epochs``, and the file of the ``weights``.
        """
        console = console_of(self._quiet)
        console.loading()
        chosen = {"batch_size": self._batch_size, **settings, "epochs": epochs}
        with script_runs_once():
            return train_found(architecture, chosen, console)


def train_found(
    architecture: Architecture, settings: Mapping[str, Any], console: Console
) -> dict[str, Any]:
    """Train what a run found, in its folder."""
    from nasdeploy.errors import UsageError
    from nasdeploy.pipeline.opened_run import open_run, train_only

    opened = open_run(str(architecture.run), {"train": {"settings": dict(settings)}}, console)
    if tuple(opened.winner["arch"]) != architecture.arch:
        raise UsageError(
            f"{architecture.run} has found another architecture since: search again, with another "
            "name."
        )
    trained = train_only(opened)["winner"]
    return {
        "accuracy": trained["test"]["accuracy"],
        "validation_accuracy": trained["validation"]["accuracy"],
        "epochs": trained["epochs"],
        "weights": opened.folder.winner / "weights.pt",
    }


class DARTSSearcher(_Searcher):
    __doc__ = f"""DARTS: the choices' weights are learnt by gradients. {_Searcher.__doc__}"""

    strategy, space_name = "darts", "darts"


class PCDARTSSearcher(_Searcher):
    __doc__ = f"""PC-DARTS: DARTS on a part of the channels. {_Searcher.__doc__}"""

    strategy, space_name = "pc-darts", "darts"


class ENASSearcher(_Searcher):
    __doc__ = f"""ENAS: a controller draws paths of a supernet. {_Searcher.__doc__}"""

    strategy, space_name = "enas", "enas-micro"


class PNASSearcher(_Searcher):
    """PNAS: architectures grow block by block, and a surrogate says which are worth a look.

    Args:
        search_epochs: Passes over the training images of the shared weights that score
            architectures.
        predictor_epochs: The surrogate is fitted in closed form, to where these passes lead: any
            number of them means the same. Taken, and said so in the log.
        trials: Architectures that are scored; the strategy's own number without.
        options: As those of `DARTSSearcher`, but for ``epochs``.
    """

    strategy, space_name = "pnas", "pnas"

    def __init__(
        self,
        dataset: str = SHIPPED_DATASET,
        search_space: str | None = None,
        predictor_epochs: int | None = None,
        search_epochs: int | None = None,
        *,
        trials: int | None = None,
        **options: Any,
    ) -> None:
        self._predictor_epochs = predictor_epochs
        self._trials = trials
        super().__init__(dataset, search_space, search_epochs, **options)

    def _settings(self, epochs: int | None) -> dict[str, Any]:
        given = {"supernet_epochs": epochs, "trials": self._trials}
        return {name: value for name, value in given.items() if value is not None}

    def progressive_search(self) -> Architecture:
        """As `search`."""
        if self._predictor_epochs is not None:
            console_of(self._quiet).log(
                f"predictor_epochs={self._predictor_epochs}: the surrogate is fitted in closed "
                "form, so that their number does not matter"
            )
        return self.search()


class ProxylessNASSearcher(_Searcher):
    """ProxylessNAS: paths and their probabilities are trained together, against a latency.

    Args:
        target_platform: ``mobile`` is the shipped table of a Pixel 1 and the space `mobile` at what
            it was measured at; else the name or file of a table.
        latency_constraint: Milliseconds, or ``"100ms"``, ``"40%"``: no network beyond it is
            returned.
        accuracy_weight, latency_weight: How much accuracy counts against latency. Given both, the
            loss is accuracy's + latency_weight / accuracy_weight * expected latency / constraint,
            which goes on pushing below the constraint; given none, it pushes down to it only.
        options: As those of `DARTSSearcher`.
    """

    strategy, space_name = "proxyless", "mobile"

    def __init__(
        self,
        target_platform: str = "mobile",
        latency_constraint: float | str | None = None,
        accuracy_weight: float | None = None,
        latency_weight: float | None = None,
        **options: Any,
    ) -> None:
        self._weights = (accuracy_weight, latency_weight)
        super().__init__(
            latency_constraint=latency_constraint,
            table=TARGETS.get(target_platform, target_platform),
            **options,
        )

    def _settings(self, epochs: int | None) -> dict[str, Any]:
        return {**super()._settings(epochs), **_weighed(*self._weights)}


def _weighed(accuracy_weight: float | None, latency_weight: float | None) -> dict[str, Any]:
    from nasdeploy.errors import UsageError

    if accuracy_weight is None and latency_weight is None:
        return {}
    if accuracy_weight is None or latency_weight is None:
        raise UsageError("accuracy_weight and latency_weight mean something together: give both.")
    if accuracy_weight <= 0 or latency_weight < 0:
        raise UsageError(
            f"accuracy_weight is {accuracy_weight} and latency_weight {latency_weight}: the first "
            "must be above 0, the second not below."
        )
    return {"latency_term": "add", "latency_weight": latency_weight / accuracy_weight}


def _milliseconds(latency: float | str | None) -> str | None:
    """A bare number is milliseconds, as everywhere in here."""
    return f"{latency}ms" if isinstance(latency, int | float) else latency
