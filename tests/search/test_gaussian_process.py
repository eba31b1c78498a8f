from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import check_grad
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel as SklearnKernel

from nasdeploy.search import gaussian_process
from nasdeploy.search.gaussian_process import GaussianProcess, Kernel, fit_kernel, one_hot
from nasdeploy.search.strategies.bayesian import expected_improvement

CHOICES = (3, 3, 3, 3, 4)
USUAL = Kernel.usual(CHOICES, share=0.4, scale=3.0)


def drawn(n: int, seed: int) -> npt.NDArray[np.float64]:
    """Choices in one-hot form, and beside them two features."""
    rng = np.random.default_rng(seed)
    archs = rng.integers(0, CHOICES, (n, len(CHOICES)))
    features = np.column_stack([(archs == 2).sum(axis=1), archs.max(axis=1)])
    return np.hstack([one_hot(archs, CHOICES), 0.4 * features])


def kernel_of(seed: int) -> Kernel:
    return USUAL.with_logs(USUAL.logs + np.random.default_rng(seed).normal(0, 0.5, len(USUAL.logs)))


class Same(SklearnKernel):  # type: ignore[misc]
    """Our kernel as scikit-learn takes it."""

    def __init__(self, ours: Kernel) -> None:
        self.ours = ours

    def __call__(self, X, Y=None, eval_gradient=False):  # type: ignore[no-untyped-def]
        return self.ours(np.asarray(X), np.asarray(X if Y is None else Y))

    def diag(self, X):  # type: ignore[no-untyped-def]
        return np.ones(len(X))

    def is_stationary(self) -> bool:
        return False


@pytest.mark.parametrize("seed", range(3))
def test_the_posterior_is_that_of_scikit_learn_on_the_same_kernel(seed: int) -> None:
    kernel, observed, new = kernel_of(seed), drawn(25, seed), drawn(40, seed + 100)
    values = np.random.default_rng(seed).normal(90, 3, 25)
    reference = GaussianProcessRegressor(Same(kernel), alpha=kernel.noise, optimizer=None)
    reference.fit(observed, values - values.mean())
    mean, deviation = reference.predict(new, return_std=True)
    process = GaussianProcess(kernel, observed, values)
    ours_mean, ours_deviation = process.predict(new)
    np.testing.assert_allclose(ours_mean, mean + values.mean(), rtol=1e-9)
    np.testing.assert_allclose(ours_deviation, deviation * process.variance**0.5, atol=1e-6)


def test_the_gradient_that_fits_the_kernel_is_that_of_its_loss() -> None:
    kernel, observed = kernel_of(1), drawn(20, 1)
    values = np.random.default_rng(1).normal(size=20)
    parts = np.split(observed, np.cumsum(CHOICES), axis=1)[:-1]
    differs = np.stack([1.0 - part @ part.T for part in parts])
    arguments = (kernel, differs, kernel.of_features(observed, observed), values - values.mean())

    def loss(logs: npt.NDArray[np.float64]) -> float:
        return gaussian_process._loss(logs, *arguments)[0]

    def gradient(logs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return gaussian_process._loss(logs, *arguments)[1]

    assert check_grad(loss, gradient, kernel.logs) < 1e-4 * np.linalg.norm(gradient(kernel.logs))


def test_a_fit_weighs_the_decision_that_matters_most_and_constants_say_nothing() -> None:
    observed = drawn(40, 2)
    values = observed[:, 2] + 0.1 * observed[:, 4]
    fitted = fit_kernel(observed, values, USUAL)
    assert fitted.weights[0] > fitted.weights[2:].max()
    assert fit_kernel(observed, np.ones(40), USUAL) is USUAL


def test_a_correlation_is_of_the_mismatches_and_of_the_distance_of_the_features() -> None:
    a = np.hstack([one_hot([(0, 0, 0, 0, 0)], CHOICES), [[0.0, 0.0]]])
    b = np.hstack([one_hot([(0, 1, 2, 0, 0)], CHOICES), [[0.6, 0.8]]])
    assert USUAL(a, a)[0, 0] == pytest.approx(1.0)
    assert USUAL(a, b)[0, 0] == pytest.approx(0.6 * np.exp(-3.0 * 2 / 5) + 0.4 * np.exp(-1.0))


def test_what_is_believed_of_a_batch_leaves_the_mean_and_takes_the_doubt() -> None:
    kernel, observed, new = kernel_of(0), drawn(10, 0), drawn(5, 9)
    process = GaussianProcess(kernel, observed, np.random.default_rng(0).normal(size=10))
    believing = process.believing(new[0])
    assert believing.values[-1] == pytest.approx(process.predict(new)[0][0])
    assert believing.predict(new)[1][0] < 0.2 * process.predict(new)[1][0]


def test_expected_improvement_is_that_of_many_draws_and_keeps_its_order_far_below() -> None:
    draws = np.random.default_rng(0).normal(1.0, 0.5, 400_000)
    gain = expected_improvement(np.array([1.0]), np.array([0.5]), 1.4)
    assert gain[0] == pytest.approx(np.maximum(draws - 1.4, 0).mean(), rel=0.02)
    far = expected_improvement(np.linspace(-30, 0, 100), np.ones(100), 0.0)
    assert np.all(np.diff(far) > 0)
