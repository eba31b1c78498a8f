"""The arm64 board's kernel and its files, made once out of Debian's packages.

All files are in one archive that the kernel unpacks into memory, so that there is no disk to make,
to mount, or to put back. Packages are only unpacked: nothing of arm64 has to run here.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("board_image.py", "board_init.sh", "phone.sh")
CACHE = Path(
    os.environ.get("NASDEPLOY_TARGETS_CACHE") or Path.home() / ".cache" / "nasdeploy-targets"
)
"""As it is when this is read: tests change what is home."""

_PACKAGES = (
    "base-files", "dash", "coreutils", "util-linux", "libc-bin", "libstdc++6",
    "openssh-server", "busybox-static", "toybox", "mksh", "adbd",
)  # fmt: skip
_MODULES = (
    "virtio*.ko*", "failover.ko*", "net_failover.ko*", "rng-core.ko*",
)  # fmt: skip
_UNWANTED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/perl5", "var/lib/apt")
_KERNEL = r"""
set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
cd "$2"
apt-cache depends linux-image-cloud-arm64 |
  sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1 |
  xargs apt-get download -q
"""
_BACKPORTS = (
    "Package: adb adbd android-lib*\nPin: release n=bookworm-backports\nPin-Priority: 990\n"
)
_SSHD_CONFIG = """
HostKey /etc/ssh/board_host_key
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin no
UsePAM no
Subsystem sftp internal-sftp
"""
_USERS = "root:x:0:0:root:/root:/bin/sh\npi:x:1000:1000:pi:/home/pi:/bin/sh\n"
_USERS += "sshd:x:102:65534::/run/sshd:/usr/sbin/nologin\n"


class BoardImage:
    """A folder with ``kernel``, ``files`` and the keys ``client`` and ``host``, made if need be."""

    def __init__(self) -> None:
        sources = b"".join((HERE / name).read_bytes() for name in SOURCES)
        suite = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        self.folder = CACHE / f"board-{suite}-{hashlib.sha256(sources).hexdigest()[:12]}"
        CACHE.mkdir(parents=True, exist_ok=True)
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not self.folder.is_dir():
                with tempfile.TemporaryDirectory(dir=CACHE) as name:
                    _make(Path(name), suite)
                    (Path(name) / "image").rename(self.folder)

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def files(self) -> Path:
        return self.folder / "files"

    @property
    def client_key(self) -> Path:
        return self.folder / "client"

    @property
    def host_key(self) -> str:
        """As known_hosts has it, behind the host's name."""
        kind, key = (self.folder / "host.pub").read_text().split()[:2]
        return f"{kind} {key}"


def _make(work: Path, suite: str) -> None:
    root, image = work / "root", work / "image"
    image.mkdir()
    for name in ("client", "host"):
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(image / name)]
        subprocess.run(key, check=True)
    _unpack_packages(work, root, suite)
    (kernel_package,) = work.glob("linux-image-*.deb")
    subprocess.run(["dpkg-deb", "-x", kernel_package, work / "kernel"], check=True)
    shutil.copy(next((work / "kernel" / "boot").glob("vmlinuz-*")), image / "kernel")
    _add_modules(work / "kernel", root / "modules")
    _configure(root, image)
    with (image / "files").open("wb") as archive:
        names = subprocess.run(["find", "."], cwd=root, stdout=subprocess.PIPE, check=True).stdout
        cpio = ["cpio", "--create", "--format=newc", "--quiet"]
        subprocess.run(cpio, cwd=root, input=names, stdout=archive, check=True)


def _unpack_packages(work: Path, root: Path, suite: str) -> None:
    mirror = _mirror(suite)
    sources = [f"deb {mirror} {suite} main"]
    pins = work / "pins"
    pins.write_text("")
    if suite == "bookworm":  # where adbd is in backports
        sources.append(f"deb {mirror} bookworm-backports main")
        pins.write_text(_BACKPORTS)
    (work / "fetch").write_text(_KERNEL)
    folders = 'for d in bin sbin lib; do mkdir -p "$1/usr/$d"; ln -s usr/$d "$1/$d"; done'
    pinned = f'mkdir -p "$1/etc/apt/preferences.d"; cp "{pins}" "$1/etc/apt/preferences.d/board"'
    done = subprocess.run(
        [
            *("mmdebstrap", "--quiet", "--variant=extract", "--mode=root"),
            *("--architectures=arm64", "--skip=check/qemu"),
            *(f"--setup-hook={folders}", f"--setup-hook={pinned}"),
            f'--extract-hook=sh "{work}/fetch" "$1" "{work}"',
            *(f"--include={','.join(_PACKAGES)}", suite, str(root), *sources),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode != 0:
        raise OSError(f"the board's packages could not be unpacked: {done.stderr.strip()[-500:]}")
    for name in _UNWANTED:
        shutil.rmtree(root / name, ignore_errors=True)


def _mirror(suite: str) -> str:
    """Where this machine's own packages come from."""
    columns = "$(REPO_URI) $(RELEASE) $(COMPONENT)"
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", columns, "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [line.split() for line in listed.splitlines()]
    return next(uri for uri, release, part in found if (release, part) == (suite, "main"))


def _add_modules(kernel: Path, folder: Path) -> None:
    folder.mkdir()
    for pattern in _MODULES:
        for module in kernel.rglob(pattern):
            code = module.read_bytes()
            code = lzma.decompress(code) if module.suffix == ".xz" else code
            (folder / module.name.removesuffix(".xz")).write_bytes(code)


def _configure(root: Path, image: Path) -> None:
    for name in ("proc", "sys", "dev", "run", "tmp", "root", "home/pi/.ssh", "busybox"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("data/local/tmp", "data/misc/adb"):
        (root / name).mkdir(parents=True)
    (root / "etc/passwd").write_text(_USERS)
    (root / "etc/group").write_text("root:x:0:\npi:x:1000:\nnogroup:x:65534:\n")
    (root / "etc/shadow").write_text("root:*:19000::::::\npi:*:19000::::::\nsshd:*:19000::::::\n")
    (root / "etc/ssh/board_config").write_text(_SSHD_CONFIG)
    shutil.copy(image / "host", root / "etc/ssh/board_host_key")
    shutil.copy(image / "client.pub", root / "home/pi/.ssh/authorized_keys")
    for path in (root / "home/pi", root / "home/pi/.ssh", root / "home/pi/.ssh/authorized_keys"):
        os.chown(path, 1000, 1000)
        path.chmod(path.stat().st_mode & ~0o022)
    if not (root / "usr/bin/sh").exists():
        (root / "usr/bin/sh").symlink_to("dash")
    (root / "init").write_bytes((HERE / "board_init.sh").read_bytes())
    (root / "init").chmod(0o755)
    shutil.copy(HERE / "phone.sh", root / "phone.sh")
    root.chmod(0o755)
