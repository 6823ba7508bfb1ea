"""Pages, the tokens between them, and versions."""

from __future__ import annotations

import base64

import pytest

from tests.contract.space import Json, Space

EXPIRED = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list "
    "without the continue parameter, or use the continue token in this response to retrieve the remainder of the "
    "results. Continuing with the provided token results in an inconsistent list - objects that were created, "
    "modified, or deleted between the time the first chunk was returned and now may show up in the list."
)


def test_an_empty_list_is_a_list(space: Space) -> None:
    answer = space.call("GET", space.pods)
    assert answer["metadata"].pop("resourceVersion").isdecimal()
    assert answer == {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}


def test_a_namespace_that_does_not_exist_lists_like_an_empty_one(space: Space) -> None:
    assert space.call("GET", "/api/v1/namespaces/nope/pods")["items"] == []


def test_all_namespaces_are_listed_in_the_order_of_their_keys(space: Space) -> None:
    other = Space(space.server)
    space.create("a")
    other.create("b")
    items = space.call("GET", "/api/v1/pods", labelSelector="")["items"]
    keys = [f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items]
    assert keys == sorted(keys)
    assert {f"{space.name}/a", f"{other.name}/b"} <= set(keys)


def test_pages_show_the_moment_of_the_first_one(space: Space) -> None:
    for name in "abcde":
        space.create(name)
    first = space.call("GET", space.pods, limit=2)
    assert first["metadata"]["remainingItemCount"] == 3
    space.delete("c")
    space.create("cc")
    second = space.call("GET", space.pods, limit=2, continue_=first["metadata"]["continue"])
    third = space.call("GET", space.pods, limit=2, continue_=second["metadata"]["continue"])
    names = [item["metadata"]["name"] for page in (first, second, third) for item in page["items"]]
    assert names == list("abcde")
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert third["metadata"].keys() == {"resourceVersion"}


def test_pages_of_all_namespaces_go_on_where_the_last_one_ended(space: Space) -> None:
    for name in "abc":
        space.create(name, labels={"only": space.name})
    found, token = [], ""
    while token is not None:
        page = space.call("GET", "/api/v1/pods", limit=2, labelSelector=f"only={space.name}", continue_=token)
        found += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue")
    assert found == list("abc")


def test_pages_with_a_selector_count_nothing_and_may_end_empty(space: Space) -> None:
    for name in "abc":
        space.create(name, labels={"even": "yes" if name == "b" else "no"})
    first = space.call("GET", space.pods, limit=1, labelSelector="even=yes")
    assert "remainingItemCount" not in first["metadata"]
    last = space.call("GET", space.pods, limit=1, labelSelector="even=yes", continue_=first["metadata"]["continue"])
    assert last["items"] == []
    assert "continue" not in last["metadata"]


def test_an_expired_token_offers_one_that_goes_on_inconsistently(space: Space) -> None:
    for name in "abc":
        space.create(name)
    token = space.call("GET", space.pods, limit=1)["metadata"]["continue"]
    space.server.expire_continue_tokens()
    space.call("GET", space.pods, limit=1)  # a new list does not make the old token good again
    status = space.fails("GET", space.pods, limit=1, continue_=token)
    resumed = status["metadata"].pop("continue")
    assert status == {"metadata": {}, "message": EXPIRED, "reason": "Expired", "code": 410}
    space.create("bb")
    assert space.listed(continue_=resumed) == ["b", "bb", "c"]


@pytest.mark.parametrize("token", ["?", "bm8", base64.urlsafe_b64encode(b'{"v":"v9","rv":1,"start":"a"}').decode()])
def test_a_malformed_token_is_refused(space: Space, token: str) -> None:
    status = space.fails("GET", space.pods, limit=1, continue_=token)
    message = status.pop("message")
    assert status == {"metadata": {}, "reason": "BadRequest", "code": 400}
    assert message.startswith("invalid continue token: continue key is not valid: ")


@pytest.mark.parametrize("query", [{"limit": "many"}, {"resourceVersion": "abc"}])
def test_a_number_that_is_none_is_refused(space: Space, query: Json) -> None:
    status = space.fails("GET", space.pods, **query)
    assert (status["code"], status["reason"]) == (400, "BadRequest")


def test_any_version_will_do_is_answered_whole(space: Space) -> None:
    for name in "abc":
        space.create(name)
    assert space.listed(resourceVersion="0", limit="1") == ["a", "b", "c"]


def test_not_older_than_is_answered_with_the_newest(space: Space) -> None:
    version = space.create("a")["metadata"]["resourceVersion"]
    space.create("b")
    assert space.listed(resourceVersion=version, resourceVersionMatch="NotOlderThan") == ["a", "b"]
