"""Pods of small Python programs, and what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from e2e.devcluster import DevCluster, Object

SLEEP = "import time; time.sleep(600)"
# Answers 200 once the file `ready` is in its directory, 503 before; the body is the pod's name.
SERVER = """
import http.server, os, pathlib
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if pathlib.Path("ready").exists() else 503)
        self.end_headers()
        self.wfile.write(os.environ["POD_NAME"].encode())
http.server.HTTPServer((os.environ["POD_IP"], 8000), Handler).serve_forever()
"""
POD_ENV = [
    {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
]


class Pods:
    """Makes pods in one namespace and waits for what becomes of them."""

    def __init__(self, cluster: DevCluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace

    def path(self, name: str) -> str:
        return f"/api/v1/namespaces/{self.namespace}/pods/{name}"

    def make(self, name: str, *containers: Object, labels: dict[str, str] | None = None, **spec: Any) -> Object:
        spec.setdefault("terminationGracePeriodSeconds", 5)
        metadata = {"name": name, "labels": labels or {}}
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": metadata,
            "spec": {"containers": list(containers), **spec},
        }
        return self.cluster.apply(pod, namespace=self.namespace)[0]

    def wait(self, name: str, holds: Callable[[Object], bool], *, timeout: float = 30.0) -> Object:
        return self.cluster.wait_for(self.path(name), holds, timeout=timeout)

    def wait_ready(self, name: str) -> Object:
        return self.wait(name, is_ready)

    def log(self, name: str, container: str = "main", **query: str) -> str:
        params = {"container": container, **query}
        return str(self.cluster.request("GET", f"{self.path(name)}/log", params=params)["text"])

    def wait_log(self, name: str, text: str, *, timeout: float = 30.0) -> None:
        deadline = time.monotonic() + timeout
        while text not in self.log(name):
            assert time.monotonic() < deadline, f"{name} did not print {text!r}"
            time.sleep(0.05)

    def delete(self, name: str) -> None:
        self.cluster.request("DELETE", self.path(name))


def python(code: str, *, name: str = "main", **fields: Any) -> Object:
    """Return a container that runs `code`."""
    return {"name": name, "image": "registry.example/python:3", "command": ["python3", "-c", code], **fields}


def is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def status_of(pod: Object, container: str = "main") -> Object:
    status = pod.get("status") or {}
    listed = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    found: Object = next((s for s in listed if s["name"] == container), {"state": {}, "restartCount": 0})
    return found
