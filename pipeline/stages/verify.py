"""Run the very files that ship on the device; hold the one that was searched for to its bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from nasdeploy.durable import write_json
from nasdeploy.errors import BoundNotMet
from nasdeploy.pipeline.measuring import Measurements, NetworkLatency, network_config
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.simulating import tell_networks
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search.spaces import make_space
from nasdeploy.units import format_ms


def verify(
    context: Context,
    folder: RunFolder,
    winner: Mapping[str, Any],
    files: Sequence[Mapping[str, Any]],
    measurements: Measurements,
    *,
    anew: bool = False,
) -> list[dict[str, Any]]:
    """Measure every exported file, the searched one first, and write measured.json.

    Returns: One entry per file; the first says whether it is within the bound.
    Raises: `BoundNotMet` if the upper end of its interval lies above the bound; the measurements
        are kept, and what was measured is written all the same.
    """
    statistic, bound_ms = str(winner["statistic"]), winner["bound_ms"]
    inputs = {
        "files": [file["sha256"] for file in files],
        "device": context.info.fingerprint,
        "threads": context.config.threads,
        "verify": context.config.verify.model_dump(),
        "bound_ms": bound_ms,
        "statistic": statistic,
    }
    done = folder.done("verify", inputs)
    if done is not None and not anew:
        context.console.log("verify: done already, its inputs are unchanged")
        return list(done["files"])
    elsewhere = _measured_elsewhere(context, winner)
    if elsewhere:
        context.console.warn(elsewhere.strip())
    entries = []
    for number, file in enumerate(files):
        latency = _measured(context, folder, winner, file, measurements, searched_for=number == 0)
        within = None if bound_ms is None else latency.within(bound_ms)
        entries.append({"file": file["path"], **asdict(latency), "within_bound": within})
    path = folder.winner / "measured.json"
    write_json(path, {"bound_ms": bound_ms, "device": context.info.fingerprint, "files": entries})
    chosen = entries[0]
    if chosen["within_bound"] is False:
        raise BoundNotMet(
            f"{chosen['file']} took {format_ms(chosen['ms'])} ({statistic}; 95 % interval "
            f"{chosen['low_ms']:.4g} to {chosen['high_ms']:.4g} ms) on {context.device.name}, and "
            f"the bound is {format_ms(bound_ms)}. {elsewhere}Search with a lower bound, or verify "
            f"again when the device is idle: nasdeploy verify --run {folder.path.name}"
        )
    folder.finish("verify", inputs, {"files": entries}, path)
    return entries


def _measured_elsewhere(context: Context, winner: Mapping[str, Any]) -> str:
    """What a reader must know who holds a file to a bound of a table of another device."""
    if context.origin != "measured":
        return f"{context.device.name} is {context.origin}: its times are no measurement. "
    if winner["table_origin"] in ("measured", None):
        return ""  # without a table there was no bound
    return (
        f"The bound was searched on {winner['table']}, a {winner['table_origin']} table of "
        f"{winner['table_device']}, and the file runs on {context.device.name}. "
    )


def _measured(
    context: Context,
    folder: RunFolder,
    winner: Mapping[str, Any],
    file: Mapping[str, Any],
    measurements: Measurements,
    *,
    searched_for: bool,
) -> NetworkLatency:
    """The one that was searched for is decided; what lies beside it is shown against the bound."""
    name = f"{file['path']} {file['sha256'][:12]}"
    tell_networks(context, make_space(winner["space"]), {name: tuple(winner["arch"])})
    usual_ms = _usual_ms(context, winner) if searched_for else None
    return measurements.measure(
        context.of_file(file["runtime"], file["precision"]),
        name,
        folder.winner / file["path"],
        statistic=str(winner["statistic"]),
        config=network_config(context, usual_ms=usual_ms),
        label=f"Measuring {file['path']}",
        bound_ms=winner["bound_ms"] if searched_for else None,
    )


def _usual_ms(context: Context, winner: Mapping[str, Any]) -> float | None:
    """What the sentinel took when this very device's table was measured."""
    candidate = winner["candidate"]
    if candidate is None or candidate["device"] != context.info.fingerprint:
        return None
    known: float | None = winner.get("sentinel_ms")
    return known
