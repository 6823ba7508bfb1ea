"""Find or build the binaries ahead of the tests, and print their folder.

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
