"""The hooks of pre-commit use the versions that `make` has installed for the same checks."""

from __future__ import annotations

from importlib.metadata import version

import yaml

from tests.conftest import REPO


def test_the_hooks_pin_what_make_installs() -> None:
    (local,) = yaml.safe_load((REPO / ".pre-commit-config.yaml").read_text())["repos"]
    pins = {pin for hook in local["hooks"] for pin in hook["additional_dependencies"]}
    names = {pin.partition("==")[0] for pin in pins}
    assert {"ruff", "mypy"} <= names
    assert pins == {f"{name}=={version(name)}" for name in names}
