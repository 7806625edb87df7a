"""Reads engines out of a Prometheus that scrapes them anyway: one query for all services, in place of many reads.

Labels that the query relies on, as a PodMonitor with `podTargetLabels: [shoal.dev/model-service]` gives them:
`namespace`, `pod`, `container` (`engine-<i>`) and `shoal_dev_model_service`. Series of pods that are not among the
targets, or that name another service, are left out. Routers and GPU agents are few, and are still read directly.
"""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import requests
from prometheus_api_client import PrometheusConnect
from prometheus_api_client.exceptions import PrometheusApiClientException
from urllib3.util.retry import Retry

from shoal.render.names import engine_name
from shoal.telemetry.direct import DirectSource
from shoal.telemetry.engine_page import VALUES, PageBuilder, metric_names, parse_edge
from shoal.telemetry.envoy_stats import ClusterCounters
from shoal.telemetry.gpu import GpuReading
from shoal.telemetry.sources import EngineReading, SourceError
from shoal.telemetry.targets import AgentTarget, EngineTarget, RouterTarget

SERVICE_LABEL: Final = "shoal_dev_model_service"
_GROUP: Final = f"namespace, pod, container, {SERVICE_LABEL}"
_METRIC: Final = "shoal_metric"
_READ_AT: Final = "shoal:read_at"
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_WRONG_ANSWER: Final = (requests.RequestException, PrometheusApiClientException, ValueError, KeyError, TypeError)

Series = Mapping[str, Any]  # {"metric": labels, "value": [time of the query, value as text]}
PodEngine = tuple[str, str, str]  # namespace, pod, container


class PrometheusSource:
    """A source whose engine readings come from `url`.

    `matchers` are labels that every series must have, such as the cluster's name in a Prometheus of several clusters.
    A query is sent at most every `every_seconds`, for numbers change only with a scrape; `lag_seconds` is how old they
    may be.
    """

    def __init__(
        self,
        url: str,
        *,
        matchers: Mapping[str, str] | None = None,
        timeout_seconds: float = 4.0,
        every_seconds: float = 15.0,
        lag_seconds: float = 60.0,
        direct: DirectSource | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.lag_seconds = lag_seconds
        self._url = url
        self._query = make_query(matchers or {})
        self._timeout = timeout_seconds
        self._every = every_seconds
        self._direct = direct or DirectSource()
        self._clock = clock
        self._client = PrometheusConnect(url, retry=Retry(0), timeout=timeout_seconds, method="POST")
        self._running: asyncio.Future[list[Series]] | None = None
        self._answered_at = -math.inf

    async def read_engines(self, targets: Sequence[EngineTarget]) -> Mapping[EngineTarget, EngineReading]:
        """What is new since the last query; nothing when it is too early to ask again. Raises SourceError."""
        if not targets or self._clock() - self._answered_at < self._every:
            return {}
        series = await self._ask()
        self._answered_at = self._clock()
        return make_readings(series, targets)

    async def read_routers(
        self, targets: Sequence[RouterTarget]
    ) -> Mapping[RouterTarget, Mapping[str, ClusterCounters]]:
        """Directly."""
        return await self._direct.read_routers(targets)

    async def read_agents(self, targets: Sequence[AgentTarget]) -> Mapping[AgentTarget, tuple[GpuReading, ...]]:
        """Directly."""
        return await self._direct.read_agents(targets)

    async def close(self) -> None:
        """Close all connections."""
        await self._direct.close()
        self._client.close()

    async def _ask(self) -> list[Series]:
        """Send the query from a thread; one that hangs is waited for in the rounds to come, not joined by others."""
        if self._running is None or self._running.done():
            self._running = asyncio.ensure_future(asyncio.to_thread(self._client.custom_query, self._query))
        try:
            return await asyncio.wait_for(asyncio.shield(self._running), self._timeout)
        except TimeoutError:
            raise SourceError(f"Prometheus at {self._url} did not answer within {self._timeout:g} s") from None
        except _WRONG_ANSWER as error:
            raise SourceError(f"Prometheus at {self._url} did not answer: {_brief(error)}") from error


def make_query(matchers: Mapping[str, str]) -> str:
    """The one query: every wanted sample of every engine, and when each engine was scraped last."""
    for label in matchers:
        if not _LABEL_NAME.fullmatch(label):
            raise ValueError(f"not a label name: {label!r}")
    more = "".join(f", {label}={quote(value)}" for label, value in sorted(matchers.items()))
    largest = VALUES["kv_usage"]
    summed = [name for name in metric_names() if name not in largest]

    def select(names: Sequence[str]) -> str:
        return f'{{__name__=~"{"|".join(names)}", {SERVICE_LABEL}!=""{more}}}'

    def name(query: str) -> str:
        """`or` looks at all labels but the metric's name, so that goes into a label of its own."""
        return f'label_replace({query}, "{_METRIC}", "$1", "__name__", "(.+)")'

    scraped = f"min by ({_GROUP}) (timestamp({select(VALUES['running'])}))"
    return " or ".join(
        (
            name(f"sum by (__name__, le, {_GROUP}) ({select(summed)})"),
            name(f"max by (__name__, {_GROUP}) ({select(largest)})"),
            f'label_replace({scraped}, "{_METRIC}", "{_READ_AT}", "", "")',
        )
    )


def quote(value: str) -> str:
    """A string of PromQL. Whatever is in it stays inside."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def make_readings(series: Sequence[Series], targets: Sequence[EngineTarget]) -> dict[EngineTarget, EngineReading]:
    """Pages of the targets. Engines without a scrape time, or with one in the future, are left out."""
    wanted = _index(targets)
    pages: dict[EngineTarget, PageBuilder] = defaultdict(PageBuilder)
    ages: dict[EngineTarget, float] = {}
    for one in series:
        labels, value, asked_at = one["metric"], parse_edge(one["value"][1].encode()), one["value"][0]
        target = wanted.get((labels.get("namespace", ""), labels.get("pod", ""), labels.get("container", "")))
        if target is None or labels.get(SERVICE_LABEL) != target.service.name:
            continue
        name, edge = labels.get(_METRIC, ""), labels.get("le")
        if name == _READ_AT:
            if value is not None and math.isfinite(value) and value <= asked_at:
                ages[target] = asked_at - value
        else:
            finite = value if value is not None and math.isfinite(value) else None
            pages[target].add(name, None if edge is None else parse_edge(edge.encode()), finite)
    return {target: EngineReading(page.build(), ages[target]) for target, page in pages.items() if target in ages}


def _index(targets: Sequence[EngineTarget]) -> dict[PodEngine, EngineTarget]:
    """Targets by what a series says of itself. The container may go unsaid where a pod has one engine."""
    engines = Counter((target.service.namespace, target.pod) for target in targets)
    index: dict[PodEngine, EngineTarget] = {}
    for target in targets:
        pod = (target.service.namespace, target.pod)
        index[*pod, engine_name(target.engine)] = target
        if engines[pod] == 1:
            index[*pod, ""] = target
    return index


def _brief(error: Exception) -> str:
    """The first line of what may be a long story."""
    text = str(error).strip().splitlines()
    return text[0][:200] if text else type(error).__name__
