"""`python -m shoal.profiler`."""

import sys

from shoal.profiler.command import main

if __name__ == "__main__":
    sys.exit(main())
