"""A run's folder: each stage writes its output whole, and is skipped while its inputs are the same.

``runs/NAME/`` holds config.yaml, manifest.json, history.jsonl, measurements.jsonl, checkpoints/,
pareto.csv, winner/ and report.html. The manifest records, for each stage, a digest of everything
that went in; a stage whose digest is unchanged and whose files are there is not run again, so that
running the same command once more continues after any kill. A stage that begins with other inputs
than before moves what it would write over into set-aside/: nothing that was paid for is lost.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nasdeploy.durable import sha256_file, write_json
from nasdeploy.errors import BadInput, UsageError

RUNS = Path("runs")
MANIFEST = "manifest.json"
STAGES = ("profile", "search", "train", "export", "verify", "report")
BASELINES = "baselines"  # go beside these from the search on, and into the report


def digest(values: Any) -> str:
    """A short hash of plain data, independent of the order of keys."""
    text = json.dumps(values, sort_keys=True, default=str, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunFolder:
    """One run on the disk; nothing is written before `only_me`, which makes the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.history_path = path / "history.jsonl"
        self.measurements_path = path / "measurements.jsonl"
        self.report_path = path / "report.html"
        self.supernet_path = path / "supernet.pt"
        self.checkpoints = path / "checkpoints"
        self.search_checkpoint = self.checkpoints / "search.pt"
        self.winner = path / "winner"
        self.manifest = self._read_manifest()

    def _read_manifest(self) -> dict[str, Any]:
        file = self.path / MANIFEST
        if not file.exists():
            return {"created": now(), "begun": {}, "stages": {}}
        try:
            manifest = json.loads(file.read_text())
            stages, begun = dict(manifest["stages"]), dict(manifest.get("begun", {}))
            return {**manifest, "begun": begun, "stages": stages}
        except (ValueError, KeyError, TypeError):
            raise BadInput(
                f"{file} is damaged. Move {self.path} away, or remove that file to run every "
                "stage again (measurements and checkpoints are kept)."
            ) from None

    def save(self, **values: Any) -> None:
        self.manifest.update(values)
        write_json(self.path / MANIFEST, self.manifest)

    def outputs_of(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage recorded, if all its files are still as it wrote them."""
        record = self.manifest["stages"].get(stage)
        if record is None:
            return None
        for name, sha256 in record["files"].items():
            file = self.path / name
            if not file.is_file() or sha256_file(file) != sha256:
                return None
        return dict(record["outputs"])

    def done(self, stage: str, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
        """The outputs of a stage that finished on these very inputs."""
        record = self.manifest["stages"].get(stage)
        if record is None or record["inputs"] != digest(inputs):
            return None
        return self.outputs_of(stage)

    def begin(self, stage: str, inputs: Mapping[str, Any], *files: Path) -> Path | None:
        """Record that `stage` begins on `inputs`, or goes on with them.

        Args:
            files: What an earlier beginning on other inputs may have left; it is set aside.
        Returns: Where that is now, or None.
        """
        key, before = digest(inputs), self.manifest["begun"].get(stage)
        if key == before:
            return None
        aside = self.set_aside(f"{stage}-{before}", *files) if before else None
        self.manifest["begun"][stage] = key
        self.save()
        return aside

    def set_aside(self, label: str, *files: Path) -> Path | None:
        """Move files and folders of the run below set-aside/; None if there were none."""
        there = [file for file in files if file.exists()]
        if not there:
            return None
        number = 1
        while (aside := self.path / "set-aside" / f"{label}-{number}").exists():
            number += 1
        for file in there:
            place = aside / file.relative_to(self.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
        return aside

    def finish(
        self, stage: str, inputs: Mapping[str, Any], outputs: Mapping[str, Any], *files: Path
    ) -> None:
        """Record that `stage` is done, with the hashes of the files that it wrote.

        What later stages made of earlier outputs no longer counts.
        """
        for later in ("report",) if stage == BASELINES else STAGES[STAGES.index(stage) + 1 :]:
            self.manifest["stages"].pop(later, None)
        self.manifest["stages"][stage] = {
            "inputs": digest(inputs),
            "finished": now(),
            "outputs": dict(outputs),
            "files": {str(f.relative_to(self.path)): sha256_file(f) for f in files},
        }
        self.save()

    @contextlib.contextmanager
    def only_me(self) -> Iterator[None]:
        """Hold the folder: two processes that write one run would each undo the other's work.

        The manifest is read again, since another process may have written it meanwhile.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UsageError(
                    f"{self.path} is in use by process {lock.read().strip() or 'unknown'}. "
                    "Wait for it, or give this run another --name."
                ) from None
            lock.seek(0)
            lock.truncate()
            lock.write(str(os.getpid()))
            lock.flush()
            self.manifest = self._read_manifest()
            self._sweep()
            try:
                yield
            finally:
                self._sweep()

    def _sweep(self) -> None:
        """Remove what processes that were killed had half written."""
        for part in self.path.rglob(".*.part"):
            part.unlink()


def newest_run(runs: Path = RUNS) -> Path:
    """The run that was written last; what a bare `train`, `export` or `verify` goes on with."""
    manifests = sorted(runs.glob(f"*/{MANIFEST}"), key=lambda file: file.stat().st_mtime)
    if not manifests:
        raise UsageError(
            f"There is no run in {runs}/. Start one: nasdeploy search --latency 40% --data ..."
        )
    return manifests[-1].parent


def find_run(name: str | None, runs: Path = RUNS) -> Path:
    """A run by its name or path; the newest one without."""
    if name is None:
        return newest_run(runs)
    for path in (Path(name), runs / name):
        if (path / MANIFEST).exists():
            return path
    known = sorted(file.parent.name for file in runs.glob(f"*/{MANIFEST}"))
    raise UsageError(f"There is no run {name!r}. Known: {', '.join(known) or 'none'}.")


def git_revision() -> str | None:
    """The revision of the user's own repository, if the working folder lies in one."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        )
        return done.stdout.strip()
    return None
