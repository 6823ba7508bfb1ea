"""Where etcd and kube-apiserver come from: KUBEBUILDER_ASSETS, PATH, the cache, or `go build`."""

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


@dataclass(frozen=True)
class Binaries:
    """The paths of the executables."""

    etcd: Path
    kube_apiserver: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Binaries | None:
        """Return the binaries in `folder`, or None unless both exist."""
        found = cls(folder / "etcd", folder / "kube-apiserver")
        return found if all(os.access(path, os.X_OK) for path in (found.etcd, found.kube_apiserver)) else None


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
        # Another process may have built them while this process was waiting for the lock.
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
            f"Cannot write to the cache directory {path.parent} ({error}); set KPO_CLEANUP_CACHE to another directory."
        ) from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log("waiting for another process that is building etcd and kube-apiserver")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _build(folder: Path, sources: Path) -> None:
    """Build into a temporary directory and rename it, so that `folder` is never incomplete."""
    go = shutil.which("go")
    if go is None:
        raise ControlPlaneUnavailable(f"Found neither etcd and kube-apiserver nor Go to build them. {INSTALL_HINT}")
    version = _kubernetes_version(sources)
    _log(
        f"building etcd and kube-apiserver {version} with {go} into {folder}; this happens once and takes about 5 "
        "minutes on two cores, 0.6 GB of Go modules and 2 GB of build cache"
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
                f"Building etcd and kube-apiserver failed (go build exited with {build.returncode}).\n"
                f"{tail}\n{INSTALL_HINT}"
            )
        (built / "etcd").symlink_to("kube-apiserver")
        built.rename(folder)


def _kubernetes_version(sources: Path) -> str:
    """Return the version in go.mod; a kube-apiserver built without it reports v0.0.0-master."""
    match = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", (sources / "go.mod").read_text(), re.MULTILINE)
    if match is None:
        raise ControlPlaneUnavailable(f"{sources / 'go.mod'} does not require k8s.io/kubernetes")
    return match.group(1)


def _log(message: str) -> None:
    print(f"control plane: {message}", file=sys.stderr, flush=True)
