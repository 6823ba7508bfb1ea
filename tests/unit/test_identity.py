"""Label values of ids, and the raw ids behind label values."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from include.kpo_cleanup.identity import to_label_value
from include.kpo_cleanup.task_instances.label_decoding import may_be_hashed, rebuild_run_id

LABEL_CHARACTERS = "abcxyzABCXYZ0123456789_-."
LONGEST_ID = 250
MAX_PREFIX = 53  # characters of an id in a label value with a hash

any_id = st.one_of(
    st.text(min_size=1, max_size=LONGEST_ID),
    st.text(LABEL_CHARACTERS, min_size=1, max_size=LONGEST_ID),
    st.text(LABEL_CHARACTERS + " :+/é日", min_size=1, max_size=80),
)

DEFAULT_RUN_IDS = [
    "scheduled__2024-01-01T00:00:00+00:00",
    "scheduled__2026-11-24T02:13:14.000001+00:00",
    "manual__2026-11-24T02:13:14.123456+00:00",
    "manual__2026-11-24T02:13:14.123456-05:00",
    "manual__2026-11-24T02:13:14+05:45",
    "backfill__2026-11-24T02:13:14-03:30",
    "dataset_triggered__2026-11-24T02:13:14.123456+00:00",
    "asset_triggered__2026-11-24T02:13:14.123456+00:00",
    "asset_triggered__2026-11-24T02:13:14+00:00_AbCdEfGh",
    "operator_triggered__2026-11-24T02:13:14.123456+00:00",
    "asset_materialization__2026-11-24T02:13:14.123456+00:00",
    "manual__2026-11-24T02:13:14.123456+00:00_a1B2c3D4",
    *(f"asset_triggered__2026-11-24T02:13:14.123456+00:00_AbCdEfG{end}" for end in "azAZ09"),  # one character too long
    "scheduled__2026-11-24T02:13:14.123456-11:00_a1B2c3D4",
]

LABELS_OF_OTHER_IDS = [
    pytest.param("run_1", id="the label is the raw id"),
    pytest.param("run-0123456ab", id="the raw id ends with what looks like a hash"),
    pytest.param(to_label_value("my run"), id="a custom id was hashed"),
    pytest.param(to_label_value("r" * 250), id="a custom id was truncated"),
    pytest.param(to_label_value("manual__2026-11-24"), id="there is a date without a time"),
    pytest.param(to_label_value("manual__2026-11-24T02:13:14Z"), id="the offset of the time is Z"),
    pytest.param(to_label_value("manual__2026-11-24 02:13:14+00:00"), id="there is a space before the time"),
    pytest.param("manual__2026-11-24T0213140000", id="there is a flattened time without a hash"),
    pytest.param("", id="the label is empty"),
    pytest.param("-012345678", id="the label is only a hash"),
]

TRUNCATED_RUN_IDS = [
    "operator_triggered__2026-11-24T02:13:14.123456+00:00_AbCdEfGh",
    "asset_materialization__2026-11-24T02:13:14.123456+00:00_AbCdEfGh",
    "my_timetable_with_a_long_name__2026-11-24T02:13:14.123456+00:00",
    "manual__2026-11-24T02:13:14.123456+00:00" + "_again" * 10,
]


@st.composite
def default_run_ids(draw: st.DrawFn) -> str:
    """Draw a run_id in one of the formats that Airflow 2 and 3 generate."""
    prefix = draw(st.sampled_from(["scheduled", "manual", "backfill", "dataset_triggered", "asset_triggered"]))
    minutes = draw(st.integers(-14 * 4, 14 * 4)) * 15
    time = draw(st.datetimes(timezones=st.just(timezone(timedelta(minutes=minutes)))))
    if draw(st.booleans()):
        time = time.replace(microsecond=0)
    random_suffix = draw(st.one_of(st.just(""), st.from_regex(r"\A_[a-zA-Z0-9]{8}\Z")))
    return f"{prefix}__{time.isoformat()}{random_suffix}"


class TestLabelValue:
    @given(any_id)
    def test_a_label_value_fits_into_a_label(self, value: str) -> None:
        assert len(to_label_value(value)) <= 63

    @given(any_id)
    def test_a_label_value_that_differs_from_its_id_may_be_hashed(self, value: str) -> None:
        assert to_label_value(value) == value or may_be_hashed(to_label_value(value))

    @given(any_id, any_id)
    def test_two_ids_have_the_same_label_value_only_if_they_are_equal(self, one: str, other: str) -> None:
        assert (to_label_value(one) == to_label_value(other)) == (one == other)


class TestRebuildRunId:
    @pytest.mark.parametrize("run_id", DEFAULT_RUN_IDS)
    def test_a_default_run_id_is_rebuilt_from_its_label(self, run_id: str) -> None:
        label = to_label_value(run_id)
        assert label != run_id
        assert rebuild_run_id(label) == run_id

    @given(default_run_ids())
    def test_a_default_run_id_is_rebuilt_unless_more_than_one_character_was_truncated(self, run_id: str) -> None:
        was_truncated = len(run_id.replace(":", "").replace("+", "")) > MAX_PREFIX + 1
        assert rebuild_run_id(to_label_value(run_id)) == (None if was_truncated else run_id)

    @pytest.mark.parametrize("label", LABELS_OF_OTHER_IDS)
    def test_no_run_id_is_rebuilt_if(self, label: str) -> None:
        assert rebuild_run_id(label) is None

    @pytest.mark.parametrize("run_id", TRUNCATED_RUN_IDS)
    def test_a_truncated_run_id_is_not_rebuilt(self, run_id: str) -> None:
        assert rebuild_run_id(to_label_value(run_id)) is None

    @pytest.mark.parametrize("position", range(-9, 0))
    def test_no_run_id_is_rebuilt_if_one_digit_of_the_hash_is_wrong(self, position: int) -> None:
        label = list(to_label_value("scheduled__2024-01-01T00:00:00+00:00"))
        label[position] = "0" if label[position] != "0" else "1"
        assert rebuild_run_id("".join(label)) is None

    def test_no_run_id_is_rebuilt_if_the_text_is_that_of_another_time(self) -> None:
        label = to_label_value("scheduled__2024-01-01T00:00:00+00:00")
        assert rebuild_run_id(label.replace("T00", "T01")) is None

    @given(
        st.one_of(
            st.from_regex(r"\A[a-z_]{0,20}\d{4}-\d\d-\d\dT\d{6}(\.\d{1,6})?-?\d{4}(_[a-zA-Z0-9]{1,8})?-[0-9a-f]{9}\Z"),
            st.text(LABEL_CHARACTERS + "T:+", max_size=63),
            st.text(max_size=63),
            any_id.map(to_label_value),
            default_run_ids().map(to_label_value),
            st.datetimes().map(lambda time: to_label_value(f"{datetime.isoformat(time)}+00:00")),
        )
    )
    def test_a_rebuilt_run_id_always_has_the_label_value_it_was_rebuilt_from(self, label: str) -> None:
        rebuilt = rebuild_run_id(label)
        assert rebuilt is None or to_label_value(rebuilt) == label
