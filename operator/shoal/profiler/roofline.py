"""The datasheet's word on an engine's step times: where measured points do not tell a term, it stays near this."""

from __future__ import annotations

from shoal.domain.profile import StepModel
from shoal.planner.catalog import model_facts
from shoal.planner.datasheets import known_datasheet
from shoal.planner.estimate import estimate_steps


def roofline_steps(
    model: str, accelerator: str, *, parameters: float | None, tensor_parallel: int, engines_per_gpu: int
) -> StepModel | None:
    """Step times of one engine by its GPU's datasheet; None when nothing is known of the model or the GPU.

    Engines that share a GPU have an equal part of it.
    """
    facts, datasheet = model_facts(model, parameters), known_datasheet(accelerator)
    if facts is None or datasheet is None:
        return None
    steps = estimate_steps(facts, datasheet, tensor_parallel)
    return StepModel(
        alpha_ms=steps.alpha_ms * engines_per_gpu,
        beta_ms_per_token=steps.beta_ms_per_token * engines_per_gpu,
        gamma_ms_per_kv_token=steps.gamma_ms_per_kv_token * engines_per_gpu,
    )
