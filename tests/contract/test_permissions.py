"""The manifests, applied to a real API server with names that a user inserts: the permissions they grant."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config, utils
from kubernetes.client.exceptions import ApiException
from tenacity import RetryError

from tests.conftest import REPO
from tests.contract.namespace import job
from tests.control_plane import ControlPlane
from tests.dag.pods import wait_until
from tests.documents import block

# The names in the documented command.
PODS, WORKERS, ACCOUNT = "team-a", "workflows", "runner"
CLUSTER_WIDE = {
    ("list", "pods"),
    ("delete", "pods"),
    ("get", "jobs"),
    ("delete", "jobs"),
    ("get", "sparkapplications"),
    ("delete", "sparkapplications"),
}
DOCUMENTED = {*CLUSTER_WIDE, ("get", "namespaces")}

Rules = set[tuple[str, str]]


def applied(file: str, folder: Path) -> list[dict[str, Any]]:
    """Run the documented command with this manifest, and return the YAML documents that it passes to `kubectl`."""
    kubectl, stdin = folder / "kubectl", folder / "stdin"
    kubectl.write_text(f'#!/bin/sh\n[ "$*" = "apply -f -" ] && exec cat > {stdin}\n')
    kubectl.chmod(0o755)
    command = block("docs/installation.md", "Filling in the placeholders").replace("rbac.yaml", file)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(["bash", "-euc", command], cwd=REPO, env={**os.environ, "PATH": path}, check=True)
    return list(yaml.safe_load_all(stdin.read_text()))


@pytest.fixture(scope="module")
def admin(control_plane: ControlPlane) -> client.ApiClient:
    """Create the namespaces and the service account, and return a client with administrator rights."""
    admin = config.new_client_from_config_dict(control_plane.kubeconfig)
    core = client.CoreV1Api(admin)
    for namespace in (PODS, WORKERS):
        core.create_namespace({"metadata": {"name": namespace}})
    core.create_namespaced_service_account(WORKERS, {"metadata": {"name": ACCOUNT}})
    return admin


@pytest.fixture(scope="module")
def account(control_plane: ControlPlane, admin: client.ApiClient) -> client.ApiClient:
    return config.new_client_from_config_dict(control_plane.kubeconfig_for_service_account(WORKERS, ACCOUNT))


@pytest.fixture
def apply(admin: client.ApiClient, tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Return a function that applies a manifest as documented; remove its objects after the test."""
    documents: list[dict[str, Any]] = []

    def apply_manifest(file: str) -> None:
        for document in applied(file, tmp_path):
            utils.create_from_dict(admin, document)
            documents.append(document)

    yield apply_manifest
    rbac = client.RbacAuthorizationV1Api(admin)
    for document in documents:
        name, namespace = document["metadata"]["name"], document["metadata"].get("namespace")
        if document["kind"] == "Role":
            rbac.delete_namespaced_role(name, namespace)
        elif document["kind"] == "RoleBinding":
            rbac.delete_namespaced_role_binding(name, namespace)
        elif document["kind"] == "ClusterRole":
            rbac.delete_cluster_role(name)
        else:
            rbac.delete_cluster_role_binding(name)


def rules(account: client.ApiClient, namespace: str) -> Rules:
    """Return all verbs and resources that the API server allows an account in a namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    status = client.AuthorizationV1Api(account).create_self_subject_rules_review(review).status
    assert not status.incomplete
    return {(verb, resource) for rule in status.resource_rules for verb in rule.verbs for resource in rule.resources}


@pytest.fixture(scope="module")
def common_rules(account: client.ApiClient) -> dict[str, Rules]:
    """Return the permissions that every account has, by namespace."""
    return {namespace: rules(account, namespace) for namespace in (PODS, WORKERS, "default")}


def granted(account: client.ApiClient, common_rules: dict[str, Rules], expected: dict[str, Rules]) -> dict[str, Rules]:
    """Return the permissions of this account only, after waiting until they are as expected.

    The authorizer of the API server receives new grants through a watch, so they take effect with a delay.
    """

    def current() -> dict[str, Rules]:
        return {namespace: rules(account, namespace) - others for namespace, others in common_rules.items()}

    with suppress(RetryError):
        wait_until(lambda: current() == expected, seconds=10)
    return current()


@pytest.mark.parametrize(
    ("file", "pods_namespace", "other_namespaces"),
    [("rbac.yaml", DOCUMENTED, set()), ("rbac-all-namespaces.yaml", CLUSTER_WIDE, CLUSTER_WIDE)],
    ids=["one namespace", "all namespaces"],
)
def test_a_manifest_grants_the_documented_verbs_and_nothing_else(
    account: client.ApiClient,
    common_rules: dict[str, Rules],
    apply: Callable[[str], None],
    file: str,
    pods_namespace: Rules,
    other_namespaces: Rules,
) -> None:
    apply(file)
    expected = {PODS: pods_namespace, WORKERS: other_namespaces, "default": other_namespaces}
    assert granted(account, common_rules, expected) == expected


def test_the_account_can_list_and_delete_pods_and_jobs_and_nothing_else(
    admin: client.ApiClient,
    account: client.ApiClient,
    common_rules: dict[str, Rules],
    apply: Callable[[str], None],
) -> None:
    apply("rbac.yaml")
    expected: dict[str, Rules] = {PODS: DOCUMENTED, WORKERS: set(), "default": set()}
    assert granted(account, common_rules, expected) == expected
    pod = {"metadata": {"name": "zombie"}, "spec": {"containers": [{"name": "base", "image": "busybox"}]}}
    client.CoreV1Api(admin).create_namespaced_pod(PODS, pod)
    core = client.CoreV1Api(account)
    assert [pod.metadata.name for pod in core.list_namespaced_pod(PODS).items] == ["zombie"]
    assert core.read_namespace(PODS).metadata.name == PODS
    core.delete_namespaced_pod("zombie", PODS, grace_period_seconds=0)
    client.BatchV1Api(admin).create_namespaced_job(PODS, job("zombie"))
    batch = client.BatchV1Api(account)
    assert batch.read_namespaced_job("zombie", PODS).metadata.name == "zombie"
    batch.delete_namespaced_job("zombie", PODS, propagation_policy="Background")
    for forbidden_call in (
        lambda: core.create_namespaced_pod(PODS, pod),
        lambda: core.read_namespaced_pod("zombie", PODS),
        lambda: core.list_namespaced_pod(WORKERS),
        lambda: core.list_pod_for_all_namespaces(),
        lambda: batch.list_namespaced_job(PODS),
        lambda: batch.create_namespaced_job(PODS, job("another")),
    ):
        with pytest.raises(ApiException, match="403"):
            forbidden_call()  # type: ignore[no-untyped-call]
