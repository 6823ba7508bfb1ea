"""Check the documentation against the code, as far as this does not require Airflow."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from include.kpo_cleanup.constants import Reason
from include.kpo_cleanup.errors import KpoCleanupError
from include.kpo_cleanup.report import reap_report
from include.kpo_cleanup.settings import OPTIONS
from include.kpo_cleanup.workloads.labels import CLUSTER_LABEL_PREFIXES
from include.kpo_cleanup.xcom import dump_classification
from tests.conftest import REPO
from tests.documents import DOCUMENTS, block, document, section
from tests.matrix import ROWS


def test_the_settings_table_matches_the_code() -> None:
    options = section("README.md", "Configuration")
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| a (\w+) \| (.+) \|$", options, re.M)
    in_code = [
        (name, _default(name), option.metadata["scope"].value, option.metadata["meaning"])
        for name, option in OPTIONS.items()
    ]
    assert rows == in_code, "docs differ from settings.py: edit the table in README.md, section Configuration"


def _default(name: str) -> str:
    option = OPTIONS[name]
    default = "empty" if option.default in ("", None) else f"`{option.default}`"
    follows = option.metadata.get("follows")
    return f"Airflow's `{follows}` ({default})" if follows else default


def test_the_listed_labels_of_the_cluster_match_the_code() -> None:
    listed = document("docs/concepts.md").partition("those that start with ")[2].partition("\n\n")[0]
    assert tuple(re.findall(r"`(\S+)`", listed)) == CLUSTER_LABEL_PREFIXES


def test_the_table_of_verdicts_lists_the_reasons_in_the_order_of_the_rules() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", section("docs/concepts.md", "Classification"), re.M)
    assert listed.count("unmatched") == 2  # without a task instance, and with one that may not have created the pod
    reasons = [reason.value for reason in Reason]
    assert list(dict.fromkeys(listed)) == reasons, "edit the table in docs/concepts.md, section Classification"


def test_the_listed_permissions_match_the_manifest() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \| `(\w+)` \|", section("docs/installation.md", "Permissions"), re.M))
    documents = yaml.safe_load_all((REPO / "manifests/rbac.yaml").read_text())
    rules = next(document["rules"] for document in documents if document["kind"] == "Role")
    assert listed == {(verb, resource) for rule in rules for verb in rule["verbs"] for resource in rule["resources"]}


def test_the_supported_releases_match_the_matrix() -> None:
    versions = section("docs/installation.md", "Supported versions")
    # `make test-matrix` checks the other columns.
    assert re.findall(r"^\| (\d+\.\S+) \|", versions, re.M) == [row.airflow for row in ROWS]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPO)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(path: Path) -> None:
    for target, heading in re.findall(r"\]\(([^)#:]*)(?:#([^)]+))?\)", path.read_text()):
        linked = path.parent / target if target else path
        assert linked.exists(), target
        if heading:
            assert heading in anchors(linked), f"{target}#{heading}"


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub generates for a document's headings."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


MAX_WORDS = 545  # not counting tables, so that a new option does not have to displace anything else


def test_the_readme_is_short() -> None:
    words = len(re.sub(r"^\|.*$", "", document("README.md"), flags=re.M).split())
    assert words <= MAX_WORDS, f"README.md has {words} words without tables, limit {MAX_WORDS}: shorten it"


def test_the_readme_links_to_every_document() -> None:
    linked = {target.partition("#")[0] for target in re.findall(r"\]\((docs/[^)]+)\)", document("README.md"))}
    assert {str(path.relative_to(REPO)) for path in DOCUMENTS} - linked <= {
        "README.md",
        "CONTRIBUTING.md",
    }


def test_the_quick_start_installs_as_the_guide_does() -> None:
    guide = block("docs/installation.md", "Ways to install", paragraph="Plain Airflow")
    assert block("README.md", "Quick start", paragraph="1. Install") == guide


def test_the_quick_start_works_without_a_dags_folder_and_without_the_variable_airflow_home(tmp_path: Path) -> None:
    script = block("README.md", "Quick start", paragraph="1. Install")
    subprocess.run(["sh", "-euc", script], cwd=REPO, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}, check=True)
    dags = tmp_path / "airflow" / "dags"
    assert (dags / "kpo_cleanup.py").exists()
    assert (dags / "include" / "kpo_cleanup" / "dag.py").exists()


@pytest.mark.parametrize(
    ("task_id", "keys"),
    [
        ("classify", {"summary", "dry_run", *dump_classification([], {})}),
        ("reap", {*reap_report([], "", [KpoCleanupError("it failed")])}),
    ],
)
def test_the_keys_of_the_return_values_are_explained(task_id: str, keys: set[str]) -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \|", section("docs/operating.md", "XComs"), re.M)
    listed = [key for names, tasks in rows if f"`{task_id}`" in tasks for key in re.findall(r"`(\w+)`", names)]
    assert sorted(listed) == sorted(keys)
