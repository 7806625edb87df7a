"""Recipes from YAML: what the tests of rendered objects start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import yaml

from shoal.api.engine_class import EngineClass
from shoal.api.gpu_pool import GPUPool
from shoal.api.load import load_text
from shoal.api.model_service import ModelService
from shoal.api.profile_run import ProfileRun
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import ModelFacts
from shoal.render.budget import make_budget
from shoal.render.recipe import Recipe, is_routed_by_envoy
from shoal.render.service import make_service
from shoal.render.variant import make_variant

GOLDEN = Path(__file__).parent / "golden"
CASES = sorted(path.name.removesuffix(".in.yaml") for path in GOLDEN.glob("*.in.yaml"))

R = TypeVar("R")


def load_recipe(case: str) -> Recipe:
    """The recipe that golden/<case>.in.yaml describes."""
    text = (GOLDEN / f"{case}.in.yaml").read_text()
    resources = load_text(text)
    wish = next(document for document in yaml.safe_load_all(text) if document.get("kind") == "Case")
    pool = _only(resources, GPUPool)
    weights = wish.get("weightsBytes")
    return Recipe(
        service=_only(resources, ModelService),
        pool=pool,
        engine=_only(resources, EngineClass),
        placement=Placement(pool.metadata.name, Configuration(**wish["configuration"])),
        max_context_tokens=wish["maxContextTokens"],
        facts=ModelFacts(weights / 2, weights, 196608, 2048) if weights else None,
    )


def make_run(**spec: Any) -> ProfileRun:
    """A ProfileRun with these further fields of spec."""
    body = {
        "metadata": {"name": "qwen", "namespace": "team", "uid": "u-1", "generation": 1},
        "spec": {"model": {"name": "Qwen/Qwen2.5-14B-Instruct"}, "pool": "h100", **spec},
    }
    return ProfileRun.model_validate_json(json.dumps(body))


def render(recipe: Recipe) -> list[dict[str, Any]]:
    """Every object of a ModelService with this one variant, in the order they are applied."""
    variant = make_variant(recipe)
    objects = [variant.claim_template, variant.deployment, make_budget(recipe.service)]
    if not is_routed_by_envoy(recipe.service):
        objects.append(make_service(recipe.service))
    return [item for item in objects if item is not None]


def dump(objects: list[dict[str, Any]]) -> str:
    """The objects as the golden files hold them."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120)


def _only(resources: tuple[Any, ...], kind: type[R]) -> R:
    (found,) = (resource for resource in resources if isinstance(resource, kind))
    return found


class _Dumper(yaml.SafeDumper):
    """No aliases; several lines of text as a block."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


if __name__ == "__main__":
    for name in CASES:
        (GOLDEN / f"{name}.out.yaml").write_text(dump(render(load_recipe(name))))
