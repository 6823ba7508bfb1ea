"""LIST: pages, continue tokens and resource versions."""

from __future__ import annotations

import base64

import pytest

from tests.contract.namespace import Json, Namespace

EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)


def test_a_list_without_pods_is_empty_and_has_a_version(namespace: Namespace) -> None:
    response = namespace.call("GET", namespace.pods)
    assert response["metadata"].pop("resourceVersion").isdecimal()
    assert response == {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}


def test_a_missing_namespace_lists_as_empty(namespace: Namespace) -> None:
    assert namespace.call("GET", "/api/v1/namespaces/nope/pods")["items"] == []


def test_pods_of_all_namespaces_are_listed_by_namespace_and_name(namespace: Namespace) -> None:
    other = Namespace(namespace.server)
    namespace.create_pod("a")
    other.create_pod("b")
    items = namespace.call("GET", "/api/v1/pods", labelSelector="")["items"]
    keys = [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items]
    assert keys == sorted(keys)
    assert {f"{namespace.name}/a", f"{other.name}/b"} <= set(keys)


def test_all_pages_show_the_state_at_the_first_page(namespace: Namespace) -> None:
    for name in "abcde":
        namespace.create_pod(name)
    first = namespace.call("GET", namespace.pods, limit=2)
    assert first["metadata"]["remainingItemCount"] == 3
    namespace.delete_pod("c")
    namespace.create_pod("cc")
    second = namespace.call("GET", namespace.pods, limit=2, continue_=first["metadata"]["continue"])
    third = namespace.call("GET", namespace.pods, limit=2, continue_=second["metadata"]["continue"])
    names = [item["metadata"]["name"] for page in (first, second, third) for item in page["items"]]
    assert names == list("abcde")
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert third["metadata"].keys() == {"resourceVersion"}


def test_pages_of_all_namespaces_continue_where_the_previous_one_ended(namespace: Namespace) -> None:
    for name in "abc":
        namespace.create_pod(name, labels={"only": namespace.name})
    found, token = [], ""
    while token is not None:
        page = namespace.call("GET", "/api/v1/pods", limit=2, labelSelector=f"only={namespace.name}", continue_=token)
        found += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert found == list("abc")


def test_pages_with_a_selector_have_no_remaining_count_and_may_end_empty(namespace: Namespace) -> None:
    for name in "abc":
        namespace.create_pod(name, labels={"even": "yes" if name == "b" else "no"})
    first = namespace.call("GET", namespace.pods, limit=1, labelSelector="even=yes")
    assert "remainingItemCount" not in first["metadata"]
    last = namespace.call(
        "GET", namespace.pods, limit=1, labelSelector="even=yes", continue_=first["metadata"]["continue"]
    )
    assert last["items"] == []
    assert "continue" not in last["metadata"]


def test_an_expired_token_is_refused_with_a_new_one_for_an_inconsistent_rest_of_the_list(namespace: Namespace) -> None:
    for name in "abc":
        namespace.create_pod(name)
    token = namespace.call("GET", namespace.pods, limit=1)["metadata"]["continue"]
    namespace.server.expire_continue_tokens()
    namespace.call("GET", namespace.pods, limit=1)  # a new list does not make the old token valid again
    status = namespace.request_error("GET", namespace.pods, limit=1, continue_=token)
    resumed = status["metadata"].pop("continue")
    assert status == {"metadata": {}, "message": EXPIRED, "reason": "Expired", "code": 410}
    namespace.create_pod("bb")
    assert namespace.pod_names(continue_=resumed) == ["b", "bb", "c"]


@pytest.mark.parametrize("token", ["?", "bm8", base64.urlsafe_b64encode(b'{"v":"v9","rv":1,"start":"a"}').decode()])
def test_a_malformed_token_is_refused(namespace: Namespace, token: str) -> None:
    status = namespace.request_error("GET", namespace.pods, limit=1, continue_=token)
    message = status.pop("message")
    assert status == {"metadata": {}, "reason": "BadRequest", "code": 400}
    assert message.startswith("invalid continue token: continue key is not valid: ")


@pytest.mark.parametrize("query", [{"limit": "many"}, {"resourceVersion": "abc"}])
def test_a_malformed_number_is_refused(namespace: Namespace, query: Json) -> None:
    status = namespace.request_error("GET", namespace.pods, **query)
    assert (status["code"], status["reason"]) == (400, "BadRequest")


def test_a_list_of_any_version_ignores_the_limit(namespace: Namespace) -> None:
    for name in "abc":
        namespace.create_pod(name)
    assert namespace.pod_names(resourceVersion="0", limit="1") == ["a", "b", "c"]


def test_a_list_not_older_than_a_version_returns_the_newest(namespace: Namespace) -> None:
    version = namespace.create_pod("a")["metadata"]["resourceVersion"]
    namespace.create_pod("b")
    assert namespace.pod_names(resourceVersion=version, resourceVersionMatch="NotOlderThan") == ["a", "b"]
