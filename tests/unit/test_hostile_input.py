"""Text that others control: pods, records, servers and conf cannot fake, break or fill the log and the XComs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

import pytest

from include.kpo_cleanup import report, xcom
from include.kpo_cleanup.classify import Snapshot, classify
from include.kpo_cleanup.constants import Outcome
from include.kpo_cleanup.errors import AdmissionDenied, KpoCleanupError, SettingError, SettingsError
from include.kpo_cleanup.kube.interface import DeleteResult, Listing
from include.kpo_cleanup.results import Result
from include.kpo_cleanup.settings import Settings
from include.kpo_cleanup.task_instance import POD_RECORD, Record, TaskInstances
from include.kpo_cleanup.task_instances.records import MAX_REASON, build_records, describe
from include.kpo_cleanup.text import MAX_PHRASE, MAX_VALUE, printable
from include.kpo_cleanup.verdict import Verdict
from include.kpo_cleanup.workloads.labels import PROTECT_KEY
from include.kpo_cleanup.workloads.pod import parse_pod
from include.kpo_cleanup.workloads.workload import Workload
from tests.unit.builders import FINISHED, HOUR, NOW, make_item, make_ti, timestamp

CREATED = ("metadata", "creationTimestamp")
CONTROL = "\x1b[2K\x1b[31m\r\n[2026-11-24] ERROR deleted\u202e\u2066\u200b\x85\u2028\x00\x9b\ud800\U000e0041"
LONG = 256 * 1024
MAX_XCOM = 30_000  # bytes of one pod in all XComs together, even if each of its fields has the maximum length

END = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": timestamp(NOW - HOUR)}
ITEM = make_item(
    labels={"team": "sales", "batch.kubernetes.io/job-name": "nightly"},
    metadata={
        "annotations": {PROTECT_KEY: "true", "kubectl.kubernetes.io/default-container": "base"},
        "ownerReferences": [
            {"apiVersion": "batch/v1", "kind": "Job", "name": "nightly", "uid": "1", "controller": True}
        ],
        "deletionTimestamp": timestamp(NOW - 24 * HOUR),
        "finalizers": ["example.com/hold"],
    },
    spec={
        "nodeName": "worker-3",
        "containers": [
            {"name": "base", "image": "busybox", "resources": {"requests": {"cpu": "1"}}},
            {"name": "proxy"},
        ],
        "initContainers": [{"name": "setup"}, {"name": "mesh", "restartPolicy": "Always"}],
        "overhead": {"memory": "1Gi"},
    },
    status={
        "phase": "Failed",
        "reason": "Evicted",
        "message": "The node was low on resource: memory.",
        "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"},
            {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(NOW - HOUR)},
        ],
        "containerStatuses": [
            {"name": "base", "state": {"terminated": END}},
            {
                "name": "proxy",
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}},
                "restartCount": 2,
                "lastState": {"terminated": END},
            },
        ],
        "initContainerStatuses": [
            {"name": "setup", "state": {"waiting": {"reason": "PodInitializing"}}},
            {"name": "mesh", "state": {"running": {"startedAt": timestamp(NOW - HOUR)}}},
        ],
    },
)
# What is removed so that no earlier rule keeps the pod: every rule has to render a hostile pod.
WITHOUT = {
    "the annotation": [("metadata", "annotations")],
    "its owners": [("metadata", "annotations"), ("metadata", "ownerReferences")],
    "its deadline": [("metadata", "annotations"), ("metadata", "ownerReferences"), ("metadata", "deletionTimestamp")],
}


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each string."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, child in children:
        yield from paths(child, (*path, name))
    if isinstance(value, str):
        yield path


def hostile_items() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield items in which one string, or the key of a label, is hostile."""
    for without, removed in WITHOUT.items():
        item = deepcopy(ITEM)
        for section, name in removed:
            del item[section][name]
        if len(removed) > 1:
            del item["metadata"]["labels"]["batch.kubernetes.io/job-name"]
        for path in sorted({*paths(item)} - {CREATED}, key=str):
            changed = deepcopy(item)
            parent = changed
            for name in path[:-1]:
                parent = parent[name]
            parent[path[-1]] += CONTROL + "x" * LONG
            yield f"in {'.'.join(map(str, path))}, without {without}", changed
        for section in ("labels", "finalizers", "requests"):
            changed = deepcopy(item)
            many = [f"{CONTROL}{number:05}" for number in range(2_000)]
            if section == "labels":
                changed["metadata"]["labels"].update(dict.fromkeys(many, CONTROL))
            elif section == "finalizers":
                changed["metadata"]["finalizers"] = many
            else:
                changed["spec"]["containers"][0]["resources"]["requests"] = dict.fromkeys(many, "1")
            yield f"in 2,000 {section}, without {without}", changed


HOSTILE_ITEMS = dict(hostile_items())


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, child in value.items():
            yield from strings(name)
            yield from strings(child)
    elif isinstance(value, (list, tuple)):
        for child in value:
            yield from strings(child)


def assert_harmless(value: Any) -> None:
    """Check all text of an XCom, or of the lines of a log."""
    assert [text for text in strings(value) if not text.isprintable()] == []


def verdicts_on(pod: Workload) -> Iterator[Verdict]:
    """Yield the verdicts with a task instance that has finished, one that is active, and none."""
    for ti in (FINISHED, make_ti(state="running", ended=None), None):
        found = {} if ti is None else {pod.key: ti}
        settings = Settings(delete_pods_on_failure=True)
        yield from classify(Snapshot([pod], TaskInstances(found), settings, NOW))


@pytest.mark.parametrize("item", HOSTILE_ITEMS.values(), ids=HOSTILE_ITEMS)
def test_a_pod_with_a_hostile_text_is_logged_and_stored_without_it(item: dict[str, Any]) -> None:
    listing = xcom.dump_listing(Listing([parse_pod(item)]))
    assert_harmless(json.loads(json.dumps(listing)))
    (loaded,) = xcom.load_listing(listing).workloads
    for verdict in verdicts_on(loaded):
        classification = xcom.dump_classification([verdict], {})
        held = DeleteResult.from_accepted(loaded.finalizers, None)
        result = Result(verdict, held.outcome, held.detail)
        reaped = report.reap_report([result], "")
        lines = [
            *report.zombie_lines([verdict]),
            *report.warning_lines([verdict]),
            *report.kept_lines([verdict]),
            *report.result_lines([result]),
            *report.reap_lines([result, Result(verdict, Outcome.WOULD_DELETE)], Settings()),
        ]
        assert_harmless([classification, reaped, lines])
        assert len(json.dumps([listing, classification, reaped])) < MAX_XCOM


def test_an_item_without_a_creation_time_is_rejected_without_its_hostile_text() -> None:
    with pytest.raises(ValueError, match="an item lacks") as error:
        parse_pod(make_item(metadata={"creationTimestamp": CONTROL + "x" * LONG}))
    assert_harmless(str(error.value))
    assert len(str(error.value)) < 2 * MAX_VALUE


def test_two_pods_that_differ_in_the_last_of_many_labels_are_not_each_others_successors() -> None:
    labels = {f"label-{number:05}": "a" for number in range(2_000)}
    pods = [parse_pod(make_item(labels=labels)) for _ in range(2)]
    other = parse_pod(make_item(labels={**labels, "label-01999": "b"}))
    assert pods[0].adoption_key == pods[1].adoption_key
    assert pods[0].adoption_key != other.adoption_key


def test_a_pod_with_an_id_that_kubernetes_would_reject_has_a_label_problem() -> None:
    assert parse_pod(make_item(labels={"dag_id": "orders\n"})).label_problem == (
        r"label dag_id='orders\n' is not a valid Kubernetes label value"
    )


@pytest.mark.parametrize("start", [0, MAX_PHRASE - 30, MAX_PHRASE - 10])
def test_an_error_shows_no_part_of_a_password_although_its_text_is_cut_off_there(start: int) -> None:
    error = KpoCleanupError("querying", cause="x" * start + " postgres://user:SECRET-PASSWORD@database")
    assert "SECRET" not in str(error.fields)
    assert "user:" not in error.cause


def test_a_record_that_a_backend_could_not_read_is_explained_without_hostile_text_and_credentials() -> None:
    shown = describe(OSError(CONTROL + " s3://key:SECRET@bucket " + "x" * LONG))
    assert_harmless(shown)
    assert "SECRET" not in shown
    assert len(shown) <= MAX_REASON


@pytest.mark.parametrize("field", ["summary", "cause", "remedy", "server_message"])
def test_an_error_with_a_hostile_text_is_logged_and_stored_without_it(field: str) -> None:
    error = KpoCleanupError(**{"summary": "deleting the pod", field: CONTROL + "x" * LONG})
    assert_harmless([error.fields, report.error_lines(error), str(error)])
    assert len(str(error)) < 2 * MAX_PHRASE


def test_a_webhook_that_denies_a_deletion_is_quoted_without_its_hostile_text() -> None:
    text = CONTROL + "x" * LONG
    error = AdmissionDenied("deleting the pod", cause=f"403, by {text}", denied_by=text, server_message=text)
    assert_harmless([error.fields, report.error_lines(error)])


@pytest.mark.parametrize(("option", "value"), [("namespaces", CONTROL + "x" * LONG), (CONTROL + "x" * LONG, "value")])
def test_a_rejected_setting_of_a_run_is_logged_without_its_hostile_text(option: str, value: str) -> None:
    error = SettingsError("1 invalid setting", errors=[SettingError(option, value, "this run's conf", "remove it")])
    assert_harmless([report.error_lines(error), str(error).splitlines()])
    assert len(str(error)) < 3 * MAX_VALUE


@pytest.mark.parametrize("key", ["pod_name", "pod_namespace"])
def test_a_record_with_a_hostile_text_is_stored_without_it(key: str) -> None:
    task_instance = parse_pod(make_item()).key
    values = {"pod_name": "extract", "pod_namespace": "airflow", key: CONTROL + "x" * LONG}
    records: Mapping[Any, Record] = build_records({task_instance: [values]}, POD_RECORD)
    stored = xcom.dump_task_instances(TaskInstances({task_instance: FINISHED._replace(operator=CONTROL)}), records)
    assert_harmless(json.loads(json.dumps(stored)))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("keep until Friday", "keep until Friday"),
        ("Müller 漢 🚀", "Müller 漢 🚀"),
        ("two\nlines\tand a tab", "two lines and a tab"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("left\u202eright", r"left\u202eright"),
        ("\ud800", r"\ud800"),
        ("x" * MAX_VALUE, "x" * MAX_VALUE),
        ("x" * (MAX_VALUE + 1), "x" * (MAX_VALUE - 1) + "…"),
        ("\0" * MAX_VALUE, (r"\x00" * MAX_VALUE)[: MAX_VALUE - 1] + "…"),
        (None, "None"),
    ],
    ids=[
        "plain text stays",
        "other scripts stay",
        "line breaks and tabs become blanks",
        "a terminal's escape sequence is escaped",
        "a change of the direction of text is escaped",
        "half of a character is escaped",
        "the longest value stays",
        "a longer value is cut off",
        "a value that is too long once it is escaped is cut off",
        "what is not a string is converted",
    ],
)
def test_a_value_is_rendered_as_one_short_line(value: object, expected: str) -> None:
    assert printable(value) == expected
