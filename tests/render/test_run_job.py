"""A measurement runs what a variant runs: same engines, same arguments, same claim; the profiler beside them."""

from __future__ import annotations

from typing import Any

import pytest
from render_cases import load_recipe, make_run

from shoal.api.measurement import MeasurementPlan
from shoal.api.profile_run import ProfileRun
from shoal.render.errors import RenderError
from shoal.render.measurement import (
    MeasurementObjects,
    ProfilerSettings,
    as_service,
    lengths_text,
    make_measurement,
    objective_text,
)
from shoal.render.recipe import Recipe
from shoal.render.variant import make_variant

SETTINGS = ProfilerSettings("shoal-profiler:1")


def recipe_of(run: ProfileRun, case: str) -> Recipe:
    """The recipe of a golden case, for the run's model."""
    known = load_recipe(case)
    return Recipe(as_service(run), known.pool, known.engine, known.placement, known.max_context_tokens, known.facts)


def render(case: str, **spec: Any) -> tuple[Recipe, MeasurementObjects]:
    run = make_run(**spec)
    recipe = recipe_of(run, case)
    return recipe, make_measurement(run, recipe, SETTINGS, 120.0)


def pod_of(objects: MeasurementObjects) -> dict[str, Any]:
    pod: dict[str, Any] = objects.job["spec"]["template"]["spec"]
    return pod


@pytest.mark.parametrize("case", ["simple", "shared", "tensor", "extended"])
def test_engines_are_those_of_a_variant(case: str) -> None:
    recipe, objects = render(case)
    variant = make_variant(recipe).deployment["spec"]["template"]["spec"]
    served = [*variant.get("initContainers", ()), *variant["containers"]]
    measured = pod_of(objects)["initContainers"]
    for theirs, ours in zip(served, measured, strict=True):
        different = {key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key)}
        assert different <= {"lifecycle", "restartPolicy"}
        assert ours["restartPolicy"] == "Always"
    for field in ("securityContext", "nodeSelector", "tolerations", "runtimeClassName", "affinity", "imagePullSecrets"):
        assert pod_of(objects).get(field) == variant.get(field)


@pytest.mark.parametrize("case", ["simple", "shared", "tensor"])
def test_the_claim_is_that_of_a_variant(case: str) -> None:
    recipe, objects = render(case)
    theirs, ours = make_variant(recipe).claim_template, objects.claim_template
    assert theirs is not None
    assert ours is not None
    assert ours["spec"]["spec"] == theirs["spec"]["spec"]
    assert ours["metadata"]["name"] == objects.name
    (claim,) = pod_of(objects)["resourceClaims"]
    assert claim["resourceClaimTemplateName"] == objects.name


def test_extended_resources_need_no_template_and_share_nothing() -> None:
    _, objects = render("extended")
    assert objects.claim_template is None
    assert "resourceClaims" not in pod_of(objects)
    shared, by_number = load_recipe("shared"), load_recipe("extended")
    run = make_run()
    recipe = Recipe(as_service(run), by_number.pool, shared.engine, shared.placement, 2048, shared.facts)
    with pytest.raises(RenderError, match="cannot share"):
        make_measurement(run, recipe, SETTINGS, 60.0)


def test_the_job_belongs_to_the_run_and_ends_by_itself() -> None:
    _, objects = render("shared")
    for body in (objects.job, objects.claim_template):
        assert body is not None
        (owner,) = body["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"], owner["controller"]) == ("ProfileRun", "u-1", True)
        assert "blockOwnerDeletion" not in owner
        assert body["metadata"]["labels"]["shoal.dev/profile-run"] == "qwen"
    spec = objects.job["spec"]
    assert spec["podReplacementPolicy"] == "Failed"
    assert spec["activeDeadlineSeconds"] > 120
    assert "shoal.dev/model-service" not in spec["template"]["metadata"]["labels"]
    assert pod_of(objects)["automountServiceAccountToken"] is False


def test_the_profiler_knows_every_engine() -> None:
    recipe, objects = render(
        "shared",
        lengths={"inputTokens": 300, "outputTokens": 60, "distribution": "Fixed"},
        slo={"ttftMilliseconds": 400, "percentile": 90},
    )
    (profiler,) = pod_of(objects)["containers"]
    plan = MeasurementPlan.model_validate_json(profiler["args"][0])
    engines = recipe.configuration.engines_per_replica
    assert plan.urls == tuple(f"http://$(POD_IP):{8000 + index}" for index in range(engines))
    assert (plan.lengths, plan.objective) == ("fixed:300,60", "ttft=400,p=90")
    assert plan.longest == recipe.max_context_tokens
    assert plan.message_bytes == min(4096, 12288 // (engines + 1))
    assert "claims" not in profiler["resources"]


def test_what_was_left_out_is_filled_in() -> None:
    assert lengths_text(make_run()) == "gamma:512,128"
    assert objective_text(make_run()) == ""
    assert objective_text(make_run(slo={"itlMilliseconds": 12.5})) == "itl=12.5,p=95"


def test_another_wish_is_another_job() -> None:
    names = {render("simple", **spec)[1].name for spec in ({}, {"budgetMinutes": 5}, {"profileName": "x"})}
    assert len(names) == 3
    assert render("simple")[1].name == render("simple")[1].name
