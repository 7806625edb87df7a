"""`python -m bench.gpu_session.estimate_aic NAME`, in .venv-h2h: AIConfigurator's estimates for a predictions file.

Its single-configuration estimate is asked for batches of 8 to 256 that the row's KV cache holds, at the mix's mean
lengths (it knows no distribution) and the row's chunk. Saturation is the highest throughput of them, the rate within
the objective the highest whose TTFT and TPOT (means, as it has no percentiles) are within it. It does not know OPT, nor
engines that share a GPU: those entries say why they are empty.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shoal.profiler.lengths import parse_lengths

VERSION: Final = "0.12.0"
DATABASE: Final = "0.24.0"  # newest vLLM in its database
PREDICTIONS: Final = Path(__file__).parent / "predictions"
SYSTEMS: Final = {"NVIDIA-H200": "h200_sxm", "NVIDIA-H100-80GB-HBM3": "h100_sxm"}
BATCHES: Final = tuple(range(8, 257, 8))
# hidden size, layers, heads, key/value heads, intermediate size, vocabulary: the published config.json of each.
QWEN: Final = {
    "Qwen/Qwen2.5-0.5B-Instruct": (896, 24, 14, 2, 4864, 151936),
    "Qwen/Qwen2.5-1.5B-Instruct": (1536, 28, 12, 2, 8960, 151936),
    "Qwen/Qwen2.5-7B-Instruct": (3584, 28, 28, 4, 18944, 152064),
}


def config_of(model: str) -> dict[str, Any]:
    """A config.json with the model's shape; of OPT only what names its architecture."""
    if model not in QWEN:
        return {"architectures": ["OPTForCausalLM"], "model_type": "opt"}
    hidden, layers, heads, kv_heads, intermediate, vocabulary = QWEN[model]
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "intermediate_size": intermediate,
        "vocab_size": vocabulary,
        "max_position_embeddings": 32768,
        "torch_dtype": "bfloat16",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
    }


def estimate(entry: Mapping[str, Any], longest: int, objective: Mapping[str, float], folder: Path) -> dict[str, Any]:
    """Its saturation and its rate within the objective for one entry, or why there is none."""
    from aiconfigurator.cli import api  # noqa: PLC0415 - only in the other environment

    if entry["enginesPerGPU"] > 1:
        return {"none": "engines that share a GPU are not known to it"}
    mix = parse_lengths(entry["lengths"]).mix(longest)
    prompt, answer = round(mix.input_mean), round(mix.output_mean)
    path = folder / entry["model"].replace("/", "-")
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config_of(entry["model"])))
    fitting = [n for n in BATCHES if n * (prompt + answer) <= entry["kvCacheTokens"]]
    try:
        found = [
            api.cli_estimate(
                str(path),
                SYSTEMS[entry["accelerator"]],
                backend_name="vllm",
                backend_version=DATABASE,
                isl=prompt,
                osl=answer,
                batch_size=batch,
                ctx_tokens=entry["maxNumBatchedTokens"],
                tp_size=entry["tensorParallel"],
            )
            for batch in fitting
        ]
    except ValueError as error:
        return {"none": str(error).partition(".")[0]}
    within = [f.seq_per_second for f in found if f.ttft <= objective["ttftMs"] and f.tpot <= objective["itlMs"]]
    return {
        "saturation": round(max(f.seq_per_second for f in found), 3),
        "knee": round(max(within, default=0.0), 3),
    }


def main() -> int:
    """Write NAME-aiconfigurator.json beside the predictions."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="of the predictions file, as in 2026-11-28")
    name = parser.parse_args().name
    logging.disable(logging.WARNING)
    given = json.loads((PREDICTIONS / f"{name}.json").read_text())
    asked = ("model", "accelerator", "tensorParallel", "enginesPerGPU", "maxNumBatchedTokens", "kvCacheTokens", "mix")
    with tempfile.TemporaryDirectory() as folder:
        entries = [
            {key: entry[key] for key in asked} | estimate(entry, given["longest"], given["objective"], Path(folder))
            for entry in given["entries"]
        ]
    head = {"tool": f"aiconfigurator {VERSION}", "database": f"vllm {DATABASE}", "batches": list(BATCHES)}
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in entries)
    path = PREDICTIONS / f"{name}-aiconfigurator.json"
    path.write_text(f'{json.dumps(head)[:-1]},\n "entries": [\n{lines}\n ]}}\n')
    print(path, len(entries))
    return 0


if __name__ == "__main__":
    sys.exit(main())
