"""What names tell: models, GPUs, and whether one fits the other."""

from __future__ import annotations

import pytest
from planner_world import GIB, make_pool

from shoal.domain.pool import Datasheet
from shoal.planner.catalog import UNKNOWN_CONTEXT, model_facts, parameter_count
from shoal.planner.datasheets import SLOWEST, find_datasheet
from shoal.planner.estimate import estimate_steps
from shoal.planner.memory import kv_tokens, missing_bytes


@pytest.mark.parametrize(
    ("name", "billions", "weights", "kv", "context"),
    [
        ("Qwen/Qwen2.5-7B-Instruct", 7.616, 15.2e9, 57_344, 32768),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", 7.616, 4.6e9, 57_344, 32768),
        ("meta-llama/Llama-2-13b-hf", 13.016, 26.0e9, 819_200, 4096),
        ("meta-llama/Meta-Llama-3-8B-Instruct", 8.03, 16.1e9, 131_072, 8192),
        ("meta-llama/Llama-3.2-1B", 1.236, 2.47e9, 32_768, 131072),
        ("RedHatAI/Llama-3.1-8B-Instruct-FP8", 8.03, 8.4e9, 131_072, 131072),
        ("facebook/opt-125m", 0.125, 0.25e9, 36_864, 2048),
        ("facebook/opt-1.3b", 1.316, 2.6e9, 196_608, 2048),
        ("Qwen/Qwen3-8B", 8.191, 16.4e9, 147_456, 40960),
        ("mistralai/Mistral-7B-Instruct-v0.3", 7.248, 14.5e9, 131_072, 32768),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", 1.1, 2.2e9, 22_528, 2048),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.777, 3.55e9, 28_672, 131072),
    ],
)
def test_known_models(name, billions, weights, kv, context):
    facts = model_facts(name)
    assert facts.parameters == pytest.approx(billions * 1e9)
    assert facts.weights_bytes == pytest.approx(weights, rel=0.02)
    assert (facts.kv_bytes_per_token, facts.max_context_tokens) == (kv, context)


@pytest.mark.parametrize(
    ("name", "count"),
    [("acme/frog-7B", 7e9), ("acme/frog-350m-v2", 350e6), ("acme/Frog-0.5b", 0.5e9), ("acme/8x7b", 56e9)],
)
def test_the_size_stands_in_the_name(name, count):
    facts = model_facts(name)
    assert facts.parameters == pytest.approx(count)
    assert facts.max_context_tokens == UNKNOWN_CONTEXT


@pytest.mark.parametrize("name", ["acme/frog", "acme/frog-v2", "acme/b7", "acme/frog-2.5"])
def test_nothing_is_invented(name):
    assert model_facts(name) is None


def test_a_given_size_counts_before_the_catalogue():
    assert model_facts("acme/frog", 3e9).weights_bytes == 6e9
    assert model_facts("Qwen/Qwen2.5-7B", 1e9).parameters == 1e9


@pytest.mark.parametrize(
    "known", ["facebook/opt-125m", "facebook/opt-13b", "meta-llama/Llama-2-7b", "facebook/opt-1.3b"]
)
def test_an_unknown_model_is_given_no_less_kv_cache_than_one_without_grouped_heads(known):
    facts = model_facts(known)
    assert model_facts("acme/frog", facts.parameters).kv_bytes_per_token >= 0.98 * facts.kv_bytes_per_token


def test_parameter_counts_as_written():
    assert (parameter_count("7.6B"), parameter_count("125M")) == (7.6e9, 125e6)
    with pytest.raises(ValueError, match=r"7\.6B"):
        parameter_count("7.6")


@pytest.mark.parametrize(
    ("accelerator", "bandwidth", "known"),
    [
        ("NVIDIA-H100-80GB-HBM3", 3350e9, True),
        ("NVIDIA-H200", 4800e9, True),
        ("NVIDIA-GH200-480GB", 4000e9, True),
        ("NVIDIA-A100-SXM4-80GB", 2039e9, True),
        ("NVIDIA-A100-SXM4-40GB", 1555e9, True),
        ("NVIDIA-A10G", 600e9, True),
        ("NVIDIA-L40S", 864e9, True),
        ("NVIDIA-L4", 300e9, True),
        ("Tesla-T4", 320e9, True),
        ("NVIDIA-GeForce-RTX-4090", 1008e9, True),
        ("NVIDIA-GB10", 273e9, True),
        ("Frog-1", SLOWEST.memory_bandwidth, False),
    ],
)
def test_datasheets(accelerator, bandwidth, known):
    sheet, found = find_datasheet(make_pool(accelerator=accelerator))
    assert (sheet.memory_bandwidth, found) == (bandwidth, known)


def test_the_pools_own_datasheet_comes_first():
    own = Datasheet(1e12, 1e14)
    assert find_datasheet(make_pool(datasheet=own)) == (own, True)


def test_the_roofline_reads_weights_once_and_splits_them_over_gpus():
    facts = model_facts("Qwen/Qwen2.5-7B")
    sheet = find_datasheet(make_pool())[0]
    one, two = estimate_steps(facts, sheet, 1), estimate_steps(facts, sheet, 2)
    assert one.alpha_ms == pytest.approx(3 + 1000 * 15.232e9 / 3350e9, rel=0.01)
    assert two.alpha_ms < one.alpha_ms
    assert two.beta_ms_per_token == pytest.approx(one.beta_ms_per_token / 2)


class TestMemory:
    facts = model_facts("meta-llama/Llama-2-13b")

    def missing(self, memory, tp=1, k=1, **more):
        pool = make_pool(memory=memory, **more)
        return missing_bytes(pool, self.facts, 4096, tensor_parallel=tp, engines_per_gpu=k)

    def test_weights_and_one_context_must_fit(self):
        assert self.missing(80) < 0 < self.missing(24)
        assert self.missing(24, tp=2) < 0
        assert self.missing(80, k=2) < 0 < self.missing(80, k=4)

    def test_the_reserve_and_the_host_of_unified_memory_are_left_alone(self):
        assert self.missing(40, reserve_bytes=8 * GIB) > self.missing(40)
        assert self.missing(40, unified_memory=True) > self.missing(40)

    def test_two_gpus_hold_much_more_than_twice_the_kv_cache_when_weights_fill_one(self):
        pool = make_pool(memory=40)
        one, two = (kv_tokens(pool, self.facts, tensor_parallel=tp, engines_per_gpu=1) for tp in (1, 2))
        assert two > 3 * one > 0
