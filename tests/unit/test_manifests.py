"""The manifests grant what the package needs for each kind of workload, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from include.kpo_cleanup.workloads.registry import KINDS
from include.kpo_cleanup.workloads.workload import POD

MANIFESTS = Path(__file__).parents[2] / "manifests"
NAMESPACES = {("", "namespaces", "get")}  # only the Role, because no namespace can be missing from all


@pytest.mark.parametrize(("file", "more"), [("rbac.yaml", NAMESPACES), ("rbac-all-namespaces.yaml", set())])
def test_a_manifest_grants_what_each_kind_needs_and_names_it(file: str, more: set[tuple[str, str, str]]) -> None:
    text = (MANIFESTS / file).read_text()
    (role,) = (document for document in yaml.safe_load_all(text) if document["kind"].endswith("Role"))
    granted = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    # Pods are listed by a selector; whatever controls them is read by its name.
    reading = {(kind.group, kind.plural, "list" if kind is KINDS[POD] else "get") for kind in KINDS.values()}
    deleting = {(kind.group, kind.plural, "delete") for kind in KINDS.values()}
    assert granted == reading | deleting | more, f"edit manifests/{file}"
    for kind in KINDS.values():
        assert kind is KINDS[POD] or f"  # For {kind.api_kind}s\n" in text, f"add this comment to manifests/{file}"
