"""Run the cleanup with a service account that has only the permissions of the shipped manifests."""

from __future__ import annotations

import copy
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from airflow.models.dagrun import DagRun
from kubernetes import client, config

from tests.conftest import REPO
from tests.control_plane import ControlPlane
from tests.dag import airflow_runs
from tests.dag.conftest import Cluster, connection_to
from tests.dag.pods import create, labels_of, wait_until
from tests.proxy import FaultProxy

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.parametrize("cluster", ["real"], indirect=True, scope="session"),
]

ACCOUNT = "airflow-worker"
MANIFESTS = {
    "one namespace": ("rbac.yaml", "airflow"),
    "all namespaces": ("rbac-all-namespaces.yaml", "*"),
}


def manifest(file: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((REPO / "manifests" / file).read_text()))


def required_verbs(file: str) -> list[tuple[str, str]]:
    """Return the verbs without which a run fails or says less, even if there are pods only."""
    (role,) = (document for document in manifest(file) if document["kind"].endswith("Role"))
    rules = [rule for rule in role["rules"] if rule["apiGroups"] == [""]]
    return [(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]]


def without(documents: list[dict[str, Any]], verb: str, resource: str) -> list[dict[str, Any]]:
    documents = copy.deepcopy(documents)
    for role in (document for document in documents if "rules" in document):
        for rule in role["rules"]:
            if resource in rule["resources"]:
                rule["verbs"].remove(verb)
        role["rules"] = [rule for rule in role["rules"] if rule["verbs"]]
    return documents


class Grants:
    """The permissions that the account has at the moment."""

    def __init__(self, api: client.ApiClient) -> None:
        self._rbac, self._authorization = client.RbacAuthorizationV1Api(api), client.AuthorizationV1Api(api)

    def grant(self, documents: list[dict[str, Any]]) -> None:
        for document in documents:
            if document["kind"].startswith("Cluster"):
                getattr(self._rbac, f"create_{_snake(document['kind'])}")(document)
            else:
                namespace = document["metadata"]["namespace"]
                getattr(self._rbac, f"create_namespaced_{_snake(document['kind'])}")(namespace, document)
        for document in documents:
            namespace = document["metadata"].get("namespace", "")
            for rule in document.get("rules", ()):
                for verb in rule["verbs"]:
                    self._await(verb, rule["resources"][0], namespace, rule["apiGroups"][0], allowed=True)

    def revoke_all(self) -> None:
        self._rbac.delete_collection_namespaced_role_binding("airflow")
        self._rbac.delete_collection_namespaced_role("airflow")
        for kind in ("cluster_role_binding", "cluster_role"):
            if any(item.metadata.name == "kpo-cleanup" for item in getattr(self._rbac, f"list_{kind}")().items):
                getattr(self._rbac, f"delete_{kind}")("kpo-cleanup")
        for verb, resource in (("list", "pods"), ("delete", "pods"), ("get", "namespaces")):
            self._await(verb, resource, "airflow", allowed=False)

    def _await(self, verb: str, resource: str, namespace: str, group: str = "", *, allowed: bool) -> None:
        """Wait until the API server applies a change of permissions, which takes a moment."""
        review = {
            "spec": {
                "user": f"system:serviceaccount:airflow:{ACCOUNT}",
                "resourceAttributes": {"verb": verb, "group": group, "resource": resource, "namespace": namespace},
            }
        }
        wait_until(lambda: self._authorization.create_subject_access_review(review).status.allowed == allowed)


def _snake(kind: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).lstrip("_")


@pytest.fixture(scope="module")
def finished_run(_proxy: FaultProxy) -> DagRun:
    return airflow_runs.run("collisions")


@pytest.fixture
def zombie(core: client.CoreV1Api, finished_run: DagRun) -> Iterator[None]:
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    create(core, "zombie", labels_of("collisions", "a_1", finished_run.run_id))
    airflow_runs.record_pod(finished_run, "a_1", "airflow", "zombie")
    airflow_runs.set_end_date("collisions")
    yield
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)


@pytest.fixture
def zombie_job(core: client.CoreV1Api, finished_run: DagRun) -> Iterator[client.BatchV1Api]:
    """Create a Job of a failed task, with its pod: on this server, no controller acts on it."""
    batch = client.BatchV1Api(core.api_client)
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
    airflow_runs.set_state(finished_run, "a_1", "failed")
    airflow_runs.set_end_date("collisions")
    labels = labels_of("collisions", "a_1", finished_run.run_id)
    container = {"name": "base", "image": "busybox"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "restartPolicy": "Never"}}
    job = batch.create_namespaced_job("airflow", {"metadata": {"name": "job"}, "spec": {"template": template}})
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": job.metadata.uid, "controller": True}
    create(core, "job-0", labels, ownerReferences=[owner])
    airflow_runs.record_pod(finished_run, "a_1", "airflow", "job", "job")
    yield batch
    batch.delete_collection_namespaced_job("airflow", propagation_policy="Background")
    core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)


@pytest.fixture
def grants(
    cluster: Cluster, control_plane: ControlPlane, core: client.CoreV1Api, proxy: FaultProxy
) -> Iterator[Grants]:
    """Point the connection to the API server with the service account's credentials, for one test."""
    accounts = core.list_namespaced_service_account("airflow").items
    if ACCOUNT not in {account.metadata.name for account in accounts}:
        core.create_namespaced_service_account("airflow", {"metadata": {"name": ACCOUNT}})
    user = control_plane.kubeconfig_for_service_account("airflow", ACCOUNT)["users"][0]["user"]
    assert cluster.ssl_context
    anonymous = ssl.create_default_context(cadata=_certificates(cluster.ssl_context))
    grants = Grants(config.new_client_from_config_dict(cluster.kubeconfig))
    with FaultProxy(cluster.url, anonymous) as as_account, connection_to(as_account.url, user, "account.json"):
        try:
            yield grants
        finally:
            grants.revoke_all()


def _certificates(context: ssl.SSLContext) -> str:
    return "".join(ssl.DER_cert_to_PEM_cert(der) for der in context.get_ca_certs(binary_form=True))


def clean_up(namespaces: str) -> DagRun:
    return airflow_runs.run("kpo_cleanup", settle_seconds=0, namespaces=namespaces)


def names(core: client.CoreV1Api) -> set[str]:
    return {pod.metadata.name for pod in core.list_namespaced_pod("airflow").items}


@pytest.mark.parametrize(("file", "namespaces"), MANIFESTS.values(), ids=MANIFESTS)
def test_the_shipped_manifest_grants_all_that_the_cleanup_needs(
    grants: Grants, core: client.CoreV1Api, zombie: None, file: str, namespaces: str
) -> None:
    grants.grant(manifest(file))
    assert clean_up(namespaces).state == "success"
    assert names(core) == set()
    assert airflow_runs.states(clean_up(namespaces))["reap"] == "skipped"


@pytest.mark.parametrize(
    ("file", "namespaces", "verb", "resource"),
    [(file, namespaces, *rule) for file, namespaces in MANIFESTS.values() for rule in required_verbs(file)],
)
def test_a_missing_verb_is_named_in_the_log_and_every_verb_is_needed(
    grants: Grants,
    core: client.CoreV1Api,
    zombie: None,
    file: str,
    namespaces: str,
    verb: str,
    resource: str,
    log_output: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    grants.grant(without(manifest(file), verb, resource))
    if (verb, resource) == ("get", "namespaces"):
        caplog.set_level("INFO")
        core.delete_collection_namespaced_pod("airflow", grace_period_seconds=0)
        wait_until(lambda: names(core) == set())
        assert clean_up(namespaces).state == "success"
        assert "whether it exists could not be checked" in caplog.text
        return
    run = clean_up(namespaces)
    role = "ClusterRole for all namespaces" if (verb, namespaces) == ("list", "*") else "Role for namespace 'airflow'"
    assert run.state == "failed"
    assert f"allow verb '{verb}' on resource '{resource}' in a {role}" in log_output()
    assert names(core) == {"zombie"}


@pytest.mark.parametrize(("file", "namespaces"), MANIFESTS.values(), ids=MANIFESTS)
def test_the_shipped_manifest_grants_what_jobs_need(
    grants: Grants, zombie_job: client.BatchV1Api, file: str, namespaces: str
) -> None:
    grants.grant(manifest(file))
    assert clean_up(namespaces).state == "success"
    assert zombie_job.list_namespaced_job("airflow").items == []


@pytest.mark.parametrize(("verb", "state"), [("get", "success"), ("delete", "failed")])
@pytest.mark.parametrize(("file", "namespaces"), MANIFESTS.values(), ids=MANIFESTS)
def test_without_a_verb_on_jobs_a_job_is_kept_and_the_log_names_the_verb(
    grants: Grants,
    zombie_job: client.BatchV1Api,
    file: str,
    namespaces: str,
    verb: str,
    state: str,
    log_output: Callable[[], str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")  # the level of the notice; an exception is in the output
    grants.grant(without(manifest(file), verb, "jobs"))
    assert clean_up(namespaces).state == state
    rule = f"allow verb '{verb}' on resource 'jobs' of API group 'batch'"
    assert rule in f"{' '.join(' '.join(caplog.messages).split())} {log_output()}"
    assert [job.metadata.name for job in zombie_job.list_namespaced_job("airflow").items] == ["job"]
