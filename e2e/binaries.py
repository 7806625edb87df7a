"""`python -m e2e.binaries`: builds and caches what the devcluster and the chart's tests run."""

from __future__ import annotations

import sys

from e2e.devcluster.binary import BuildError, ensure_binary, print_progress
from e2e.tools import helm_binary


def main() -> int:
    """Build what is missing; return an exit status."""
    try:
        ensure_binary(print_progress)
        helm_binary()
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
