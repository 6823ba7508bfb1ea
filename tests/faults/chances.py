"""What may happen in a random history: to task instances, workloads, requests and the source."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from include.kpo_cleanup.identity import UNMAPPED, to_label_value
from include.kpo_cleanup.reap.snapshot import MAX_SNAPSHOT_AGE
from tests.faults.cases import DELETE_CASES, LIST_CASES, Case, Does
from tests.faults.objects import APPLICATION, JOB, POD, Json

RUN_IDS = ("run_1", to_label_value("scheduled__2026-11-24T00:00:00+00:00"))
# What keeps zombies from being deleted, run after run; there are many of them, and they are older than all others.
TROUBLES = (
    *("a policy denies their deletion", "a webhook fails in their namespace", "a webhook hangs in their namespace"),
    *("their DAG is unresolved", "their DAG fails from reap on", "their DAG is slow"),
)
DELETE_FAULTS = [case for case in DELETE_CASES if case.does in (Does.DELETE_RETRIES, Does.DELETE_FAILS)]
OWNER_FAULTS = [case for case in LIST_CASES if case.does is Does.LIST_RETRIES]  # of reading a Job or an application
# Faults by which the API server itself refuses a deletion, before it carries it out.
REFUSALS = ("400", "401", "403", "409", "429", "403-admission", "404-admission", "409-admission")

FINISH_ACTIONS = ("delete_pod", "delete_pod", "keep_pod", "delete_succeeded_pod", "delete_active_pod")
KILL_ACTIONS = ("delete_pod", "delete_pod", "keep_pod")

troubles = st.sampled_from([*itertools.combinations(TROUBLES, 1), *itertools.product(TROUBLES[:3], TROUBLES[4:])])
ANY_NUMBER = st.integers(0, 1_000)
durations = st.sampled_from([1, 59, 61, 299, 301, 4_000, 90_000])
fault_times = st.sampled_from([None, 1, 2, 3, 7])
task_shapes = st.fixed_dictionaries(
    {
        "namespace": st.integers(0, 1),
        "dag_id": st.sampled_from(["orders", "orders", "billing"]),
        "map_index": st.sampled_from([UNMAPPED, UNMAPPED, 0, 1]),
        "run_id": st.sampled_from(RUN_IDS),
        "reattaches": st.booleans(),
        "on_finish_action": st.sampled_from(FINISH_ACTIONS),
        "on_kill_action": st.sampled_from(KILL_ACTIONS),
        "is_deferrable": st.booleans(),
        "steps": st.sampled_from([(), (), ({},), ({"step": "train"},), ({}, {"step": "load"})]),
        "finalizers": st.sampled_from([[], [], [], ["example.org/backup"]]),
        "is_shared": st.sampled_from([False, False, True]),
        "kind": st.sampled_from([POD, POD, POD, JOB, JOB, APPLICATION]),
        "waits": st.booleans(),
        "parallelism": st.sampled_from([1, 1, 2]),
    }
)
# The moves of a task instance. At its end, its operator deletes the pod (tidy), marks it checked (keep), or is dead.
ENDS = ("failed", "success", "skipped", "upstream_failed", "removed", "failed, end unknown")
WAITS = ("up_for_retry", "cleared", "queued", "restarting", "deferred", "a_state_of_a_later_airflow")
RUN_ENDS = ("its run is deleted", "its run is recreated", "its run is recreated and dies early")
RECORDS = ("its record is lost", "its record names another", "its record is unreadable")
SECOND = ("its second operator starts", "its second operator starts, tidy")
TRIES = ("tries again", "tries again and dies early", "tries again and dies unrecorded", "tries again and dies late")
PLAIN = ("becomes plain", "becomes plain and tries again", "becomes plain with an unreadable record")
TIDY = ("success, tidy", "success, keep", "failed, keep", "failed, killed", "success, killed")
MARKED = "is marked as failed"  # by a person, whatever its state is
moves = st.sampled_from([*ENDS, *TIDY, *WAITS, *TRIES, *RUN_ENDS, *RECORDS, *SECOND, *PLAIN, MARKED])
stories = st.one_of(
    st.lists(moves, max_size=3),
    st.tuples(st.sampled_from(ENDS)),
    st.tuples(st.sampled_from(WAITS), st.sampled_from(TRIES)),
    st.tuples(st.sampled_from(ENDS), st.just("cleared"), st.just("tries again")),
    st.tuples(st.sampled_from(ENDS), st.sampled_from(RUN_ENDS)),
    # Two pods, the later of which can no longer be adopted.
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies unrecorded"), st.just("its pod is being deleted")),
    st.tuples(*map(st.just, ("up_for_retry", "tries again and dies unrecorded", "failed, keep", "cleared"))),
    st.tuples(st.sampled_from(SECOND), st.sampled_from(["up_for_retry", *ENDS]), st.just("tries again")),
    st.tuples(st.just("its second operator starts"), st.sampled_from(RECORDS), st.sampled_from(ENDS)),
    st.tuples(st.just("up_for_retry"), st.just("tries again and dies unrecorded"), st.sampled_from(RECORDS)),
    st.tuples(st.sampled_from(["cleared", "up_for_retry", "failed"]), st.sampled_from(PLAIN)),
    # A pod of a run that was created anew, whose first try is younger or older than the second one of the earlier run.
    st.tuples(*map(st.just, ("up_for_retry", "tries again", "failed", "its run is recreated", "its record is lost"))),
    # A Job that its operator may have left running, of a task instance whose record is gone.
    st.tuples(st.just("cleared"), st.sampled_from(TRIES), st.sampled_from(["failed", MARKED])),
    st.tuples(st.just(MARKED), st.sampled_from(RUN_ENDS[1:]), st.just("failed")),
)
OBJECT_MOVES = (
    *("running", "sidecar", "Succeeded", "Failed", "Unknown", "vanishes", "is replaced", "is being deleted"),
    *("is protected", "gets a controller", "gets a label", "is deleted without its pods"),
)

Biography = tuple[Json, list[Sequence[str]]]
lives = st.lists(st.tuples(task_shapes, st.lists(stories, max_size=3)), min_size=2, max_size=8)
Event = tuple[str, int, Any]  # the kind of object, which of them, and what happens to it
events = st.one_of(
    st.tuples(st.just("task"), ANY_NUMBER, moves),
    st.tuples(st.just("object"), ANY_NUMBER, st.sampled_from(OBJECT_MOVES)),
    st.tuples(st.just("time"), st.just(0), durations),
)
# What happens to pods that are about to be deleted, and to their task instances.
REVIVALS = ("cleared", "tries again")
ESCAPES = (*OBJECT_MOVES, "leaves the selection", "loses the operator's label")
escapes = st.tuples(st.just("zombie"), ANY_NUMBER, st.sampled_from([*REVIVALS, *REVIVALS, *ESCAPES]))
# What happens to the workload that is being deleted.
revivals = st.tuples(st.just("zombie"), st.just(1), st.sampled_from([*REVIVALS, "is protected"]))
# Interruptions of reap: the request or deletion that they precede, what happens, and how many seconds reap then waits.
Interruption = tuple[tuple[str, int], Event, float]
waits = st.sampled_from([0, 1, 4, MAX_SNAPSHOT_AGE + 1, 40])
interruptions = st.one_of(
    st.tuples(st.tuples(st.just("request"), st.integers(0, 8)), st.one_of(escapes, escapes, events), waits),
    st.tuples(st.tuples(st.just("deletion"), st.integers(0, 3)), st.one_of(escapes, revivals), waits),
)
# Which requests, the fault, whether the request is carried out nevertheless, and how often.
Fault = tuple[str, Case | None, bool, int | None]
faults = st.one_of(
    st.tuples(
        st.sampled_from(["GET .*/pods", "GET .*continue=", "GET .*fieldSelector="]),
        st.sampled_from(LIST_CASES),
        st.just(False),
        fault_times,
    ),
    st.tuples(st.just("GET /apis/"), st.sampled_from(OWNER_FAULTS), st.just(False), fault_times),
    # None is not a fault of the API server: the pod is replaced right before its deletion.
    st.tuples(st.just("DELETE "), st.sampled_from([None, None, *DELETE_FAULTS]), st.booleans(), fault_times).map(
        lambda fault: (*fault[:2], False, fault[3]) if fault[1] and fault[1].id in REFUSALS else fault
    ),
    st.tuples(
        st.sampled_from(["source is down", "source is slow", "source lags"]), st.none(), st.just(False), fault_times
    ),
)
options = st.fixed_dictionaries(
    {
        "settle_seconds": st.sampled_from([0, 60, 300]),
        "delete_completed_pods": st.booleans(),
        "delete_pods_on_failure": st.booleans(),
        "ttl_seconds_after_finished": st.sampled_from([None, None, 0, 3_600]),
        "delete_unmatched_pods": st.booleans(),
        "grace_period_seconds": st.sampled_from([0, 0, -1, 30]),
        "max_deletes": st.sampled_from([500, 500, 1, 3]),
        "dry_run": st.sampled_from([False, False, False, True]),
    }
)
