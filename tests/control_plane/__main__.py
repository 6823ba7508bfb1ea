"""Find or build the binaries before the tests run, and print their directory.

KUBEBUILDER_ASSETS="$(python -m tests.control_plane)"
"""

from __future__ import annotations

import sys

from . import ControlPlaneUnavailable, find_or_build

if __name__ == "__main__":
    try:
        print(find_or_build().kube_apiserver.parent)
    except ControlPlaneUnavailable as error:
        sys.exit(str(error))
