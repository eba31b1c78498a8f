"""Files that are whole or absent, and journals that survive a kill.

Everything that the project writes goes through here: to a temporary name in the same folder,
flushed to the disk, then renamed. A journal is JSON lines; a kill can tear the last line only,
and a torn line is dropped when the journal is read or continued.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nasdeploy.errors import OutOfResources


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


# It can only be read by setting it, and between two threads that do so it would stay at 0.
_UMASK = _umask()


def cache_dir() -> Path:
    """What can be made again: ``$NASDEPLOY_CACHE``, or ``nasdeploy`` in the user's cache folder."""
    if chosen := os.environ.get("NASDEPLOY_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nasdeploy"


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OutOfResources(
                f"The disk is full: {path} could not be written. Nothing half-written was left; "
                "make room and run the same command again."
            ) from error
        raise


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` on success only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _disk_errors(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            # mkstemp made it private; give it the rights that an ordinary file would have, or a
            # program where it was made one
            program = temporary.stat().st_mode & stat.S_IXUSR
            temporary.chmod((0o777 if program else 0o666) & ~_UMASK)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented, keys in the order given; NaN and infinities are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _whole_lines(file: BinaryIO) -> tuple[list[Any], int]:
    """The values of the whole lines, and the offset behind the last of them."""
    values: list[Any] = []
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            values.append(json.loads(line))
        except ValueError:
            break
        end += len(line)
    return values, end


def read_jsonl(path: Path) -> list[Any]:
    """Every whole line of a journal; an absent file is an empty journal."""
    if not path.exists():
        return []
    with path.open("rb") as file:
        return _whole_lines(file)[0]


class Journal:
    """JSON lines that are on the disk when `append` returns.

    Opening one cuts a torn last line off, so that what is appended stands on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        with _disk_errors(path):
            path.touch()
            with path.open("r+b") as file:
                self.entries, end = _whole_lines(file)
                file.truncate(end)

    def append(self, entry: Any) -> None:
        line = json.dumps(entry, separators=(",", ":"), allow_nan=False) + "\n"
        with _disk_errors(self.path), self.path.open("ab") as file:
            start = file.tell()
            try:
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with contextlib.suppress(OSError):
                    os.truncate(self.path, start)
                raise
        self.entries.append(entry)

    def cut(self, keep: int) -> None:
        """Keep the first `keep` entries: a resumed loop goes back to its checkpoint."""
        self.entries = self.entries[:keep]
        lines = [json.dumps(e, separators=(",", ":"), allow_nan=False) + "\n" for e in self.entries]
        write_text(self.path, "".join(lines))
