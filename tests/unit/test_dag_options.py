"""The settings as the DAG shows them, and the Airflow config that they come from."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from airflow.configuration import conf

from include.kpo_cleanup.airflow_compat import read_config
from include.kpo_cleanup.dag_options import params, schedule
from include.kpo_cleanup.errors import SettingsError
from include.kpo_cleanup.settings import OPTIONS, Settings

PREFIX = "AIRFLOW__KPO_CLEANUP__"


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def config_file() -> Iterator[None]:
    """A section as airflow.cfg would have it."""
    conf.read_dict({"kpo_cleanup": {"settle_seconds": "60", "namespaces": "a,b"}})
    yield
    conf.remove_section("kpo_cleanup")


def values_of_params() -> dict[str, object]:
    return {name: param.resolve() for name, param in params().items()}


class TestReadConfig:
    def test_is_empty_where_nothing_is_set(self) -> None:
        assert read_config() == {}

    def test_reads_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        monkeypatch.setenv(PREFIX + "SCHEDULE", "@hourly")
        assert read_config() == {"dry_run": "True", "schedule": "@hourly"}

    @pytest.mark.usefixtures("config_file")
    def test_reads_the_config_file(self) -> None:
        assert read_config() == {"settle_seconds": "60", "namespaces": "a,b"}

    @pytest.mark.usefixtures("config_file")
    def test_prefers_the_environment_and_reads_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "90")
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        assert read_config() == {"settle_seconds": "90", "namespaces": "a,b", "dry_run": "True"}

    def test_keeps_an_empty_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SCHEDULE", "")
        assert read_config() == {"schedule": ""}

    @pytest.mark.parametrize("name", ["DRYRUN", "DRY_RUNS", "dry-run"])
    def test_refuses_an_option_that_does_not_exist(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + name, "True")
        with pytest.raises(SettingsError) as caught:
            read_config()
        assert str(caught.value).startswith(
            f"config section [kpo_cleanup]: there is no option {name.lower()!r}; did you mean 'dry_run'?"
        )

    @pytest.mark.usefixtures("config_file")
    def test_refuses_an_option_of_the_config_file_that_does_not_exist(self) -> None:
        conf.read_dict({"kpo_cleanup": {"dryrun": "True"}})
        with pytest.raises(SettingsError, match="no option 'dryrun'"):
            read_config()

    @pytest.mark.parametrize("suffix", ["_CMD", "_SECRET"])
    def test_never_ignores_an_option_that_is_given_indirectly(
        self, suffix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Airflow itself follows these only for options that a provider declared as sensitive. An operator who
        # set DRY_RUN_CMD must get a dry run or an error, and not a run that deletes.
        monkeypatch.setenv(PREFIX + "DRY_RUN" + suffix, "echo True")
        try:
            config = read_config()
        except SettingsError:
            return
        assert "dry_run" in config


class TestSchedule:
    def test_is_every_quarter_of_an_hour_by_default(self) -> None:
        assert schedule() == "*/15 * * * *"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("None", None),
            ("none", None),
            (" NONE ", None),
            ("", None),
            ("@daily", "@daily"),
            (" 0 * * * * ", "0 * * * *"),
        ],
    )
    def test_is_read_from_the_config(self, text: str, expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SCHEDULE", text)
        assert schedule() == expected


class TestParams:
    def test_are_all_options_with_their_defaults(self) -> None:
        assert values_of_params() == {name: getattr(Settings(), name) for name in OPTIONS}

    def test_have_the_configured_values_as_defaults(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "60")
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        monkeypatch.setenv(PREFIX + "TTL_SECONDS_AFTER_FINISHED", "3600")
        monkeypatch.setenv(PREFIX + "SCHEDULE", "@daily")
        changed = {"settle_seconds": 60, "dry_run": True, "ttl_seconds_after_finished": 3600}
        assert values_of_params() == {**{name: getattr(Settings(), name) for name in OPTIONS}, **changed}

    def test_have_the_built_in_defaults_where_a_configured_value_is_bad(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "SETTLE_SECONDS", "soon")
        monkeypatch.setenv(PREFIX + "DRY_RUN", "True")
        assert values_of_params() == {name: getattr(Settings(), name) for name in OPTIONS}

    def test_do_not_hide_an_option_that_does_not_exist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(PREFIX + "DRYRUN", "True")
        with pytest.raises(SettingsError, match="did you mean 'dry_run'"):
            params()

    def test_give_settings_when_a_run_is_not_changed(self) -> None:
        assert Settings.from_options(values_of_params(), "params of this run") == Settings()

    @pytest.mark.parametrize("name", OPTIONS)
    def test_carry_their_description_for_the_trigger_form(self, name: str) -> None:
        param = params()[name]
        assert param.description == OPTIONS[name].metadata["meaning"].replace("`", "")
