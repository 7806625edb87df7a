"""Entry point of `python -m e2e.devcluster`."""

import sys

from e2e.devcluster.cli import main

sys.exit(main())
