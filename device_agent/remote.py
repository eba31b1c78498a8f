"""What every device behind a cable promises, whatever the cable: files, commands, a clean end.

On the device there is one folder of ours, ``nasdeploy``, in it ``files`` (what is pushed, jobs and
outputs) and ``run`` (what is under way: half-pushed files, the process groups of commands).
Nothing else is written, and nothing outside is ever removed.
"""

from __future__ import annotations

import contextlib
import posixpath
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from nasdeploy import durable
from nasdeploy.device_agent import device_scripts as scripts
from nasdeploy.device_agent.device import DeviceInfo, Finished
from nasdeploy.device_agent.identify import IDENTIFY, parse_identity
from nasdeploy.device_agent.link import Deadline, Link
from nasdeploy.device_agent.owner import Owner, is_name, is_over
from nasdeploy.device_agent.process import Output
from nasdeploy.device_agent.pushing import Copy, batches, copy_of, why_not_placed
from nasdeploy.device_agent.shell import Reply, command_line, kill_script, new_token, plain_line
from nasdeploy.errors import (
    CommandFailed,
    DeviceError,
    DeviceUnreachable,
    NasdeployError,
    OutOfResources,
    UsageError,
)

_ASK_S = 30.0
_ALIVE_S = 10.0
_AFTER_THE_END_S = 2.0
_SLOWEST_BYTES_PER_S = 100_000
_LARGEST_PULL_BYTES = 1 << 30


class RemoteDevice(ABC):
    """A phone or a board behind a cable or a network.

    Nothing is asked of it before the first call that needs it. A connection is kept between calls
    and opened anew after it was lost.
    """

    folders: ClassVar[Sequence[str]]
    """Where our folder may be, the first that can be written; ``~`` is the user's home there."""

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place
        self._link: Link | None = None
        self._base: str | None = None
        self._owner = Owner()
        self._under_way: set[str] = set()

    @abstractmethod
    def _connect(self) -> Link:
        """A new connection, in bounded time.

        Raises: `DeviceUnreachable` when there is no answer; another `DeviceError` when a person
            has to do something first, saying what.
        """

    @property
    def workdir(self) -> str:
        return f"{self._meet()}/files"

    def info(self) -> DeviceInfo:
        done = self.run(["sh", "-c", IDENTIFY], timeout_s=_ASK_S)
        return parse_identity(done.stdout, device=self.name)

    def push(self, local: Path, remote: str) -> None:
        self.push_all([(local, remote)])

    def push_all(self, files: Sequence[tuple[Path, str]]) -> None:
        """Copy files; one that is there with the same content already is left as it is.

        Raises: `OutOfResources` when the device is full, `CommandFailed` when what is there
            afterwards is not what was sent.
        """
        for batch in batches(copy_of(local, self._below(remote)) for local, remote in files):
            seconds = _ASK_S + sum(copy.size_bytes for copy in batch) / _SLOWEST_BYTES_PER_S
            there = self._look([copy.below for copy in batch], seconds)
            absent = [c for c, said in zip(batch, there, strict=True) if not c.is_what(said)]
            if absent:
                self._put(absent, seconds)

    def pull(self, remote: str, local: Path) -> None:
        """Copy a file back; what came has the sha256 that the device said before."""
        below = self._below(remote)
        (said,) = self._look([below], _ASK_S)
        kind, _, rest = said.partition(" ")
        size, _, digest = rest.partition(" ")
        if kind != "file" or not size.isdecimal():
            raise CommandFailed(f"There is no file {self.workdir}/{below} on {self.name}.")
        if int(size) > _LARGEST_PULL_BYTES:
            raise CommandFailed(f"{below} on {self.name} has {size} bytes: more than is fetched.")
        deadline = Deadline(_ASK_S + int(size) / _SLOWEST_BYTES_PER_S)
        with durable.replacing(local) as temporary:
            self._fetch(f"{self.workdir}/{below}", temporary, int(size), deadline)
            if durable.sha256_file(temporary) != digest:
                raise CommandFailed(
                    f"{below} came from {self.name} with another content than it says is there. "
                    "Run the command again; if that is of no use, try another cable."
                )

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Finished:
        """Run `argv` in a process group of its own and wait for it.

        When the connection is lost, at the timeout, and when anything is raised here or in
        `on_line`, the group is killed. An exit code below 0 is the signal that ended the command.

        Raises: `DeviceUnreachable` when its end was not seen, whatever came before;
            `CommandFailed` as for this machine.
        """
        base, started = self._meet(), time.monotonic()
        token = new_token()
        record = self._owner.new_name()
        output = Output(argv, on_line)
        reply = Reply(token, output, argv[0])
        self._under_way.add(record)
        try:
            with self._using_link() as link:
                line = command_line(
                    argv, token=token, folder=f"{base}/run", record=record, split=link.splits
                )
                self._follow(link, line, reply, Deadline(timeout_s))
        except BaseException as error:
            if reply.group:
                self._end(f"{base}/run/{record}", reply)
            if not isinstance(error, TimeoutError):
                raise
            raise self._overdue(argv, timeout_s, reply) from None
        finally:
            self._under_way.discard(record)
        return self._finished(argv, reply, output, time.monotonic() - started)

    def clean(self) -> None:
        """Remove our folder from the device, and end what runs there of ours.

        Raises: `DeviceError` when another process of ours is using it.
        """
        base = self._meet()
        others = [name for name in self._left(base) if not self._may_end(name)]
        if others:
            raise DeviceError(
                f"{self.name} is being used by another nasdeploy, which has {others[0]} under way "
                "there. Wait for it to end, and run the same command again."
            )
        done = self.run(["sh", "-c", scripts.CLEAN, "sh", base], timeout_s=10 * _ASK_S)
        if (said := (done.stdout or done.stderr).strip()) != "gone":
            raise CommandFailed(f"{base} on {self.name} could not be removed: {said[:200]}")
        self._base = None

    def close(self) -> None:
        """Let go of the connection; the next call opens another one."""
        link, self._link = self._link, None
        if link:
            with contextlib.suppress(Exception):
                link.close()

    # ---- the connection

    @contextlib.contextmanager
    def _using_link(self) -> Iterator[Link]:
        """The connection; after any error it is closed, with all that still ran over it."""
        if self._link is not None and not self._link.alive():
            self.close()
        if self._link is None:
            self._link = self._connect()
        try:
            yield self._link
        except BaseException as error:
            self.close()
            if isinstance(error, DeviceUnreachable):
                self._base = None  # meet it again: it may have been started anew
            raise

    def _follow(self, link: Link, line: str, reply: Reply, deadline: Deadline) -> None:
        """Take in what a command line prints until it has ended."""
        try:
            with contextlib.closing(link.stream(line, deadline)) as chunks:
                for stream, chunk in chunks:
                    if not chunk:
                        self._ask_whether_alive()
                    reply.take(stream, chunk)
                    if reply.exit_code is not None:
                        # what still holds its stdout open is not waited for
                        deadline.move_to(_AFTER_THE_END_S)
        except (TimeoutError, DeviceUnreachable):
            if reply.exit_code is None:
                raise
            self.close()
        if reply.exit_code is None and not reply.unwritable:
            raise DeviceUnreachable(
                f"The connection to {self.name} ended in the middle of a command, without its end "
                "mark: what was printed until then may not be all."
            )

    def _ask_whether_alive(self) -> None:
        """By a second connection, since the first may just have nothing to say."""
        try:
            self._ask("true", seconds=_ALIVE_S)
        except (TimeoutError, NasdeployError) as error:
            raise DeviceUnreachable(f"{self.name} has stopped answering. ({error})") from error

    def _ask(self, script: str, *args: str, seconds: float, over: Link | None = None) -> str:
        """Run a short script without a group, over a connection of its own if none is given."""
        token = new_token()
        output = Output([f"a script on {self.name}"], None)
        reply = Reply(token, output, "a script")
        link = over or self._connect()
        try:
            self._follow(link, plain_line(script, *args, token=token), reply, Deadline(seconds))
        except TimeoutError:
            raise DeviceUnreachable(f"{self.name} did not answer within {seconds:g} s.") from None
        finally:
            if link is not over:
                link.close()
        return output.stdout.decode(errors="replace")

    # ---- what is under way there

    def _meet(self) -> str:
        """Our folder on the device, made if need be; what an earlier process left is ended."""
        if self._base is None:
            with self._using_link() as link:
                text = self._ask(scripts.MEET, *self.folders, seconds=_ASK_S, over=link)
            lines = [line.partition(" ")[::2] for line in text.splitlines()]
            said, left = dict(lines), [rest for word, rest in lines if word == "left"]
            if lacking := said.get("lacks"):
                raise CommandFailed(
                    f"{self.name} has no {lacking}, which is needed to run and check anything "
                    "there. Install coreutils and util-linux, or toybox."
                )
            base = said.get("folder", "")
            if not base.startswith("/") or posixpath.basename(base) != "nasdeploy":
                reason = said.get("because", "it says nothing")[:200]
                if "No space left" in reason:
                    raise OutOfResources(f"{self.name} is full: {reason}. Make room there.")
                places = " or ".join(self.folders)
                raise CommandFailed(f"{self.name} has no folder to write to ({places}): {reason}")
            self._base = base
            for name in left:
                if is_name(name) and self._may_end(name):
                    record = f"{base}/run/{name.rpartition('.')[0]}"
                    self._ask(*kill_script(record, None), seconds=_ASK_S)
        return self._base

    def _left(self, base: str) -> list[str]:
        """What is under way on the device, of whomever."""
        text = self._ask(scripts.LEFT, base, seconds=_ASK_S)
        return [name for name in text.splitlines() if is_name(name)]

    def _may_end(self, name: str) -> bool:
        """Ours and over, or of a process on this host that is no more."""
        if self._owner.owns(name):
            return name.rpartition(".")[0] not in self._under_way
        return is_over(name)

    def _end(self, record: str, reply: Reply) -> None:
        """Kill a group over a second connection; without one, the device's own watcher does it."""
        if reply.exit_code is not None:
            return
        with contextlib.suppress(NasdeployError, OSError):
            self._ask(*kill_script(record, reply.group), seconds=_ALIVE_S)
            reply.ended = True

    def _overdue(self, argv: Sequence[str], timeout_s: float, reply: Reply) -> DeviceError:
        if reply.ended:
            command = " ".join(argv)
            return CommandFailed(f"{command} was stopped at its timeout of {timeout_s:g} s.")
        return DeviceUnreachable(
            f"{self.name} has stopped answering: {argv[0]} was not done after {timeout_s:g} s, and "
            "could not be stopped either. It is stopped as soon as the device notices."
        )

    def _finished(
        self, argv: Sequence[str], reply: Reply, output: Output, elapsed_s: float
    ) -> Finished:
        if reply.unwritable:
            raise OutOfResources(
                f"{self.name} is full: not even an empty file can be written to {self._base}/run. "
                f"Make room there: nasdeploy devices clean {self.name}"
            )
        if reply.missing:
            raise CommandFailed(
                f"{argv[0]} could not be started on {self.name}: there is no such program."
            )
        assert reply.exit_code is not None
        if reply.exit_code < 0:
            self._ask_whether_alive()  # a device that is going down ends what runs on it first
        return Finished(
            argv=tuple(argv),
            exit_code=reply.exit_code,
            stdout=output.stdout.decode(errors="replace"),
            stderr=output.stderr.decode(errors="replace"),
            elapsed_s=elapsed_s,
        )

    # ---- files

    def _below(self, remote: str) -> str:
        """The path below our folder; `UsageError` when it lies outside."""
        path = posixpath.normpath(posixpath.join(self.workdir, remote))
        if not path.startswith(f"{self.workdir}/") or "\0" in path:
            raise self._outside(remote)
        return path[len(self.workdir) + 1 :]

    def _outside(self, remote: str) -> UsageError:
        return UsageError(
            f"{remote!r} lies outside {self.workdir}, the one folder of {self.name} that may be "
            "written and read."
        )

    def _look(self, below: Sequence[str], seconds: float) -> list[str]:
        """Of each ``file SIZE SHA256`` or ``absent``; a link on the way or a folder is refused."""
        done = self.run(["sh", "-c", scripts.LOOK, "sh", self.workdir, *below], timeout_s=seconds)
        found = done.stdout.splitlines()
        if len(found) != len(below):
            said = (done.stdout or done.stderr)[:200]
            raise CommandFailed(f"{self.name} does not tell what it has: {said!r}")
        for path, said in zip(below, found, strict=True):
            if said == "link":
                raise self._outside(path)
            if said == "folder":
                raise UsageError(f"{self.workdir}/{path} on {self.name} is a folder.")
        return found

    def _put(self, copies: Sequence[Copy], seconds: float) -> None:
        """All of them under other names first, then each in its place, if it came as it was."""
        folder = f"{self._meet()}/run"
        names = [f"{self._owner.new_name()}.part" for _ in copies]
        parts = [f"{folder}/{name}" for name in names]
        words = [folder]
        for copy, name in zip(copies, names, strict=True):
            words += (name, f"{self.workdir}/{copy.below}", copy.sha256, copy.mode)
        try:
            self._send([(c.local, part) for c, part in zip(copies, parts, strict=True)], seconds)
            done = self.run(["sh", "-c", scripts.PLACE, "sh", *words], timeout_s=seconds)
            if reason := why_not_placed(copies, done):
                raise CommandFailed(f"{self.name} did not take {reason}")
        except NasdeployError as error:
            self._throw_away(parts)
            if isinstance(error, CommandFailed):
                self._raise_if_full(sum(copy.size_bytes for copy in copies))
            raise

    def _send(self, files: Sequence[tuple[Path, str]], seconds: float) -> None:
        try:
            with self._using_link() as link:
                link.send(files, Deadline(seconds))
        except TimeoutError:
            raise DeviceUnreachable(
                f"{self.name} took more than {seconds:.0f} s for {len(files)} file(s), the first "
                f"{files[0][0]}: the connection hangs."
            ) from None

    def _fetch(self, path: str, local: Path, size: int, deadline: Deadline) -> None:
        with local.open("wb") as file:

            def take(chunk: bytes) -> None:
                if file.tell() + len(chunk) > size:
                    raise CommandFailed(f"{path} on {self.name} has more than its {size} bytes.")
                file.write(chunk)

            try:
                with self._using_link() as link:
                    link.fetch(path, take, deadline)
            except TimeoutError:
                raise DeviceUnreachable(
                    f"{self.name} did not give {path} in time: the connection hangs."
                ) from None

    def _throw_away(self, parts: Sequence[str]) -> None:
        """Half-pushed files; if they can't be removed now, the next meeting does it."""
        with contextlib.suppress(NasdeployError, OSError):
            self._ask('rm -f "$@"', *parts, seconds=_ALIVE_S)

    def _raise_if_full(self, size: int) -> None:
        with contextlib.suppress(DeviceError, ValueError):
            free = 1024 * int(self._ask(scripts.FREE_KIB, self._meet(), seconds=_ASK_S))
            if free < size:
                raise OutOfResources(
                    f"{self.name} is full: {size} bytes were to be written and {free} are free in "
                    f"{self._base}. Make room there: nasdeploy devices clean {self.name}"
                )
