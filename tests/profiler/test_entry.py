"""What the profiler needs to run: on a GPU machine there is neither Kubernetes nor gRPC."""

from __future__ import annotations

import subprocess
import sys


def test_it_runs_without_the_operators_packages() -> None:
    code = (
        "import sys\n"
        "for name in ('kopf', 'kubernetes', 'grpc', 'prometheus_api_client', 'highspy'): sys.modules[name] = None\n"
        "import shoal.profiler.__main__\n"
        "import shoal.profiler.client\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
