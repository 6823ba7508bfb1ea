"""Find or build the binaries before the tests run, and print their directory.

KUBEBUILDER_ASSETS="$(python -m tests.control_plane)"

With `--controller-manager`, kube-controller-manager is among them.
"""

from __future__ import annotations

import sys

from . import ControlPlaneUnavailable, find_or_build, find_or_build_controller_manager

if __name__ == "__main__":
    try:
        print(find_or_build().kube_apiserver.parent)
        if "--controller-manager" in sys.argv[1:]:
            find_or_build_controller_manager()
    except ControlPlaneUnavailable as error:
        sys.exit(str(error))
