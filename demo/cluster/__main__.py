"""`python -m demo.cluster`: an embedded cluster that runs until SIGINT or SIGTERM."""

from __future__ import annotations

import argparse
import signal

from . import EmbeddedCluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.cluster", description="Runs an embedded Kubernetes cluster.")
    parser.add_argument("--namespace", action="append", help="may be given more than once (default: default, airflow)")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second (default: 1)")
    parser.add_argument("--kubeconfig", help="where to write a kubeconfig")
    parser.add_argument("--tls", action="store_true", help="https, with a certificate made at start")
    options = parser.parse_args()
    namespaces = options.namespace or ["default", "airflow"]
    # Block them here and in all later threads, until sigwait takes them.
    stops = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    with EmbeddedCluster(namespaces, speed=options.speed, tls=options.tls) as cluster:
        if options.kubeconfig:
            cluster.write_kubeconfig(options.kubeconfig)
        print(cluster.url, flush=True)
        signal.sigwait(stops)


if __name__ == "__main__":
    main()
