"""Which processors are meant, and whether a command really runs there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.processors import Cluster, check_cpus, clusters, mask_of, pin_argv
from nasdeploy.errors import CommandFailed, UsageError

PIXEL = clusters({f"cpu{n}": (1803.0, 2250.0, 2850.0)[(n >= 4) + (n >= 6)] for n in range(8)})


def test_processors_of_one_highest_frequency_are_a_cluster() -> None:
    assert (
        Cluster((0, 1, 2, 3), 1803.0), Cluster((4, 5), 2250.0), Cluster((6, 7), 2850.0)
    ) == PIXEL  # fmt: skip


def test_what_is_no_processor_is_left_out() -> None:
    assert clusters({"cpufreq": 5.0, "cpu10": 1.0}) == (Cluster((10,), 1.0),)


@pytest.mark.parametrize(
    ("text", "mask"),
    [("big", 0xC0), ("little", 0x0F), ("0-3", 0x0F), ("0,2-3, 7", 0x8D), ("0xf0", 0xF0), ("4", 16)],
)
def test_processors_are_named_in_four_ways(text: str, mask: int) -> None:
    check_cpus(text)
    assert mask_of(text, PIXEL, cores=8) == mask


@pytest.mark.parametrize("text", ["", "f0", "3-1", "0x0", "-1", "0-", "1;reboot", "0-99999", "BIG"])
def test_what_names_no_processors_is_refused_before_a_device_is_asked(text: str) -> None:
    with pytest.raises(UsageError, match="names no processors"):
        check_cpus(text)


def test_a_processor_that_there_is_not_is_refused() -> None:
    with pytest.raises(UsageError, match="the processors 0 to 7"):
        mask_of("6-8", PIXEL, cores=8)


@pytest.mark.parametrize("groups", [(), (Cluster((0, 1), 2000.0),)], ids=["unknown", "alike"])
def test_where_all_are_alike_there_are_no_big_ones(groups: tuple[Cluster, ...]) -> None:
    with pytest.raises(UsageError, match="no big processors"):
        mask_of("big", groups, cores=2)


def test_a_pinned_command_runs_where_it_was_told(local: LocalDevice) -> None:
    last = max(os.sched_getaffinity(0))
    argv = pin_argv(local, 1 << last)
    done = local.run([*argv, "cat", "/proc/self/status"], timeout_s=10)
    assert f"Cpus_allowed_list:\t{last}\n" in done.stdout


def test_processors_that_are_not_there_are_an_error(local: LocalDevice) -> None:
    with pytest.raises(CommandFailed, match="cannot pin to the processors"):
        pin_argv(local, 1 << 900)


def test_a_taskset_that_does_nothing_is_found_out(
    local: LocalDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taskset = tmp_path / "taskset"
    taskset.write_text('#!/bin/sh\nshift; exec "$@"\n')
    taskset.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(CommandFailed, match="was told to run on the processors 0x4000000000"):
        pin_argv(local, 1 << 38)


def test_a_device_without_taskset_says_so(
    local: LocalDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CommandFailed, match="local cannot pin to processors: taskset"):
        pin_argv(local, 1)
