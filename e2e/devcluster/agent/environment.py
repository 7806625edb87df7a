"""What a container finds in its environment: pure, from objects that were read before."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from e2e.devcluster.client import Object

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][\w.-]*)\)")
_SUBSCRIPT = re.compile(r"^metadata\.(annotations|labels)\['(.+)'\]$")
_QUANTITY = re.compile(r"^([0-9.]+(?:[eE][+-]?[0-9]+)?)([A-Za-z]*)$")
_SUFFIXES = {
    "": 1.0,
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "P": 1e15,
    "Ki": 2.0**10,
    "Mi": 2.0**20,
    "Gi": 2.0**30,
    "Ti": 2.0**40,
    "Pi": 2.0**50,
}


class ContainerConfigError(ValueError):
    """The container cannot be made from its specification, or not yet (a ConfigMap that does not exist)."""


@dataclass(frozen=True)
class References:
    """Data of the ConfigMaps and Secrets that a container names, by object name; missing ones are absent."""

    config_maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    secrets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace `$(NAME)` as Kubernetes does: unknown names stay as they are, `$$` is a dollar sign."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        return "$" if name is None else variables.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def parse_quantity(text: str) -> float:
    """Return a Kubernetes quantity as a number. Raises ContainerConfigError."""
    match = _QUANTITY.match(str(text))
    if match is None or match.group(2) not in _SUFFIXES:
        raise ContainerConfigError(f"{text!r} is no quantity")
    return float(match.group(1)) * _SUFFIXES[match.group(2)]


def field_value(pod: Object, path: str) -> str:
    """Return the value of a downward API field of a pod. Raises ContainerConfigError for fields it cannot name."""
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        return str((pod["metadata"].get(subscript.group(1)) or {}).get(subscript.group(2), ""))
    if path in ("metadata.annotations", "metadata.labels"):
        pairs = pod["metadata"].get(path.partition(".")[2]) or {}
        return "\n".join(f'{key}="{value}"' for key, value in sorted(pairs.items()))
    value: object = pod
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None:
        raise ContainerConfigError(f"the pod has no field {path!r}")
    return str(value)


def resource_value(container: Object, reference: Object) -> str:
    """Return a limit or request as the downward API does: divided by the divisor and rounded up."""
    kind, _, resource = reference["resource"].partition(".")
    quantity = ((container.get("resources") or {}).get(kind) or {}).get(resource)
    if quantity is None:
        raise ContainerConfigError(f"container {container['name']} has no {reference['resource']}")
    divisor = parse_quantity(reference.get("divisor") or "1") or 1.0
    return str(math.ceil(parse_quantity(quantity) / divisor))


def make_environment(
    pod: Object, container: Object, references: References, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the container's variables: `inherited`, then `envFrom`, then `env` in order, later ones winning.

    Raises ContainerConfigError for a reference that is neither there nor optional.
    """
    variables = dict(inherited)
    for source in container.get("envFrom") or []:
        variables |= _read_all(source, references)
    for entry in container.get("env") or []:
        value = _read_entry(pod, container, entry, references, variables)
        if value is not None:
            variables[entry["name"]] = value
    return variables


def _read_all(source: Object, references: References) -> dict[str, str]:
    prefix = source.get("prefix", "")
    for key, objects in (("configMapRef", references.config_maps), ("secretRef", references.secrets)):
        reference = source.get(key)
        if reference is None:
            continue
        data = objects.get(reference["name"])
        if data is None and not reference.get("optional"):
            raise ContainerConfigError(f"{key.removesuffix('Ref')} {reference['name']!r} not found")
        return {prefix + name: value for name, value in (data or {}).items()}
    return {}


def _read_entry(
    pod: Object, container: Object, entry: Object, references: References, variables: Mapping[str, str]
) -> str | None:
    source = entry.get("valueFrom")
    if not source:
        return expand(entry.get("value") or "", variables)
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_value(container, source["resourceFieldRef"])
    for key, objects in (("configMapKeyRef", references.config_maps), ("secretKeyRef", references.secrets)):
        if key in source:
            return _read_key(source[key], objects)
    raise ContainerConfigError(f"variable {entry['name']}: the devcluster does not know {sorted(source)}")


def _read_key(reference: Object, objects: Mapping[str, Mapping[str, str]]) -> str | None:
    value = objects.get(reference["name"], {}).get(reference["key"])
    if value is None and not reference.get("optional"):
        raise ContainerConfigError(f"{reference['name']!r} with key {reference['key']!r} not found")
    return value


def referenced_names(container: Object) -> tuple[set[str], set[str]]:
    """Return the names of the ConfigMaps and of the Secrets that a container's environment needs."""
    config_maps: set[str] = set()
    secrets: set[str] = set()
    entries = [entry.get("valueFrom") or {} for entry in container.get("env") or []]
    for source in [*(container.get("envFrom") or []), *entries]:
        for key, names in (("configMap", config_maps), ("secret", secrets)):
            for suffix in ("Ref", "KeyRef"):
                if key + suffix in source:
                    names.add(source[key + suffix]["name"])
    return config_maps, secrets


@dataclass(frozen=True)
class Mounts:
    """Where a container's mount paths really are: there are no mount namespaces, so paths are rewritten in text."""

    paths: Mapping[str, str]  # mount path -> real path

    def rewrite(self, text: str) -> str:
        """Replace mount paths at the start of a path in `text`, longest first.

        /tmp is left alone (TMPDIR names the mount), since arguments may name real files there.
        """
        for mount in sorted(self.paths, key=len, reverse=True):
            if mount not in ("/", "/tmp"):
                pattern = rf"(?<![\w./-]){re.escape(mount)}(?![\w.-])"
                text = re.sub(pattern, self.paths[mount].replace("\\", r"\\"), text)
        return text
