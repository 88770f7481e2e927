"""Builds and runs the container image with buildah, without a registry and without a daemon.

The base image stands in for `python:3.11-slim-bookworm`: the interpreter that runs the tests, a
shell, the programs that the Dockerfile calls, and the libraries of all of them.
"""

import contextlib
import glob
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.helpers.paths import ROOT

PROGRAMS = ("sh", "env", "mkdir", "rm", "id", "groupadd", "useradd")
LIBRARIES = ("libstdc++.so.6", "libgcc_s.so.1", "libresolv.so.2")
LIBRARIES += ("libpthread.so.0", "libdl.so.2", "librt.so.1", "libutil.so.1", "libm.so.6")
"""Libraries of Debian's slim image that wheels expect."""
USERS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "shadow": "root:*:19000:0:99999:7:::\n",
    "gshadow": "root:*::\n",
    "login.defs": "UID_MIN 1000\nGID_MIN 1000\n",
}
CERTIFICATES = ("/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
"""How this machine reaches the package index, where it says so."""
SECONDS = 900


def missing():
    """Returns why images cannot be built here, or None."""
    if shutil.which("buildah") is None:
        return "buildah is not installed"
    if os.geteuid() != 0:
        return "building images needs root here"
    wanted = re.search(r"^ARG BASE=python:([\d.]+)-", (ROOT / "Dockerfile").read_text(), re.M)[1]
    found = f"{sys.version_info.major}.{sys.version_info.minor}"
    if found != wanted:
        return f"the packages are locked for Python {wanted}, and this is {found}"
    return None


def _linked(*files):
    """Returns the shared libraries of programs and libraries, by ldd."""
    done = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False)
    return set(re.findall(r"(/\S+) \(0x", done.stdout))


def write_base(path):
    """Writes the stand-in's files as a tar archive."""
    prefix = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = prefix / "lib" / version
    interpreter = os.path.realpath(prefix / "bin" / version)
    programs = {f"usr/bin/{name}": shutil.which(name) for name in PROGRAMS}
    extensions = glob.glob(f"{library}/lib-dynload/*.so")
    cache = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    libraries = _linked(interpreter, *extensions, *filter(None, programs.values()))
    for name in LIBRARIES:
        libraries |= set(re.findall(rf"{re.escape(name)} \(libc6,x86-64\) => (\S+)", cache))
    left_out = {"site-packages", "__pycache__", "test", "idlelib", "tkinter", "lib2to3"}
    left_out |= {name for name in os.listdir(library) if name.startswith("config-")}

    def wanted(member):
        return None if left_out & set(member.name.split("/")[3:]) else member

    with tarfile.open(path, "w", dereference=True) as tar:
        for name in ("tmp", "var/tmp", "root", "proc", "dev", "etc", "run"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
            tar.addfile(folder)
        for name, program in programs.items():
            tar.add(program, name)
        link = tarfile.TarInfo("bin")
        link.type, link.linkname = tarfile.SYMTYPE, "usr/bin"
        tar.addfile(link)
        for one in sorted(libraries):
            tar.add(one, one.lstrip("/"))
        tar.add(interpreter, "usr/local/bin/python")
        tar.add(library, f"usr/local/lib/{version}", filter=wanted)
        for package in glob.glob(f"{library}/site-packages/pip*"):
            tar.add(package, f"usr/local/lib/{version}/site-packages/{Path(package).name}")
        for one in filter(os.path.exists, CERTIFICATES):
            tar.add(one, one.lstrip("/"))
        users = Path(path).parent / "users"
        users.mkdir()
        for name, text in USERS.items():
            (users / name).write_text(text)
            tar.add(users / name, f"etc/{name}")


class Images:
    """Images and containers of buildah in a folder, which `remove` deletes."""

    def __init__(self, folder):
        self.folder = folder
        self._storage = ["--root", f"{folder}/images", "--runroot", f"{folder}/run"]

    def buildah(self, *arguments, check=True):
        """Runs a command of buildah; returns it with its output."""
        command = ["buildah", *self._storage, "--storage-driver", "vfs", *map(str, arguments)]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=SECONDS
        )
        if check:
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done

    def build_base(self):
        """Builds the stand-in for the base image; returns its name."""
        write_base(self.folder / "base.tar")
        (self.folder / "Dockerfile").write_text('FROM scratch\nADD base.tar /\nCMD ["python"]\n')
        self.buildah("bud", "--tag=localhost/python-stand-in", self.folder)
        return "localhost/python-stand-in"

    def build(self, base, accelerator):
        """Builds the image of the Dockerfile on a base; returns its name."""
        name = f"localhost/tf-lars:{accelerator}"
        arguments = [f"--build-arg=BASE={base}", f"--build-arg=ACCELERATOR={accelerator}"]
        ignore = f"--ignorefile={ROOT / '.dockerignore'}"
        self.buildah("bud", "--isolation=chroot", *arguments, ignore, f"--tag={name}", ROOT)
        return name

    @contextlib.contextmanager
    def container(self, image, *options):
        """Yields a function that runs a command in one container, as the image's user.

        Args:
          image: Name of the image.
          *options: Options of `buildah run`, such as `--volume`.
        """
        container = self.buildah("from", image).stdout.strip()
        given = ["run", "--isolation=chroot", *options, container, "--"]
        try:
            yield lambda *command: self.buildah(*given, *command, check=False)
        finally:
            self.buildah("rm", container)

    def remove(self):
        """Deletes all images and containers."""
        self.buildah("rm", "--all", check=False)
        self.buildah("rmi", "--all", "--force", check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
