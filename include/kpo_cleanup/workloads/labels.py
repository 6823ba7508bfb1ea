"""Labels: those by which operators mark their workloads with a task instance, and the one that protects a workload."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..identity import UNMAPPED, TaskInstanceKey
from ..text import pluralize, printable
from .parse import MAX_ITEMS, shared

PROTECT_KEY = "kpo-cleanup/protect"
KPO_LABEL = "kubernetes_pod_operator"
SPARK_LABEL = "spark_kubernetes_operator"
ID_LABELS = ("dag_id", "task_id", "run_id")
CHECKED_LABEL = "already_checked"  # find_pod skips pods that carry it
# Labels of the operators that do not distinguish the pods of a task instance: find_pod does not search by them, or the
# key of the task instance contains them.
NOT_SEARCHED_BY = frozenset(
    {
        *ID_LABELS,
        "map_index",
        "try_number",
        KPO_LABEL,
        SPARK_LABEL,
        CHECKED_LABEL,
        "airflow_version",
        "airflow_kpo_in_cluster",
    }
)
# Labels that the cluster or a service mesh writes. They are not the operator's, and two pods of one task may differ in
# them. docs/concepts.md lists them.
CLUSTER_LABEL_PREFIXES = (
    "topology.kubernetes.io/",  # zone and region, stamped when the pod is bound
    "failure-domain.beta.kubernetes.io/",  # the same in old clusters
    "topology.istio.io/",
    "service.istio.io/",
    "security.istio.io/",
    "linkerd.io/",
    "consul.hashicorp.com/",
)

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")
_MAX_NUMBER = 2**31 - 1  # Airflow's columns are 32-bit integers


def task_fields(labels: Mapping[str, Any], marker: str = KPO_LABEL) -> dict[str, Any]:
    """Return the fields of a workload that an operator's labels determine; malformed ones are a ``label_problem``.

    :param marker: the label that its operator sets to ``True``.
    """
    try_number, map_index = _label_number(labels, "try_number"), _label_number(labels, "map_index")
    dag_id, task_id, run_id = (shared(labels.get(name) or "") for name in ID_LABELS)  # thousands of pods share these
    problem = _label_problem(labels, marker, {"try_number": try_number, "map_index": map_index})
    return {
        "key": TaskInstanceKey(dag_id, task_id, run_id, UNMAPPED if map_index is None else map_index),
        "try_number": try_number or 0,
        "labels": _searched_labels(labels),
        "label_problem": printable(problem),
        "already_checked": labels.get(CHECKED_LABEL) == "True",
    }


def protection(*sources: Mapping[str, Any]) -> str:
    """Return the annotation or label that protects an object, as key=value; empty if there is none."""
    for keys in sources:
        value = keys.get(PROTECT_KEY)
        # Anything but "false" protects the object, because somebody who set "yes", or no value, wants to keep it.
        if value is not None and str(value).strip().lower() != "false":
            return printable(f"{PROTECT_KEY}={value}")
    return ""


def _label_number(labels: Mapping[str, Any], name: str) -> int | None:
    text = str(labels.get(name, ""))
    return int(text) if _NUMBER.fullmatch(text) and int(text) <= _MAX_NUMBER else None


def _label_problem(labels: Mapping[str, Any], marker: str, numbers: Mapping[str, int | None]) -> str:
    if labels.get(marker) != "True":
        # The executor's worker pods have all other labels in common with the operator's.
        return f"label {marker} is {labels.get(marker)!r}, not 'True'"
    if labels.get(SPARK_LABEL) == "True" and marker != SPARK_LABEL:
        return f"label {SPARK_LABEL}=True: it is a pod of the SparkKubernetesOperator as well"
    for name in (*ID_LABELS, "try_number"):
        if not labels.get(name):
            return f"label {name} is missing"
        if printable(labels[name]) != str(labels[name]):
            return f"label {name}={labels[name]!r} is not a valid Kubernetes label value"
    for name, number in numbers.items():
        if name in labels and number is None:
            return f"label {name}={labels[name]!r} is not a number that Airflow writes"
    return ""


@lru_cache(maxsize=4096)  # thousands of pods share these names
def _is_searched_by(label: str) -> bool:
    """Return whether the operator may search its pod by this label."""
    return label not in NOT_SEARCHED_BY and not label.startswith(CLUSTER_LABEL_PREFIXES)


def _searched_labels(labels: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    searched = sorted((printable(name), printable(value)) for name, value in labels.items() if _is_searched_by(name))
    kept, others = searched[:MAX_ITEMS], searched[MAX_ITEMS:]
    if others:  # the digests of two pods are equal if their other labels are
        kept.append((pluralize(len(others), "other label"), hashlib.sha256(repr(others).encode()).hexdigest()))
    return _share(tuple(kept))


@lru_cache(maxsize=4096)
def _share(labels: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Return the first equal labels, so that thousands of pods share one copy."""
    return labels
