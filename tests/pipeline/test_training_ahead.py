"""Baselines that are trained while the search goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import CONFIG

from nasdeploy.durable import read_jsonl
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.flow import load, make_context, space_for
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.train import train_winner, training_ahead

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) == 1 or torch.cuda.is_available(),
        reason="nothing is trained ahead on one core, or beside a GPU",
    ),
]


def test_it_is_gone_on_with_and_changes_nothing(folder: Path) -> None:
    train = {"settings": {"epochs": 4}, "workers": 2, "random_baselines": 1}
    config = make_config({**CONFIG, "train": train}, source="the test")
    context = make_context(config, Console(quiet=True))
    data = load(config)
    space = space_for(config, data)
    winner: dict[str, Any] = {"arch": [0] * len(space.decisions), "space": dict(space.config)}
    other = tuple([1] + [0] * (len(space.decisions) - 1))

    ahead, plain = RunFolder(folder / "ahead"), RunFolder(folder / "plain")
    deadline = time.monotonic() + 120
    with training_ahead(context, ahead, space, data, [other]):
        while not (begun := journals(ahead)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    (journal,) = begun
    before = read_jsonl(journal)
    time.sleep(0.5)
    assert read_jsonl(journal) == before  # nothing of it goes on

    found, expected = (
        train_winner(context, run, space, data, winner, [other]) for run in (ahead, plain)
    )
    assert read_jsonl(journal)[: len(before)] == before
    assert journals(ahead) == [journal]
    for name in ("winner", "random-1"):
        assert found[name]["epochs"] == 4
        assert found[name]["test"] == expected[name]["test"]
        one, two = (weights(run, name).read_bytes() for run in (ahead, plain))
        assert one == two


def journals(run: RunFolder) -> list[Path]:
    """Of the baseline's epochs, with at least one in it."""
    return [path for path in run.checkpoints.glob("random-1-*.epochs.jsonl") if read_jsonl(path)]


def weights(run: RunFolder, name: str) -> Path:
    (path,) = run.checkpoints.glob(f"{name}-*.weights.pt")
    return path
