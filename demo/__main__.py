"""`python -m demo`: zombie pods of a real KubernetesPodOperator go, and live ones stay."""

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
from demo.scenario import DAG_ID
from demo.scratch import scratch_folder
from demo.story import STEPS, Story
from demo.terminal import DemoError, Terminal

NAMESPACE = "airflow"
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Somebody wants the demo to stop, which is no error."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave Airflow and the pods up until Ctrl-C")
    parser.add_argument("--kubeconfig", type=Path, help="your own cluster in place of the embedded one")
    parser.add_argument("--namespace", help="in your own cluster: the only namespace that is touched")
    options = parser.parse_args()
    if bool(options.kubeconfig) != bool(options.namespace):
        parser.error("--kubeconfig and --namespace (KUBECONFIG=… NAMESPACE=…) go together")
    for number in STOP_SIGNALS:
        signal.signal(number, _interrupt)

    terminal = Terminal(STEPS)
    stack = ExitStack()
    try:
        airflow, story = _start(terminal, stack, options)
        right = story.tell()
        print(f"\n{'PASSED' if right else 'FAILED'} after {terminal.elapsed:.0f} s: ", end="")
        print("exactly the zombies were deleted." if right else "see the verdict above.", flush=True)
        if options.keep:
            print(f"\nAirflow is at {airflow.url} (user {airflow.user}, password {airflow.password}). Look at")
            for text, path in story.places():
                print(f"  {text}:\n    {airflow.url}{path}")
            print("\nCtrl-C stops everything and removes it.", flush=True)
            with suppress(Interrupted):
                signal.pause()
        return 0 if right else 1
    except DemoError as error:
        print(f"\nFAILED after {terminal.elapsed:.0f} s: {error}", file=sys.stderr, flush=True)
        return 1
    except Interrupted:
        print("\nInterrupted.", file=sys.stderr, flush=True)
        return 130
    finally:
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        print("Stopping Airflow and removing what the demo made.", flush=True)
        stack.close()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _start(terminal: Terminal, stack: ExitStack, options: argparse.Namespace) -> tuple[Airflow, Story]:
    """Start the cluster and Airflow; the stack stops them and removes what they leave."""
    terminal.step("start a cluster and Airflow")
    folder = stack.enter_context(scratch_folder())
    if options.kubeconfig:
        kubeconfig, name = options.kubeconfig.resolve(), options.namespace
        terminal.say(f"your own cluster ({kubeconfig}), only its namespace {name}")
        # The demo has nothing to do with other pods in there.
        cleanup_options = {"label_selector": dag_selector(DAG_ID)}
    else:
        cluster = stack.enter_context(EmbeddedCluster([NAMESPACE], speed=1))
        kubeconfig, name = cluster.write_kubeconfig(folder / "kubeconfig"), NAMESPACE
        terminal.say(f"embedded Kubernetes cluster: {cluster.url}")
        cleanup_options = {}
    namespace = Namespace(kubeconfig, name)
    namespace.check()
    # A scheduled run would disturb the runs that the demo starts.
    config = {"kpo_cleanup": {"schedule": "None", **cleanup_options}}
    airflow = Airflow(folder, kubeconfig, name, config=config)
    story = Story(airflow, namespace, terminal)
    stack.callback(_remove_pods, namespace, story)
    stack.callback(end_processes_of, folder)  # first, or the retries would make new pods
    airflow.install_dags(REPO / "demo" / "dags" / "kpo_zombies.py")
    airflow.start(terminal, ("kpo_cleanup", "kpo_cleanup_dry_run", DAG_ID))
    terminal.say(f"Airflow is up: {airflow.url} (user {airflow.user}, password {airflow.password})")
    return airflow, story


def _remove_pods(namespace: Namespace, story: Story) -> None:
    if story.run_id:
        try:
            namespace.remove_pods(DAG_ID, story.run_id)
        except Exception as error:  # the rest must still be undone
            selector = run_selector(DAG_ID, story.run_id)
            print(f"Pods may be left in namespace {namespace.name} (-l {selector}): {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
