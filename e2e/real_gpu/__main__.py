"""`python -m e2e.real_gpu --profile FILE --models DIR --out DIR`: the operator with real vLLM on this machine's GPUs.

`--rehearse` plays the same on simulated engines and GPUs. Exit status: 0 played and nothing lost, 1 something was
lost or the replicas did not follow, 2 the stage could not be set.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
from pathlib import Path

from e2e.demo.stage import OPERATOR, StageError
from e2e.devcluster import Config, DevCluster, DevClusterError
from e2e.devcluster.binary import BuildError
from e2e.devcluster.config import ConfigError
from e2e.real_gpu.clients import Lengths
from e2e.real_gpu.manifests import WEIGHTS, make_node, make_pool, make_service, make_values, read_profile
from e2e.real_gpu.play import Journal, ReadGpus, Wish, install, play
from e2e.tools import helm_binary
from shoal.telemetry.gpu import make_json
from shoal.telemetry.nvml import NvmlReader

CHECKOUT = Path(__file__).resolve().parents[2]
VLLM = ("python3", "-m", "vllm.entrypoints.openai.api_server")
# What this process needs to find its modules and files, its children need too.
INHERITED = (
    *("PYTHONPATH", "LD_LIBRARY_PATH", "HOME", "PATH", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT"),
    # A host whose GPUs others share may forbid NVLink multicast.
    *("NCCL_NVLS_ENABLE", "TORCH_SYMM_MEM_DISABLE_MULTICAST", "NVSHMEM_DISABLE_NVLS"),
)
SIMULATED = ("NVIDIA-H100-80GB-HBM3", 2, 80)


def main() -> int:
    """Play; return an exit status."""
    # Ended from outside (a lent machine's time is over): the logs are kept all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    options = _parse()
    journal = Journal(options.out)
    try:
        accelerator, gpus, memory, read_gpus = _find_gpus(rehearse=options.rehearse)
        profile = read_profile(options.profile, accelerator)
        node = make_node(accelerator, gpus, memory, simulated=options.rehearse)
        config = Config(
            nodes=(node,),
            images={} if options.rehearse else {"vllm-openai": _vllm_command(options.vllm_path)},
            image_volumes={WEIGHTS: str(options.models / WEIGHTS)},
            environment=() if options.rehearse else INHERITED,
        )
        with DevCluster(config) as cluster:
            try:
                truth = options.profile.resolve().parent if options.rehearse else None
                values = make_values(engine_version=profile["spec"]["engine"]["version"], simulated_profiles=truth)
                install(cluster, values, options.out, helm_binary())
                wish = _wish(options)
                service = make_service(ttft_ms=wish.ttft_ms, itl_ms=wish.itl_ms, rate=wish.schedule[0][1])
                summary = play(cluster, wish, [profile, make_pool(accelerator, memory), service], journal, read_gpus)
            finally:
                _keep_logs(cluster, options.out)
    except (StageError, DevClusterError, BuildError, ConfigError, ValueError, OSError) as error:
        print(f"could not be played: {error}", file=sys.stderr)
        return 2
    print(json.dumps(summary, indent=1))
    grew = len(summary["history"]) > 1
    return 0 if grew and not summary["all"]["lost"] else 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.real_gpu", description=__doc__)
    add = parser.add_argument
    add("--profile", type=Path, required=True, help="ModelProfile of Qwen2.5-7B on this GPU")
    add("--models", type=Path, default=Path("/tmp/models"), help=f"directory that holds {WEIGHTS}/config.json")
    add("--vllm-path", help="PYTHONPATH of the engines alone, where vLLM's packages lie apart from Shoal's")
    add("--out", type=Path, required=True, help="directory for the timeline, the summary and the logs")
    add("--rehearse", action="store_true", help="simulated engines and GPUs instead of this machine's")
    add("--ttft-ms", type=float, default=1000.0)
    add("--itl-ms", type=float, default=30.0)
    add("--schedule", type=json.loads, default=[[40, 15], [180, 55], [60, 10]], help="[[seconds, requests/s], ...]")
    return parser.parse_args()


def _vllm_command(path: str | None) -> tuple[str, ...]:
    return VLLM if path is None else ("env", f"PYTHONPATH={path}", *VLLM)


def _wish(options: argparse.Namespace) -> Wish:
    schedule = tuple((float(seconds), float(rate)) for seconds, rate in options.schedule)
    return Wish(options.ttft_ms, options.itl_ms, schedule, Lengths())


def _find_gpus(*, rehearse: bool) -> tuple[str, int, int, ReadGpus]:
    """Accelerator, how many, GiB of each, and how to read them. Raises ConfigError."""
    if rehearse:
        return *SIMULATED, list
    reader = NvmlReader()
    found = reader.read()
    if not found:
        raise ConfigError("no NVIDIA GPU here: rehearse with --rehearse")
    product = str(found[0].product).replace(" ", "-")
    return product, len(found), 141 if "H200" in product else 80, lambda: [make_json(gpu) for gpu in reader.read()]


def _keep_logs(cluster: DevCluster, out: Path) -> None:
    """Keep the logs of the operators and the end of every engine's."""
    for pod in cluster.request("GET", f"/api/v1/namespaces/{OPERATOR}/pods")["items"]:
        name = pod["metadata"]["name"]
        shutil.copyfile(cluster.pod_log(OPERATOR, name), out / f"{name}.log")
    shutil.copytree(cluster.directory / "pod-logs", out / "pod-logs", dirs_exist_ok=True)


if __name__ == "__main__":
    sys.exit(main())
