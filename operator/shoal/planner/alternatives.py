"""Configurations nobody measured, next to one that was: another chunk, or more API servers.

The step model carries the row there, with the margin of a model. They are offered only where the measured one is held
up by just that: a latency objective (the chunk trades TTFT against ITL), or the API server.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from shoal.domain.configuration import Configuration
from shoal.domain.profile import LengthMix
from shoal.domain.reasons import ProfileState
from shoal.domain.service import EngineFacts, Objective
from shoal.planner.capacity import Basis, Rating, rate_row
from shoal.planner.rows import RowChoice

CHUNKS: Final = (512, 1024, 2048, 4096, 8192)
_TRUSTED: Final = (ProfileState.MEASURED, ProfileState.SIMULATED)

Rows = Mapping[Configuration, RowChoice]


def with_alternatives(
    chosen: Rows, engine: EngineFacts, lengths: LengthMix, objective: Objective
) -> dict[Configuration, RowChoice]:
    """The measured configurations, and those beside them that could do better. A measured one is never replaced."""
    found = dict(chosen)
    for configuration, choice in chosen.items():
        if choice.row.steps is None or choice.state not in _TRUSTED:
            continue
        rating = _rate(configuration, choice, engine, lengths, objective)
        if rating is None:
            continue
        for other in (*_other_chunks(configuration, lengths, rating), *_more_servers(configuration, engine, rating)):
            found.setdefault(other, choice)
    return found


def _rate(
    configuration: Configuration, choice: RowChoice, engine: EngineFacts, lengths: LengthMix, objective: Objective
) -> Rating | None:
    servers = max(configuration.api_servers, engine.api_servers)
    basis = Basis(choice.row, choice.state, choice.name, None, lengths, objective, choice.row.kv_cache_tokens, servers)
    return rate_row(basis)


def _other_chunks(configuration: Configuration, lengths: LengthMix, rating: Rating) -> Iterator[Configuration]:
    """A prompt that fits into either chunk looks the same in both: only chunks around the longer prompts count."""
    if rating.floor is None and rating.capacity.limit not in ("TTFT", "ITL"):
        return
    own = configuration.max_num_batched_tokens
    for chunk in CHUNKS:
        if chunk != own and chunk >= configuration.max_num_seqs and min(chunk, own) < 2 * lengths.input_p95:
            yield replace(configuration, max_num_batched_tokens=chunk)


def _more_servers(configuration: Configuration, engine: EngineFacts, rating: Rating) -> Iterator[Configuration]:
    """Twice, four times as many, up to what the EngineClass allows, while the API server binds."""
    if rating.curve.limit != "API server":
        return
    servers = 2 * max(configuration.api_servers, engine.api_servers)
    while servers <= engine.max_api_servers:
        yield replace(configuration, api_servers=servers)
        servers *= 2
