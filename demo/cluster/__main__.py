"""Run an embedded cluster until SIGINT or SIGTERM: `python -m demo.cluster`."""

from __future__ import annotations

import argparse
import signal

from . import EmbeddedCluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.cluster", description="Run an embedded Kubernetes cluster.")
    parser.add_argument(
        "--namespace", action="append", help="namespace to create; repeatable (default: default, airflow)"
    )
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per real second (default: 1)")
    parser.add_argument("--kubeconfig", help="file to write a kubeconfig to")
    parser.add_argument("--tls", action="store_true", help="serve HTTPS with a new self-signed certificate")
    options = parser.parse_args()
    namespaces = options.namespace or ["default", "airflow"]
    # Block the signals here and in all threads started later, so that only sigwait receives them.
    stop_signals = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    with EmbeddedCluster(
        namespaces, speed=options.speed, controllers=True, spark_operator=True, tls=options.tls
    ) as cluster:
        if options.kubeconfig:
            cluster.write_kubeconfig(options.kubeconfig)
        print(cluster.url, flush=True)
        signal.sigwait(stop_signals)


if __name__ == "__main__":
    main()
