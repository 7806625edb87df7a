"""`shoal plan`: files in, an answer out; errors say what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from shoal.cli.main import COMMANDS, main, program_name

ROOT = Path(__file__).parents[2]
SERVICE: dict[str, Any] = {
    "apiVersion": "shoal.dev/v1alpha1",
    "kind": "ModelService",
    "metadata": {"name": "chat", "namespace": "team"},
    "spec": {
        "model": {"name": "Qwen/Qwen2.5-7B-Instruct"},
        "slo": {"ttftMilliseconds": 1000, "itlMilliseconds": 60},
        "workload": {"requestsPerSecond": 40, "inputTokens": {"mean": 512}, "outputTokens": {"mean": 128}},
    },
}
POOL: dict[str, Any] = {
    "apiVersion": "shoal.dev/v1alpha1",
    "kind": "GPUPool",
    "metadata": {"name": "h100"},
    "spec": {
        "accelerator": "NVIDIA-H100-80GB-HBM3",
        "memory": {"perGPU": "80Gi"},
        "claim": {"dra": {"deviceClassName": "gpu.nvidia.com", "driver": "gpu.nvidia.com"}},
        "maxGPUs": 64,
        "pricePerGPUHour": "3.10",
        "link": "NVLink",
    },
}
LENGTHS = {"inputTokens": {"mean": 512}, "outputTokens": {"mean": 128}}
ENGINE = {"tensorParallel": 1, "enginesPerGPU": 1, "maxNumSeqs": 256, "maxNumBatchedTokens": 2048}
PROFILE: dict[str, Any] = {
    "apiVersion": "shoal.dev/v1alpha1",
    "kind": "ModelProfile",
    "metadata": {"name": "qwen"},
    "spec": {
        "model": {
            "name": "Qwen/Qwen2.5-7B-Instruct",
            "parameterCount": 7.6e9,
            "weightsBytes": 15.2e9,
            "kvBytesPerToken": 57344,
            "maxContextTokens": 32768,
        },
        "accelerator": "NVIDIA-H100-80GB-HBM3",
        "engine": {"name": "vllm", "version": "0.33.0"},
        "link": "NVLink",
        "clockMHz": 1980,
        "source": "Measured",
        "rows": [
            {
                **ENGINE,
                **LENGTHS,
                "kvCacheTokens": 900000,
                "steps": {"alphaMs": 7.0, "betaMsPerToken": 0.03, "gammaMsPerKVToken": 2e-5},
            },
            {
                **ENGINE,
                **LENGTHS,
                "tensorParallel": 2,
                "kvCacheTokens": 2000000,
                "steps": {"alphaMs": 5.0, "betaMsPerToken": 0.02, "gammaMsPerKVToken": 1.3e-5},
            },
        ],
    },
}


def changed(document: dict[str, Any], **values: Any) -> dict[str, Any]:
    """A copy with values at dotted paths of spec (`slo__itlMilliseconds=5`)."""
    copy = json.loads(json.dumps(document))
    for path, value in values.items():
        *way, last = path.split("__")
        place = copy["spec"]
        for step in way:
            place = place[step]
        if value is None:
            place.pop(last)
        else:
            place[last] = value
    return copy


class Runner:
    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self.capsys = directory, capsys

    def run(self, *documents: dict[str, Any], flags: tuple[str, ...] = ()) -> tuple[int, str, str]:
        file = self.directory / "all.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        try:
            code = main(["plan", "-f", str(file), *flags])
        except SystemExit as stop:
            code = int(str(stop.code))
        captured = self.capsys.readouterr()
        return code, captured.out, captured.err

    def answer(self, *documents: dict[str, Any], flags: tuple[str, ...] = ()) -> Any:
        code, out, err = self.run(*documents, flags=(*flags, "-o", "json"))
        assert code in (0, 1), err
        return json.loads(out)


@pytest.fixture
def shoal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(tmp_path, capsys)


def test_the_json_is_a_contract(shoal: Runner) -> None:
    answer = shoal.answer(SERVICE, POOL, PROFILE)
    assert list(answer) == [
        "service",
        "decision",
        "variants",
        "gpus",
        "costPerHour",
        "predicted",
        "bindingConstraint",
        "frontier",
        "rejected",
        "quality",
    ]
    assert answer["service"] == "team/chat"
    assert answer["decision"] == "Scale"
    (variant,) = answer["variants"]
    assert list(variant) == [
        "accelerator",
        "tensorParallel",
        "enginesPerGPU",
        "replicas",
        "gpus",
        "capacityPerReplica",
    ]
    assert variant["replicas"] * variant["capacityPerReplica"] >= 40
    assert list(answer["predicted"]) == ["ttftMs", "itlMs", "utilization"]
    assert answer["costPerHour"] == pytest.approx(3.1 * answer["gpus"])
    assert answer["frontier"]
    assert all(list(entry) == ["configuration", "reason"] for entry in answer["rejected"])


class TestQuality:
    """How good the targets of all services are together: cost, bound, gap."""

    def test_of_one_service_it_is_the_cost_of_its_plan(self, shoal: Runner) -> None:
        answer = shoal.answer(SERVICE, POOL, PROFILE)
        cost = answer["costPerHour"]
        assert answer["quality"] == {"costPerHour": cost, "boundPerHour": cost, "gap": 0.0, "exact": True}

    def test_of_several_it_is_that_of_all(self, shoal: Runner) -> None:
        other = changed(SERVICE, priority=5)
        other["metadata"]["name"] = "first"
        answers = shoal.answer(SERVICE, other, POOL, PROFILE)
        assert answers[0]["quality"] == answers[1]["quality"]
        assert answers[0]["quality"]["costPerHour"] == pytest.approx(sum(a["costPerHour"] for a in answers))

    def test_where_turns_were_taken_it_is_not_exact(self, shoal: Runner) -> None:
        other = changed(SERVICE, priority=5)
        other["metadata"]["name"] = "first"
        quality = shoal.answer(SERVICE, other, POOL, PROFILE, flags=("--gpus", "h100=2"))[0]["quality"]
        assert not quality["exact"]
        assert quality["boundPerHour"] <= quality["costPerHour"]

    def test_people_read_it_in_a_sentence(self, shoal: Runner) -> None:
        _, out, _ = shoal.run(SERVICE, POOL, PROFILE)
        assert "no other choice among the plans that were looked at costs less." in " ".join(out.split())


def test_several_services_are_a_list_and_share_the_pools(shoal: Runner) -> None:
    other = changed(SERVICE, priority=5)
    other["metadata"]["name"] = "first"
    answers = shoal.answer(SERVICE, other, POOL, PROFILE, flags=("--gpus", "h100=2"))
    assert [answer["service"] for answer in answers] == ["team/chat", "team/first"]
    assert sum(answer["gpus"] for answer in answers) == 2


class TestPhysics:
    def test_a_tighter_itl_never_costs_less(self, shoal: Runner) -> None:
        costs = [
            shoal.answer(changed(SERVICE, slo__itlMilliseconds=itl), POOL, PROFILE)["costPerHour"]
            for itl in (200, 60, 30, 20, 12)
        ]
        assert costs == sorted(costs)
        assert costs[-1] > costs[0]

    def test_a_smaller_memory_never_costs_less(self, shoal: Runner) -> None:
        found = [
            shoal.answer(SERVICE, changed(POOL, memory={"perGPU": memory}), PROFILE)
            for memory in ("80Gi", "24Gi", "16Gi")
        ]
        assert [answer["costPerHour"] for answer in found] == sorted(answer["costPerHour"] for answer in found)
        assert found[0]["variants"][0]["tensorParallel"] == 1
        assert found[-1]["variants"][0]["tensorParallel"] == 2  # the weights alone fill one GPU of 16 GiB

    def test_a_higher_rate_needs_more(self, shoal: Runner) -> None:
        gpus = [
            shoal.answer(SERVICE, POOL, PROFILE, flags=("--rate", rate))["gpus"] for rate in ("1", "40", "200", "400")
        ]
        assert gpus == sorted(gpus)
        assert gpus[-1] > gpus[0]


def test_infeasible_is_an_answer_with_the_nearest_wish_and_exit_code_1(shoal: Runner) -> None:
    tight = changed(SERVICE, slo__itlMilliseconds=2)
    code, out, _ = shoal.run(tight, POOL, PROFILE)
    assert code == 1
    assert "Nearest that could be met: ITL" in out
    answer = shoal.answer(tight, POOL, PROFILE)
    assert answer["decision"] == "Infeasible"
    assert answer["bindingConstraint"] == "LatencyFloor"
    assert answer["gpus"] > 0  # the best effort


def test_gpus_on_the_command_line_replace_max_gpus(shoal: Runner) -> None:
    answer = shoal.answer(SERVICE, POOL, PROFILE, flags=("--gpus", "h100=1", "--rate", "500"))
    assert (answer["gpus"], answer["bindingConstraint"]) == (1, "Stock")


def test_without_a_profile_the_answer_is_an_estimate(shoal: Runner) -> None:
    code, out, _ = shoal.run(SERVICE, POOL)
    assert code == 0
    assert "Estimated" in out
    assert shoal.answer(SERVICE, POOL)["frontier"][0]["source"] == "Estimated"


def test_the_table_says_what_was_assumed(shoal: Runner) -> None:
    _, out, _ = shoal.run(SERVICE, POOL, PROFILE)
    assert "Assumed: EngineClass default is not in these files: vLLM 0.33.0 is assumed." in " ".join(out.split())


@pytest.mark.parametrize(
    ("documents", "flags", "words"),
    [
        ((POOL,), (), ("no ModelService", "Add one")),
        ((SERVICE,), (), ("no GPUPool", "Add one")),
        ((SERVICE, changed(POOL, maxGPUs=None)), (), ("GPUPool h100", "spec.maxGPUs", "--gpus h100=8")),
        ((SERVICE, POOL), ("--gpus", "a100=3"), ("a100", "Correct the name")),
        ((SERVICE, POOL), ("--gpus", "eight"), ("POOL=NUMBER",)),
        ((SERVICE, POOL), ("--rate", "-3"), ("requests per second",)),
        ((SERVICE, POOL), ("--rate", "nan"), ("requests per second",)),
        ((SERVICE, SERVICE, POOL), (), ("team/chat stands twice",)),
        ((changed(SERVICE, slo__itlMilliseconds=-1), POOL), (), ("all.yaml", "spec.slo.itlMilliseconds")),
        ((changed(SERVICE, slo={}), POOL), (), ("at least one objective",)),
        (({**SERVICE, "kind": "ModelServer"}, POOL), (), ("unknown kind", "ModelService")),
        ((changed(SERVICE, modle={}), POOL), (), ("spec.modle", "Remove it")),
    ],
)
def test_bad_input_is_one_plain_line_and_exit_code_2(
    shoal: Runner, documents: tuple[dict[str, Any], ...], flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    code, out, err = shoal.run(*documents, flags=flags)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err
    for word in words:
        assert word in err


def test_a_file_that_is_not_there(shoal: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "-f", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err


def test_the_picture(shoal: Runner, tmp_path: Path) -> None:
    picture = tmp_path / "plan.png"
    shoal.answer(SERVICE, POOL, PROFILE, flags=("--plot", str(picture)))
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, _, err = shoal.run(SERVICE, POOL, PROFILE, flags=("--plot", str(tmp_path / "plan.frog")))
    assert code == 2
    assert ".png" in err


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("modelservice-*.yaml")), ids=lambda path: path.stem)
def test_every_example_can_be_planned(example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    others = [str(path) for path in sorted((ROOT / "examples").glob("*.yaml")) if "modelservice" not in path.name]
    code = main(
        [
            "plan",
            "-f",
            str(example),
            *others,
            str(ROOT / "profiles" / "simulated"),
            "--gpus",
            "h100=8",
            "--gpus",
            "l40s=8",
            "-o",
            "json",
        ]
    )
    captured = capsys.readouterr()
    assert code == 0, captured.err + captured.out
    assert json.loads(captured.out)["decision"] == "Scale"


class TestDispatcher:
    @pytest.mark.parametrize("command", sorted(COMMANDS))
    def test_every_command_explains_itself(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "usage" in capsys.readouterr().out

    def test_all_commands_are_listed(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["--help"])
        out = capsys.readouterr().out
        assert all(command in out for command in COMMANDS)

    @pytest.mark.parametrize("line", [["frog"], ["plan"], ["plan", "-f"]])
    def test_wrong_arguments_end_with_2(self, line: list[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            main(line)
        assert stop.value.code == 2

    def test_it_knows_how_it_was_called(self) -> None:
        assert program_name("/usr/local/bin/kubectl-shoal") == "kubectl shoal"
        assert program_name("/usr/local/bin/shoal") == "shoal"
