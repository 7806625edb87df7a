"""Names, identity, memory, arguments: what tells variants apart, and what reaches an engine."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from render_cases import CASES, load_recipe

from shoal.api import defaults
from shoal.api.base import Shape, camel_case
from shoal.api.model_service import ModelServiceSpec
from shoal.domain.configuration import Configuration, Placement
from shoal.domain.profile import ModelFacts
from shoal.render import names, variant
from shoal.render.arguments import make_arguments
from shoal.render.errors import RenderError
from shoal.render.memory import compute_memory_share
from shoal.render.problems import find_problems
from shoal.render.recipe import Recipe, compute_identity, dump_placement, parse_placement, placement_of
from shoal.render.scale import make_deletion_costs
from shoal.render.variant import make_variant

GIB = 2**30


def changed(shape: Shape, path: str, value: Any) -> Any:
    """A copy with the field at this dotted path set."""
    first, _, rest = path.partition(".")
    inner = changed(getattr(shape, first), rest, value) if rest else value
    return shape.model_copy(update={first: inner})


def with_change(recipe: Recipe, part: str, path: str, value: Any) -> Recipe:
    return dataclasses.replace(recipe, **{part: changed(getattr(recipe, part), path, value)})


# -- identity -----------------------------------------------------------------------------------------------------

ANOTHER_VARIANT = [
    ("service", "spec.model.name", "Qwen/Qwen2.5-3B-Instruct"),
    ("service", "spec.model.revision", "v2"),
    ("service", "spec.model.served_name", "other"),
    ("engine", "spec.image", "vllm/vllm-openai:v0.31.0"),
    ("engine", "spec.extra_args", ("--enforce-eager",)),
    ("engine", "spec.run_as_user", 3000),
    ("engine", "spec.drain_seconds", 300),
    ("pool", "spec.claim.dra.device_class_name", "big.example"),
    ("pool", "spec.memory.per_gpu", "94Gi"),
]
SAME_VARIANT = [
    ("service", "spec.slo.itl_milliseconds", 10.0),
    ("service", "spec.priority", 7),
    ("service", "spec.model.parameters", "7B"),
    ("service", "metadata.labels", {"team": "a"}),
    ("engine", "spec.version", "0.30.2"),
    ("engine", "spec.allowed_sources", ("HuggingFace",)),
    ("engine", "spec.max_api_server_count", 8),
    ("pool", "spec.price_per_gpu_hour", "9.99"),
    ("pool", "spec.max_gpus", 9),
    ("pool", "spec.sharing", "MPS"),
]


@pytest.mark.parametrize(("part", "path", "value"), ANOTHER_VARIANT)
def test_what_reaches_pods_makes_another_variant(part: str, path: str, value: Any) -> None:
    recipe = load_recipe("simple")
    other = with_change(recipe, part, path, value)
    assert compute_identity(other) != compute_identity(recipe)
    assert make_variant(other).name != make_variant(recipe).name


@pytest.mark.parametrize(("part", "path", "value"), SAME_VARIANT)
def test_what_does_not_reach_pods_is_no_change(part: str, path: str, value: Any) -> None:
    recipe = load_recipe("simple")
    other = with_change(recipe, part, path, value)
    assert make_variant(other) == make_variant(recipe)


def test_context_and_placement_make_another_variant() -> None:
    recipe = load_recipe("simple")
    longer = dataclasses.replace(recipe, max_context_tokens=4096)
    batch = Configuration("NVIDIA-H100-80GB-HBM3", max_num_seqs=64)
    smaller = dataclasses.replace(recipe, placement=Placement("h100", batch))
    assert len({compute_identity(each) for each in (recipe, longer, smaller)}) == 3


def test_changed_defaults_roll_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = {case: make_variant(load_recipe(case)).name for case in CASES}
    for name in ("DRAIN_SECONDS", "SHUTDOWN_SECONDS", "STARTUP_SECONDS", "RUN_AS_USER"):
        monkeypatch.setattr(defaults, name, getattr(defaults, name) + 1)
    monkeypatch.setattr(defaults, "ENGINE_MEMORY", "17Gi")
    monkeypatch.setattr(defaults, "MEMORY_RESERVE", "3Gi")
    assert {case: make_variant(load_recipe(case)).name for case in CASES} == before


def test_a_newer_render_revision_keeps_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_variant(load_recipe("simple"))
    monkeypatch.setattr(names, "RENDER_REVISION", names.RENDER_REVISION + 1)
    monkeypatch.setattr(variant, "RENDER_REVISION", names.RENDER_REVISION)
    after = make_variant(load_recipe("simple"))
    assert after.name != before.name
    assert after.identity == before.identity
    annotations = after.deployment["metadata"]["annotations"]
    assert annotations["shoal.dev/identity"] == before.deployment["metadata"]["annotations"]["shoal.dev/identity"]
    assert annotations["shoal.dev/render-revision"] == str(names.RENDER_REVISION)


def test_a_slightly_better_estimate_of_the_weights_is_no_change() -> None:
    recipe = load_recipe("shared")
    assert recipe.facts is not None
    better = dataclasses.replace(recipe, facts=dataclasses.replace(recipe.facts, weights_bytes=2.64e9))
    larger = dataclasses.replace(recipe, facts=dataclasses.replace(recipe.facts, weights_bytes=5e9))
    assert compute_identity(better) == compute_identity(recipe) != compute_identity(larger)


@given(st.dictionaries(st.text("abc", max_size=3), st.integers() | st.text("xy", max_size=3)))
def test_key_order_does_not_count(content: dict[str, Any]) -> None:
    assert names.short_hash(content) == names.short_hash(dict(reversed(content.items())))


# -- placements in annotations ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_placement_round_trip(case: str) -> None:
    recipe = load_recipe(case)
    assert placement_of(make_variant(recipe).deployment) == recipe.placement


GOOD = json.loads(dump_placement(load_recipe("simple").placement))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '"x"',
        *(json.dumps({**GOOD, "maxNumSeqs": bad}) for bad in (0, -1, "8", 1.5, None, True)),
        *(json.dumps({key: value for key, value in GOOD.items() if key != gone}) for gone in GOOD),
        json.dumps({**GOOD, "tensorParallel": 2, "enginesPerGPU": 2}),
    ],
)
def test_annotations_of_others_are_no_placement(text: str) -> None:
    assert parse_placement({"shoal.dev/configuration": text}) is None
    assert placement_of({"metadata": {}}) is None


# -- names --------------------------------------------------------------------------------------------------------


def test_names_are_valid_with_the_longest_service() -> None:
    longest = "m" * 40
    for name in (names.variant_name(longest, "0" * 8), names.budget_name(longest), names.engines_service_name(longest)):
        assert len(name) <= 63


def test_owner_is_told_by_its_uid() -> None:
    metadata = make_variant(load_recipe("simple")).deployment["metadata"]
    uid = metadata["ownerReferences"][0]["uid"]
    assert names.is_controlled_by(metadata, uid)
    assert not names.is_controlled_by(metadata, "another")
    assert not names.is_controlled_by({}, uid)
    assert not names.is_controlled_by({"ownerReferences": [{"uid": uid}]}, uid)


def test_urls() -> None:
    assert names.service_url("a", "chat", envoy=True) == "http://shoal-router.a.svc:8080/chat/v1"
    assert names.service_url("a", "chat", envoy=False) == "http://chat-engines.a.svc/v1"


# -- memory -------------------------------------------------------------------------------------------------------


def facts(weights: float) -> ModelFacts:
    return ModelFacts(weights / 2, weights, 1e5, 2048)


@given(st.integers(1, 8), st.floats(0.1, 60), st.sampled_from(["24Gi", "80Gi", "128Gi"]))
def test_engines_together_stay_inside_the_gpu(engines: int, weights: float, size: str) -> None:
    memory = load_recipe("simple").pool.spec.memory.model_copy(update={"per_gpu": size})
    total = int(size[:-2]) * GIB
    configuration = Configuration("X", engines_per_gpu=engines)
    try:
        share = compute_memory_share(memory, configuration, facts(weights * GIB))
    except RenderError:
        assert engines * (weights * GIB + 1.5e9) > total - 2 * GIB - 0.11 * total - engines * 2**20
        return
    assert share.utilization_percent * engines <= 90
    if share.kv_cache_bytes is not None:
        assert engines * (share.kv_cache_bytes + weights * GIB + 1.5e9) <= total - 2 * GIB


def test_unified_memory_leaves_more_to_the_host() -> None:
    memory = load_recipe("simple").pool.spec.memory.model_copy(update={"unified": True})
    assert compute_memory_share(memory, Configuration("NVIDIA-GB10"), None).utilization_percent == 80


def test_sharing_needs_the_size_of_the_model() -> None:
    with pytest.raises(RenderError, match="before the size of the model is known"):
        make_variant(dataclasses.replace(load_recipe("shared"), facts=None))


def test_engines_cannot_share_an_extended_resource() -> None:
    recipe = load_recipe("extended")
    shared = Configuration("NVIDIA-L40S", engines_per_gpu=2)
    with pytest.raises(RenderError, match="engines cannot share its GPUs"):
        make_variant(dataclasses.replace(recipe, placement=Placement("l40s", shared), facts=facts(1e9)))


# -- arguments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_simulated_engine_takes_the_arguments(case: str) -> None:
    from shoal.sim.arguments import parse_arguments

    recipe = load_recipe(case)
    last = recipe.configuration.engines_per_replica - 1
    parsed = parse_arguments(make_arguments(recipe, last))
    assert parsed.port == 8000 + last
    assert parsed.max_num_seqs == recipe.configuration.max_num_seqs
    assert parsed.served_names == (recipe.service.spec.model.served_name or recipe.service.metadata.name,)


wild = st.text('-$()= a/.\n{}"\\Z0', min_size=1, max_size=12)


@given(st.sampled_from(["model.name", "model.revision", "model.served_name", "engine.tool_call_parser"]), wild)
def test_what_an_owner_writes_is_a_value_never_a_flag(path: str, text: str) -> None:
    """Whatever passes the schema; `$(` would be replaced by the kubelet."""
    recipe = load_recipe("shared")
    wish = recipe.service.spec.to_dict()
    part, field = path.split(".")
    wish[part][camel_case(field)] = text
    try:
        spec = ModelServiceSpec.model_validate_json(json.dumps(wish))
    except ValidationError:
        return
    given_arguments = make_arguments(recipe, 0)
    service = recipe.service.model_copy(update={"spec": spec})
    arguments = make_arguments(dataclasses.replace(recipe, service=service), 0)
    flags = [word for word in arguments if word.startswith("-")]
    assert flags == [word for word in given_arguments if word.startswith("-")]
    assert [word for word in arguments if "$(" in word] == ["$(POD_IP)"]


# -- what the class does not allow --------------------------------------------------------------------------------


def test_a_class_that_allows_everything() -> None:
    recipe = load_recipe("shared")
    assert find_problems(recipe.service, recipe.engine) == ()


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("spec.allowed_sources", ("OCIImage",), "SourceNotAllowed"),
        ("spec.allowed_args", ("toolCallParser",), "ArgumentNotAllowed"),
    ],
)
def test_a_class_that_does_not(path: str, value: Any, reason: str) -> None:
    recipe = load_recipe("shared")
    (problem,) = find_problems(recipe.service, changed(recipe.engine, path, value))
    assert (problem.reason, problem.needs_spec_change) == (reason, True)
    assert recipe.engine.metadata.name in problem.message


def test_a_parser_switched_off_is_always_allowed() -> None:
    recipe = load_recipe("tensor")
    assert find_problems(recipe.service, changed(recipe.engine, "spec.allowed_args", ())) == ()


# -- which pods go first ------------------------------------------------------------------------------------------


def test_deletion_costs_change_only_what_must() -> None:
    cost = names.ANNOTATION_DELETION_COST
    present = {"a": {}, "b": {cost: "-5", "x": "y"}, "c": {}, "d": {cost: "-1000000"}}
    patches = make_deletion_costs(("d", "a"), present)
    assert patches == {
        "a": {"metadata": {"annotations": {cost: "-999999"}}},
        "b": {"metadata": {"annotations": {cost: None}}},
    }


# -- API servers --------------------------------------------------------------------------------------------------


def with_servers(recipe: Recipe, servers: int) -> Recipe:
    configuration = dataclasses.replace(recipe.configuration, api_servers=servers)
    return dataclasses.replace(recipe, placement=dataclasses.replace(recipe.placement, configuration=configuration))


@pytest.mark.parametrize(
    ("of_the_class", "of_the_configuration", "rendered"),
    [(None, 1, None), (None, 4, "4"), (2, 1, "2"), (2, 4, "4"), (4, 2, "4")],
)
def test_the_larger_number_of_api_servers_counts(
    of_the_class: int | None, of_the_configuration: int, rendered: str | None
) -> None:
    recipe = with_change(load_recipe("simple"), "engine", "spec.api_server_count", of_the_class)
    arguments = make_arguments(with_servers(recipe, of_the_configuration), 0)
    found = arguments[arguments.index("--api-server-count") + 1] if "--api-server-count" in arguments else None
    assert found == rendered


def test_one_api_server_leaves_names_as_they_were_and_more_make_another_variant() -> None:
    recipe = load_recipe("simple")
    assert "apiServers" not in json.loads(dump_placement(recipe.placement))
    more = with_servers(recipe, 2)
    assert compute_identity(more) != compute_identity(recipe)
    assert placement_of(make_variant(more).deployment) == more.placement
