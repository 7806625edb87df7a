"""The page of `shoal profile report`: what the rows of profiles say, as three pictures and a table."""

from __future__ import annotations

import html
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shoal.api.model_profile import ModelProfile, ProfilePoint, ProfileRowSpec
from shoal.profiler.errors import ProfilerError
from shoal.profiler.tools import row_label

_STYLE = (
    "body{font:15px sans-serif;max-width:72em;margin:2em auto}table{border-collapse:collapse}"
    "td,th{padding:.2em .7em;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left}"
)


@dataclass(frozen=True, slots=True)
class Series:
    """One row, per GPU: points by rising rate. Tokens are those of answers; watts of the GPUs of a replica."""

    label: str
    row: ProfileRowSpec

    def tokens_per_gpu(self, point: ProfilePoint) -> float:
        """Tokens per second and GPU."""
        row = self.row
        return point.requests_per_second * row.output_tokens.mean * row.engines_per_gpu / row.tensor_parallel

    @staticmethod
    def tokens_per_user(point: ProfilePoint) -> float:
        """Tokens per second that one user sees."""
        return 1000 / point.itl_milliseconds.mean

    @property
    def served(self) -> tuple[ProfilePoint, ...]:
        """Points below saturation: beyond it, latencies are those of the queue."""
        top = self.row.overload_rate
        return tuple(p for p in self.row.points or () if top is None or p.requests_per_second <= 1.05 * top)


def make_series(profiles: Sequence[ModelProfile]) -> list[Series]:
    """All rows with points. Raises ProfilerError when there are none."""
    many = len({profile.spec.model.name for profile in profiles}) > 1
    series = [
        Series(f"{profile.spec.model.name.rpartition('/')[2]} {row_label(row)}" if many else row_label(row), row)
        for profile in profiles
        for row in profile.spec.rows
        if row.points
    ]
    if not series:
        raise ProfilerError("no row of these profiles has latencies at a rate: there is nothing to draw")
    return series


def write_report(profiles: Sequence[ModelProfile], path: Path) -> None:
    """Write .html (pictures and table in one file) or a picture (.png, .svg, .pdf). Raises ProfilerError."""
    figure = _draw(make_series(profiles))
    try:
        if path.suffix == ".html":
            picture = io.StringIO()
            figure.savefig(picture, format="svg")
            svg = picture.getvalue()
            path.write_text(_page(profiles, svg[svg.index("<svg") :]), encoding="utf-8")
        else:
            figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise ProfilerError(f"{path} cannot be written ({error}): name a .html, .png, .svg or .pdf") from error


def _draw(series: Sequence[Series]) -> Any:
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - measuring needs no pictures
    except ImportError as error:
        raise ProfilerError("pictures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(13, 9), layout="constrained")
    axes = figure.subplots(2, 2)
    for one in series:
        points = one.served
        rates = [point.requests_per_second for point in points]
        axes[0][0].plot(
            [one.tokens_per_user(p) for p in points], [one.tokens_per_gpu(p) for p in points], "o-", label=one.label
        )
        axes[0][1].plot(rates, [p.ttft_milliseconds.p95 for p in points], "o-", label=one.label)
        axes[1][1].plot(rates, [p.itl_milliseconds.p95 for p in points], "o-", label=one.label)
        with_power = [p for p in one.row.points or () if p.watts is not None]
        if with_power:
            axes[1][0].plot([one.tokens_per_gpu(p) for p in with_power], [p.watts for p in with_power], "o-")
        else:
            axes[1][0].plot([], [], "o-")  # the colours stay in step
    axes[0][0].set(title="frontier", xlabel="tokens/s that one user sees", ylabel="tokens/s per GPU")
    axes[0][1].set(title="TTFT, p95", xlabel="requests/s of one engine", ylabel="ms")
    axes[1][1].set(title="ITL, p95", xlabel="requests/s of one engine", ylabel="ms")
    axes[1][0].set(title="power", xlabel="tokens/s per GPU", ylabel="watts of a replica")
    for one_axes in axes.flat:
        one_axes.set_ylim(bottom=0)
        one_axes.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    return figure


def _page(profiles: Sequence[ModelProfile], svg: str) -> str:
    parts = [f"<!doctype html><meta charset=utf-8><title>Profiles</title><style>{_STYLE}</style>"]
    for profile in profiles:
        spec = profile.spec
        parts.append(
            f"<h1>{_text(spec.model.name)}</h1><p>{_text(spec.accelerator)}, {_text(spec.engine.name)} "
            f"{_text(spec.engine.version)}, <b>{_text(spec.source)}</b></p>"
        )
        if spec.provenance is not None:
            parts.append("<p>" + "<br>".join(_text(f"{k}: {v}") for k, v in spec.provenance.to_dict().items()) + "</p>")
    heads = ("row", "saturated, requests/s", "alpha ms", "beta ms", "gamma ms", "fit rms", "KV tokens", "notes")
    parts.append("<table><tr>" + "".join(f"<th>{head}" for head in heads))
    parts += [_table_row(row) for profile in profiles for row in profile.spec.rows]
    parts.append(f"</table>{svg}")
    return "\n".join(parts)


def _table_row(row: ProfileRowSpec) -> str:
    return "<tr>" + "".join(f"<td>{_text(cell)}" for cell in _cells(row))


def _cells(row: ProfileRowSpec) -> Iterator[str]:
    steps, errors = row.steps, row.step_errors
    yield row_label(row)
    yield "" if row.overload_rate is None else f"{row.overload_rate:.4g}"
    for name in ("alpha_ms", "beta_ms_per_token", "gamma_ms_per_kv_token"):
        error = getattr(errors, name) if errors is not None else None
        value = "" if steps is None else f"{getattr(steps, name):.4g}"
        yield value + (f" ± {error:.2g}" if error is not None and value else "")
    yield "" if errors is None else f"{errors.relative_rms:.1%}"
    yield f"{row.kv_cache_tokens:.0f}"
    yield (row.provenance.notes if row.provenance is not None else None) or ""


def _text(value: object) -> str:
    return html.escape(str(value))
