"""Where the binaries of the control plane come from: KUBEBUILDER_ASSETS, PATH, the cache, or `go build`."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import ControlPlaneUnavailable

GO_SOURCES = Path(__file__).parent / "go"

INSTALL_HINT = (
    "Install Go 1.26 or newer to build them once (Go 1.21 and newer download that toolchain unless GOTOOLCHAIN forbids "
    "it), or put etcd and kube-apiserver 1.34 or newer on PATH or into the directory KUBEBUILDER_ASSETS "
    "(setup-envtest downloads both)."
)
CONTROLLER_MANAGER = "kube-controller-manager"
# No optimization, inlining or debugging information, and one thread for each of the packages that are compiled at the
# same time. Compiling takes half of the time, and the tests use the programs only for minutes.
FAST_TO_COMPILE = "-N -l -dwarf=false -c=1"
_COSTS = {
    "kube-apiserver": "about 4 minutes on two cores, 0.6 GB of Go modules and 2.2 GB of build cache",
    CONTROLLER_MANAGER: "about 1 more minute on two cores and 0.6 GB more of build cache",
}


@dataclass(frozen=True)
class Binaries:
    """The paths of the executables that every control plane needs."""

    etcd: Path
    kube_apiserver: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Binaries | None:
        """Return the binaries in `folder`, or None unless both exist."""
        found = cls(folder / "etcd", folder / "kube-apiserver")
        return found if _is_executable(found.etcd) and _is_executable(found.kube_apiserver) else None


def find_or_build(sources: Path = GO_SOURCES) -> Binaries:
    """Return the first pair of binaries found; if there is none, build them, which takes minutes.

    Raise ControlPlaneUnavailable if they can be neither found nor built.
    """
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        # Set explicitly, so do not fall back to other binaries: that would hide a typo.
        if binaries := Binaries.in_folder(Path(assets)):
            return binaries
        raise ControlPlaneUnavailable(
            f"KUBEBUILDER_ASSETS={assets} does not contain etcd and kube-apiserver. {INSTALL_HINT}"
        )
    etcd, kube_apiserver = shutil.which("etcd"), shutil.which("kube-apiserver")
    if etcd and kube_apiserver:
        return Binaries(Path(etcd), Path(kube_apiserver))
    built = _cached_or_built("kube-apiserver", sources)
    return Binaries(built.with_name("etcd"), built)


def find_or_build_controller_manager(sources: Path = GO_SOURCES) -> Path:
    """Return kube-controller-manager from where `find_or_build` finds the other binaries.

    It is separate because it takes minutes to build, and few tests need it.
    Raise ControlPlaneUnavailable if it can be neither found nor built.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    found = Path(assets, CONTROLLER_MANAGER) if assets else Path(shutil.which(CONTROLLER_MANAGER) or "")
    if found.name and _is_executable(found):
        return found
    if assets or (shutil.which("etcd") and shutil.which("kube-apiserver")):
        # One that is built here might not match the version of the API server.
        where = f"KUBEBUILDER_ASSETS={assets}" if assets else "PATH"
        raise ControlPlaneUnavailable(f"{where} contains kube-apiserver but not {CONTROLLER_MANAGER}; add it.")
    return _cached_or_built(CONTROLLER_MANAGER, sources)


def _is_executable(path: Path) -> bool:
    return os.access(path, os.X_OK)


def _cache_folder() -> Path:
    if folder := os.environ.get("KPO_CLEANUP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kpo-cleanup"


def _hash_of(sources: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in sources.rglob("*") if path.is_file()):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _cached_or_built(program: str, sources: Path) -> Path:
    folder = _cache_folder() / f"control-plane-{_hash_of(sources)}"
    path = folder / program
    if not _is_executable(path):
        with _lock(folder.with_suffix(".lock"), program):
            # Another process may have built it while this process was waiting for the lock.
            if not _is_executable(path):
                _build(path, sources)
    return path


@contextmanager
def _lock(path: Path, program: str) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise ControlPlaneUnavailable(
            f"Cannot write to the cache directory {path.parent} ({error}); set KPO_CLEANUP_CACHE to another directory."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log(f"waiting for another process that is building {program}")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(path: Path, sources: Path) -> None:
    """Build a program into a temporary directory and move it to `path`, so that it is never incomplete.

    kube-apiserver is also etcd, if it is called by that name.
    """
    program = path.name
    go = shutil.which("go")
    if go is None:
        raise ControlPlaneUnavailable(f"Found neither {program} nor Go to build it. {INSTALL_HINT}")
    version = _kubernetes_version(sources)
    _log(f"building {program} {version} with {go} into {path.parent}; this happens once and takes {_COSTS[program]}")
    with tempfile.TemporaryDirectory(prefix="building-", dir=path.parent.parent) as scratch:
        built = Path(scratch, program)
        link_flags = f"-s -w -X k8s.io/component-base/version.gitVersion={version}"
        flags = ["-trimpath", "-buildvcs=false", f"-gcflags=all={FAST_TO_COMPILE}", f"-ldflags={link_flags}"]
        command = [go, "build", *flags, "-o", str(built), f"./{program}"]
        # Without garbage collection, the compiler needs a tenth less time but more memory; set GOGC if that is scarce.
        environment = {"GOGC": "off", **os.environ, "CGO_ENABLED": "0"}
        build = subprocess.run(command, cwd=sources, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        if build.returncode:
            tail = "\n".join(build.stderr.splitlines()[-20:])
            raise ControlPlaneUnavailable(
                f"Building {program} failed (go build exited with {build.returncode}).\n{tail}\n{INSTALL_HINT}"
            )
        path.parent.mkdir(exist_ok=True)
        if program == "kube-apiserver":
            etcd = path.with_name("etcd")
            etcd.unlink(missing_ok=True)
            etcd.symlink_to(program)
        built.rename(path)


def _kubernetes_version(sources: Path) -> str:
    """Return the version in go.mod; a kube-apiserver built without it reports v0.0.0-master."""
    match = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (sources / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise ControlPlaneUnavailable(f"{sources / 'go.mod'} does not require k8s.io/kubernetes")
    return match.group(1)


def _log(message: str) -> None:
    print(f"control plane: {message}", file=sys.stderr, flush=True)
