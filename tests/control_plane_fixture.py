"""A pytest plugin with the fixture `control_plane`; it marks each test that uses the fixture with `cluster`.

Load it with `pytest_plugins = ["tests.control_plane_fixture"]`. Do not import the fixture: each importing module would
start its own control plane.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, TypeVar

import pytest

if TYPE_CHECKING:  # every test process loads this plugin, but few start a control plane
    from tests.control_plane import ControlPlane

T = TypeVar("T")
ControllerManager = Callable[[], AbstractContextManager[None]]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cluster: needs a real etcd and kube-apiserver")


@pytest.hookimpl(tryfirst=True)  # before pytest itself applies -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "control_plane" in getattr(item, "fixturenames", ()):
            item.add_marker("cluster")


@pytest.fixture(scope="session")
def control_plane(pytestconfig: pytest.Config) -> Iterator[ControlPlane]:
    """Start one etcd and kube-apiserver for the whole session; each test creates its own namespaces.

    Skip the test if there are no binaries and they cannot be built, or fail it with REQUIRE_CLUSTER=1.
    """
    from tests.control_plane import ControlPlane, find_or_build

    with ControlPlane(_found(pytestconfig, find_or_build)) as running:
        yield running


@pytest.fixture(scope="session")
def controller_manager(control_plane: ControlPlane, pytestconfig: pytest.Config) -> ControllerManager:
    """Return a context manager for kube-controller-manager, which also acts on the objects of other tests."""
    from tests.control_plane import find_or_build_controller_manager

    binary = _found(pytestconfig, find_or_build_controller_manager)
    return lambda: control_plane.controller_manager(binary)


def _found(pytestconfig: pytest.Config, find: Callable[[], T]) -> T:
    from tests.control_plane import ControlPlaneUnavailable

    try:
        # Building takes minutes, so show its progress instead of capturing it.
        with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            return find()
    except ControlPlaneUnavailable as error:
        if os.environ.get("REQUIRE_CLUSTER") == "1":
            pytest.fail(f"REQUIRE_CLUSTER=1, but: {error}", pytrace=False)
        pytest.skip(str(error))
