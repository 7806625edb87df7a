"""What stands in for a wish that was left out.

These are no schema defaults: an object in the cluster stays as it was written, so GitOps stays in sync. What was filled
in is shown in `status.effective`.
"""

from __future__ import annotations

from typing import Final

PERCENTILE: Final = 95
MAX_CONTEXT_TOKENS: Final = 8192
REVISION: Final = "main"
MIN_REPLICAS: Final = 1
PRIORITY: Final = 0
ENGINE_CLASS: Final = "default"
TENSOR_PARALLEL: Final = (1, 2, 4, 8)
ENGINES_PER_GPU: Final = (1, 2, 4)
WORKLOAD_REQUESTS_PER_SECOND: Final = 1.0
WORKLOAD_INPUT_TOKENS: Final = 512.0
WORKLOAD_OUTPUT_TOKENS: Final = 128.0
TAIL_OVER_MEAN: Final = 2.0  # p95 of a length where only its mean is given

DRAIN_SECONDS: Final = 120
SHUTDOWN_SECONDS: Final = 5
STARTUP_SECONDS: Final = 900
API_SERVER_COUNT: Final = 1
RUN_AS_USER: Final = 2000
ENGINE_CPU: Final = "4"
ENGINE_MEMORY: Final = "16Gi"
ENGINE_SHM: Final = "2Gi"
CACHE_SIZE: Final = "100Gi"

MEMORY_RESERVE: Final = "2Gi"

MAX_NUM_SEQS: Final = 256
MAX_NUM_BATCHED_TOKENS: Final = 2048
BUDGET_MINUTES: Final = 30
LENGTH_DISTRIBUTION: Final = "Gamma"
