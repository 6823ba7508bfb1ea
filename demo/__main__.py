"""`python -m demo`: show that kpo_cleanup deletes what real operators left behind, and keeps what is alive."""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from types import FrameType

from demo.airflow import REPO, Airflow
from demo.cluster import EmbeddedCluster
from demo.pods import Namespace, dag_selector, run_selector
from demo.processes import end_processes_of
from demo.scenario import DAG_ID, TASKS
from demo.scratch import scratch_folder
from demo.story import STEPS, Story
from demo.terminal import DemoError, Terminal

NAMESPACE = "airflow"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised when a signal asks the demo to stop, which is not an error."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep Airflow and the pods running until Ctrl-C")
    parser.add_argument("--kubeconfig", type=Path, help="use your own cluster instead of the embedded one")
    parser.add_argument("--namespace", help="the only namespace of your own cluster that the demo uses")
    options = parser.parse_args()
    if bool(options.kubeconfig) != bool(options.namespace):
        parser.error("--kubeconfig and --namespace (KUBECONFIG=… NAMESPACE=…) must be given together")
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)

    terminal = Terminal(STEPS)
    stack = ExitStack()
    try:
        airflow, story = _start(terminal, stack, options)
        passed = story.run()
        print(f"\n{'PASSED' if passed else 'FAILED'} after {terminal.elapsed:.0f} s: ", end="")
        print("all zombies were deleted, and nothing else." if passed else "see the table above.", flush=True)
        if options.keep:
            print(f"\nAirflow is running at {airflow.url} (user {airflow.user}, password {airflow.password}):")
            for text, path in story.links():
                print(f"  {text}:\n    {airflow.url}{path}")
            print("\nPress Ctrl-C to stop and remove everything.", flush=True)
            with suppress(Interrupted):
                signal.pause()
        return 0 if passed else 1
    except DemoError as error:
        print(f"\nFAILED after {terminal.elapsed:.0f} s: {error}", file=sys.stderr, flush=True)
        return 1
    except Interrupted:
        print("\nInterrupted.", file=sys.stderr, flush=True)
        return 130
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        print("Stopping Airflow and removing everything that the demo created.", flush=True)
        stack.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _start(terminal: Terminal, stack: ExitStack, options: argparse.Namespace) -> tuple[Airflow, Story]:
    """Start the cluster and Airflow; closing the stack stops them and removes what they leave behind."""
    terminal.step("start a cluster and Airflow")
    folder = stack.enter_context(scratch_folder())
    if options.kubeconfig:
        kubeconfig, name = options.kubeconfig.resolve(), options.namespace
        terminal.info(f"using your own cluster ({kubeconfig}), only namespace {name}")
        # The namespace may contain other KPO pods, which the cleanup must not select.
        cleanup_options = {"label_selector": dag_selector(DAG_ID)}
        # Not every cluster has a Spark operator.
        tasks, variables = [task for task in TASKS if not task.needs_spark_operator], {}
    else:
        cluster = stack.enter_context(EmbeddedCluster([NAMESPACE], speed=1, controllers=True, spark_operator=True))
        kubeconfig, name = cluster.write_kubeconfig(folder / "kubeconfig"), NAMESPACE
        terminal.info(f"embedded Kubernetes cluster: {cluster.url}")
        cleanup_options = {}
        tasks, variables = list(TASKS), {"DEMO_SPARK_NAMESPACE": NAMESPACE}
    namespace = Namespace(kubeconfig, name)
    namespace.check_access()
    # A scheduled run would interfere with the runs that the demo triggers.
    config = {"kpo_cleanup": {"schedule": "None", **cleanup_options}}
    airflow = Airflow(folder, kubeconfig, name, config=config, variables=variables)
    story = Story(airflow, namespace, terminal, tasks)
    stack.callback(_remove_pods, namespace, story)
    stack.callback(end_processes_of, folder)  # before the pods are removed, because retries would create new ones
    airflow.install_dags(REPO / "demo" / "dags" / "kpo_zombies.py")
    airflow.start(terminal, ("kpo_cleanup", "kpo_cleanup_dry_run", DAG_ID))
    terminal.info(f"Airflow is up: {airflow.url} (user {airflow.user}, password {airflow.password})")
    return airflow, story


def _remove_pods(namespace: Namespace, story: Story) -> None:
    if story.run_id:
        try:
            namespace.remove_pods(DAG_ID, story.run_id)
        except Exception as error:  # the remaining callbacks must still run
            selector = run_selector(DAG_ID, story.run_id)
            print(f"Could not remove the pods in namespace {namespace.name} (-l {selector}): {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
