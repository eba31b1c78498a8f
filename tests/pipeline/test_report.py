from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from rich.console import Console as RichConsole

from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.report import Summary, card, interval, percent

WINNER: dict[str, Any] = {
    "space": {"name": "mobile-small", "classes": 10},
    "train": {"input_shape": [1, 28, 28], "classes": 10},
    "arch": [0, 1],
    "choices": {"first": "k3", "stage1.block1": "k5e3"},
    "table": "runs/x/table.yaml",
    "statistic": "p10",
    "bound_ms": 2.0,
    "estimated_ms": 1.75,
    "estimated_interval_ms": [1.7, 1.8],
    "candidates_that_missed": [{}],
}
FILE: dict[str, Any] = {
    "path": "winner-litert-int8.tflite",
    "size_bytes": 120_000,
    "parity": {"accuracy": 0.885, "drop_points": 0.5},
}
MEASURED: dict[str, Any] = {
    "ms": 1.8, "low_ms": 1.75, "high_ms": 1.9, "n": 150, "starts": 3, "within_bound": True,
}  # fmt: skip
TRAINED = {
    "winner": {"test": {"accuracy": 0.89}, "validation": {"accuracy": 0.9}, "epochs": 12,
               "train_s": 61.2},
}  # fmt: skip
CONFIG = make_config({"data": "x.npz", "bounds": {"latency": "40%"}}, source="")
SUMMARY = Summary(CONFIG, WINNER, TRAINED, [FILE], [MEASURED])


def test_within_the_bound_is_said_of_a_measurement_only() -> None:
    facts = SUMMARY.facts()
    assert facts["bound"] == "2 ms (p10; asked: 40%)"
    assert facts["measured"].endswith("within the bound")
    assert "within" not in facts["estimated"]
    assert facts["candidates measured"] == "2"
    over = replace(SUMMARY, measured=[{**MEASURED, "within_bound": False}])
    assert over.facts()["measured"].endswith("over the bound")
    assert over.file_rows()[0][3] == "over"


def test_what_is_unknown_is_called_so() -> None:
    published = replace(SUMMARY, winner={**WINNER, "estimated_interval_ms": None})
    assert published.facts()["estimated"] == "1.75 ms (unknown)"
    assert percent(None) == interval(None, 2.0) == "unknown"


def test_the_card_says_when_it_ships_with_other_classes_than_it_was_estimated_with() -> None:
    assert "It was estimated" not in card(SUMMARY)
    other = {**WINNER, "space": {"name": "mobile", "classes": 1000}}
    assert "estimated with 1000 classes and ships with the data's 10" in card(
        replace(SUMMARY, winner=other)
    )


def test_terminal_and_json_show_the_same_run() -> None:
    console = RichConsole(width=140, record=True)
    console.print(SUMMARY.render())
    text = console.export_text()
    for shown in ("winner-litert-int8.tflite", "1.75 to 1.9 ms", "88.50 %", "+0.50", "120 KB"):
        assert shown in text
    assert json.loads(json.dumps(SUMMARY.to_json()))["measured"] == [MEASURED]


def test_finalists_are_shown_in_their_order_and_only_where_there_was_a_race() -> None:
    assert SUMMARY.finalist_rows() == []
    assert "finalists" not in card(SUMMARY)
    raced = [
        {"choices": {"first": "k3"}, "estimated_ms": 1.75, "epochs": 4,
         "training_loss": 0.3651, "metrics": {"accuracy": 0.871}, "failure": None},
        {"choices": {"first": "k5"}, "estimated_ms": None, "epochs": 1,
         "training_loss": None, "metrics": {}, "failure": "the loss is nan"},
    ]  # fmt: skip
    summary = replace(SUMMARY, winner={**WINNER, "finalists": raced})
    assert summary.finalist_rows() == [
        ("k3", "1.75 ms", "4", "0.3651", "87.10 %"),
        ("k5", "unknown", "1", "", "the loss is nan"),
    ]
    assert "| k3 | 1.75 ms | 4 | 0.3651 | 87.10 % |" in card(summary)
