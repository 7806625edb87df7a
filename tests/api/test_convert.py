"""ModelProfile and the domain's Profile say the same."""

from __future__ import annotations

from api_samples import full
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.api.convert import profile_from_domain, profile_to_domain
from shoal.api.load import parse
from shoal.api.model_profile import ModelProfile
from shoal.domain.profile import (
    LengthMix,
    Link,
    ModelFacts,
    Profile,
    ProfileRow,
    Quantiles,
    RatePoint,
    Source,
    StepModel,
)


def _floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False)


@st.composite
def quantiles(draw: st.DrawFn) -> Quantiles:
    p50, p90, p95, p99 = sorted(draw(st.lists(_floats(0.1, 1e6), min_size=4, max_size=4)))
    return Quantiles(mean=draw(_floats(0.1, 1e6)), p50=p50, p90=draw(st.sampled_from([p90, None])), p95=p95, p99=p99)


@st.composite
def rows(draw: st.DrawFn) -> ProfileRow:
    tensor, engines = draw(st.sampled_from([(1, 1), (2, 1), (8, 1), (1, 4)]))
    inputs, outputs = draw(_floats(1, 1e5)), draw(_floats(1, 1e5))
    rates = sorted(draw(st.lists(_floats(0.01, 1e4), max_size=4)))
    return ProfileRow(
        tensor_parallel=tensor,
        engines_per_gpu=engines,
        max_num_seqs=draw(st.integers(1, 4096)),
        max_num_batched_tokens=draw(st.integers(1, 65536)),
        kv_cache_tokens=draw(_floats(1, 1e9)),
        lengths=LengthMix(inputs, outputs, inputs * 2, outputs * 3),
        overload_rate=draw(_floats(0.01, 1e4)),
        points=tuple(RatePoint(rate, draw(quantiles()), draw(quantiles()), draw(_floats(0, 1000))) for rate in rates),
        steps=draw(
            st.none() | st.builds(StepModel, *[_floats(0, 100)] * 5, api_tokens_per_second=st.none() | _floats(1, 1e6))
        ),
    )


PROFILES = st.builds(
    Profile,
    name=st.just("qwen-h100"),
    namespace=st.sampled_from(["", "shoal-system"]),
    model=st.just("Qwen/Qwen2.5-7B-Instruct"),
    accelerator=st.just("NVIDIA-H100-80GB-HBM3"),
    engine=st.just("vllm"),
    engine_version=st.just("0.30.1"),
    source=st.sampled_from(Source),
    facts=st.builds(ModelFacts, _floats(1e6, 1e12), _floats(1e6, 1e12), _floats(1, 1e7), st.integers(64, 10**6)),
    rows=st.lists(rows(), min_size=1, max_size=3).map(tuple),
    link=st.sampled_from(Link),
    clock_mhz=st.none() | _floats(100, 3000),
)


@settings(max_examples=60, deadline=None)
@given(PROFILES)
def test_a_profile_survives_the_way_through_a_manifest(profile: Profile) -> None:
    manifest = profile_from_domain(profile).to_dict()
    assert profile_to_domain(parse(ModelProfile, manifest, unknown="forbid")) == profile


def test_a_manifest_says_the_same_to_the_planner() -> None:
    profile = profile_to_domain(parse(ModelProfile, full("ModelProfile"), unknown="forbid"))
    assert (profile.model, profile.link, profile.source) == ("Qwen/Qwen2.5-7B-Instruct", Link.NVLINK, Source.MEASURED)
    [row] = profile.rows
    assert row.lengths == LengthMix(200, 100, 600, 300)
    assert row.points[0].ttft.p95 == 40
    assert row.points[1].itl == Quantiles(mean=11)
    assert row.steps is not None
    assert row.steps.api_tokens_per_second == 16000


def test_an_unknown_tail_is_twice_the_mean() -> None:
    manifest = full("ModelProfile")
    manifest["spec"]["rows"][0]["inputTokens"] = {"mean": 150}
    [row] = profile_to_domain(parse(ModelProfile, manifest, unknown="forbid")).rows
    assert row.lengths.input_p95 == 300
