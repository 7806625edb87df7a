"""ModelProfiles as files: a directory of YAML in, domain profiles out, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from shoal.api.convert import profile_from_domain, profile_to_domain
from shoal.api.load import load_text
from shoal.api.model_profile import ModelProfile, Provenance
from shoal.domain.profile import Profile


def read_profiles(directory: Path, model: str = "") -> tuple[Profile, ...]:
    """Every ModelProfile in the directory's `*.yaml` files, by file name.

    Files that do not mention `model` are not parsed. Raises ApiError, and OSError for a directory that cannot be read.
    """
    profiles = []
    for path in sorted(directory.iterdir()):
        if path.suffix != ".yaml" or model not in (text := path.read_text(encoding="utf-8")):
            continue
        for resource in load_text(text, where=str(path)):
            if isinstance(resource, ModelProfile):
                profiles.append(profile_to_domain(resource))
    return tuple(profiles)


def render_profile(profile: Profile, provenance: Provenance, header: str) -> str:
    """YAML text of one manifest with a comment on top. Numbers have the 6 digits that they are worth."""
    return render_manifest(profile_from_domain(profile, provenance=provenance), header)


def render_manifest(resource: ModelProfile, header: str) -> str:
    """The same for a whole resource, with what the planner does not look at."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    given = resource.to_dict()
    metadata = {key: value for key, value in given["metadata"].items() if value}
    document = {"apiVersion": given["apiVersion"], "kind": given["kind"], "metadata": metadata, "spec": given["spec"]}
    return comment + yaml.safe_dump(_round(document), sort_keys=False, width=110)


def _round(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _round(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_round(item) for item in value]
    if isinstance(value, float):
        rounded = float(f"{value:.6g}")
        return int(rounded) if rounded.is_integer() else rounded
    return value
