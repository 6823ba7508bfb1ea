"""The origins of etcd and kube-apiserver: KUBEBUILDER_ASSETS, PATH, the cache, or `go build`."""

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
    "Install Go 1.26 or newer (any Go from 1.21 on fetches that by itself where it may), so that they can be "
    "built once, or put etcd and kube-apiserver 1.34 or newer on PATH or into the folder that "
    "KUBEBUILDER_ASSETS names (setup-envtest downloads both)."
)


@dataclass(frozen=True)
class Binaries:
    """The two programs to run."""

    etcd: Path
    kube_apiserver: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Binaries | None:
        """Return those in `folder`, or None unless both are there."""
        found = cls(folder / "etcd", folder / "kube-apiserver")
        return found if all(os.access(path, os.X_OK) for path in (found.etcd, found.kube_apiserver)) else None


def find_or_build(sources: Path = GO_SOURCES) -> Binaries:
    """Return the first pair of binaries to be found; build them if there is none, which takes minutes.

    Raises ControlPlaneUnavailable if that is impossible.
    """
    if assets := os.environ.get("KUBEBUILDER_ASSETS"):
        # A person who sets it means it: other binaries would hide a typo.
        if binaries := Binaries.in_folder(Path(assets)):
            return binaries
        raise ControlPlaneUnavailable(f"KUBEBUILDER_ASSETS={assets} has no etcd and kube-apiserver. {INSTALL_HINT}")
    etcd, kube_apiserver = shutil.which("etcd"), shutil.which("kube-apiserver")
    if etcd and kube_apiserver:
        return Binaries(Path(etcd), Path(kube_apiserver))
    return _cached_or_built(_cache_folder() / f"control-plane-{_hash_of(sources)}", sources)


def _cache_folder() -> Path:
    if folder := os.environ.get("KPO_CLEANUP_CACHE"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kpo-cleanup"


def _hash_of(sources: Path) -> str:
    digest = hashlib.sha256()
    for name in ("go.mod", "go.sum", "main.go"):
        digest.update((sources / name).read_bytes())
    return digest.hexdigest()[:16]


def _cached_or_built(folder: Path, sources: Path) -> Binaries:
    if binaries := Binaries.in_folder(folder):
        return binaries
    with _lock(folder.with_suffix(".lock")):
        # Another process may have built them while this one waited for the lock.
        if not Binaries.in_folder(folder):
            _build(folder, sources)
    return Binaries(folder / "etcd", folder / "kube-apiserver")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    except OSError as error:
        raise ControlPlaneUnavailable(
            f"Can't write to the cache folder {path.parent} ({error}); set KPO_CLEANUP_CACHE to another one."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("another process is building etcd and kube-apiserver; waiting for it")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(folder: Path, sources: Path) -> None:
    """Build into a neighbouring folder and rename it, so that `folder` is whole from its first moment."""
    go = shutil.which("go")
    if go is None:
        raise ControlPlaneUnavailable(f"There is no etcd and kube-apiserver here, and no Go. {INSTALL_HINT}")
    version = _kubernetes_version(sources)
    _say(
        f"building etcd and kube-apiserver {version} with {go} into {folder}: once, about 5 minutes on two "
        "cores, for 0.6 GB of Go modules and 2 GB of build cache unless they are there already"
    )
    with tempfile.TemporaryDirectory(prefix="building-", dir=folder.parent) as scratch:
        built = Path(scratch, "control-plane")
        built.mkdir()
        flags = f"-s -w -X k8s.io/component-base/version.gitVersion={version}"
        command = [go, "build", "-trimpath", "-buildvcs=false", "-ldflags", flags]
        command += ["-o", str(built / "kube-apiserver"), "."]
        environment = {**os.environ, "CGO_ENABLED": "0"}
        build = subprocess.run(command, cwd=sources, env=environment, stderr=subprocess.PIPE, text=True, check=False)
        if build.returncode:
            tail = "\n".join(build.stderr.splitlines()[-20:])
            raise ControlPlaneUnavailable(
                f"etcd and kube-apiserver could not be built (go build: {build.returncode}).\n{tail}\n{INSTALL_HINT}"
            )
        (built / "etcd").symlink_to("kube-apiserver")
        built.rename(folder)


def _kubernetes_version(sources: Path) -> str:
    """Read the version in go.mod; a kube-apiserver that is built without it calls itself v0.0.0-master."""
    match = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (sources / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise ControlPlaneUnavailable(f"{sources / 'go.mod'} requires no k8s.io/kubernetes")
    return match.group(1)


def _say(message: str) -> None:
    print(f"control plane: {message}", file=sys.stderr, flush=True)
