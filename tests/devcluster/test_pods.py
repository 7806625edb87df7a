"""Pods as processes keep the promises of a kubelet."""

from __future__ import annotations

import json
import time
import urllib.request
from pathlib import Path

import pytest
from devcluster_pods import POD_ENV, SERVER, SLEEP, Pods, is_ready, python, status_of

from e2e.devcluster import DevCluster, Object

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]


def test_environment_and_expansion(devcluster: DevCluster, pods: Pods) -> None:
    devcluster.apply(
        [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"COLOUR": "red"}},
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hidden"}, "stringData": {"key": "s3cret"}},
        ],
        namespace=pods.namespace,
    )
    environment = [
        *POD_ENV,
        {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
        {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "hidden", "key": "key"}}},
        {"name": "JOINED", "value": "$(COLOUR)-$(POD_NAME)-$$(POD_NAME)-$(UNKNOWN)"},
    ]
    container = python(
        "import json, os, sys; print(json.dumps([dict(os.environ), sys.argv[1:], open(sys.argv[2]).read()]))",
        env=environment,
        envFrom=[{"configMapRef": {"name": "settings"}}],
        args=["$(COLOUR)", "/etc/settings/COLOUR"],
        volumeMounts=[{"name": "files", "mountPath": "/etc/settings"}],
    )
    volumes = [{"name": "files", "configMap": {"name": "settings"}}]
    pods.make("env", container, labels={"app": "web"}, restartPolicy="Never", volumes=volumes)
    pod = pods.wait("env", lambda p: p["status"].get("phase") == "Succeeded")
    variables, arguments, content = json.loads(pods.log("env"))
    assert variables["POD_IP"] == pod["status"]["podIP"]
    assert variables["NODE"] == pod["spec"]["nodeName"]
    assert (variables["LABEL"], variables["SECRET"], variables["COLOUR"]) == ("web", "s3cret", "red")
    assert variables["JOINED"] == "red-env-$(POD_NAME)-$(UNKNOWN)"
    assert arguments[0] == content == "red"
    assert status_of(pod)["state"]["terminated"]["reason"] == "Completed"


def test_a_socket_fits_into_the_directory_for_temporary_files(pods: Pods) -> None:
    code = (
        "import os, socket, tempfile, uuid; path = f'{tempfile.gettempdir()}/{uuid.uuid4()}-{uuid.uuid4()}'; "
        "socket.socket(socket.AF_UNIX).bind(path); print(os.path.realpath(path))"
    )
    mount = {"name": "temporary", "mountPath": "/tmp"}
    pods.make("socket", python(code, volumeMounts=[mount]), restartPolicy="Never",
              volumes=[{"name": "temporary", "emptyDir": {}}])  # fmt: skip
    pods.wait("socket", lambda p: p["status"].get("phase") == "Succeeded")
    assert len(pods.log("socket").strip()) > 107
    assert "/volumes/temporary/" in pods.log("socket")


def test_a_missing_config_map_is_waited_for(devcluster: DevCluster, pods: Pods) -> None:
    pods.make("late", python("import os; print(os.environ['A'])", envFrom=[{"configMapRef": {"name": "later"}}]),
              restartPolicy="Never")  # fmt: skip
    waiting = pods.wait("late", lambda p: "reason" in status_of(p)["state"].get("waiting", {})
                        and status_of(p)["state"]["waiting"]["reason"] == "CreateContainerConfigError")  # fmt: skip
    assert "later" in status_of(waiting)["state"]["waiting"]["message"]
    later = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "later"}, "data": {"A": "here"}}
    devcluster.apply(later, namespace=pods.namespace)
    pods.wait("late", lambda p: p["status"].get("phase") == "Succeeded")
    assert pods.log("late").strip() == "here"


def test_an_unknown_image_cannot_be_pulled(pods: Pods) -> None:
    pods.make("unknown", {"name": "main", "image": "registry.example/nobody/knows:1"})
    pod = pods.wait("unknown", lambda p: status_of(p)["state"].get("waiting", {}).get("reason") == "ErrImagePull")
    assert "knows" in status_of(pod)["state"]["waiting"]["message"]


def test_probes_decide_started_ready_and_alive(devcluster: DevCluster, pods: Pods) -> None:
    check = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1}
    server = python(
        "import pathlib, threading, time\n"
        "threading.Timer(1.2, lambda: pathlib.Path('ready').touch()).start()\n" + SERVER,
        env=POD_ENV,
        ports=[{"name": "http", "containerPort": 8000}],
        startupProbe={**check, "failureThreshold": 30},
        readinessProbe=run_every_second("open('ready')"),
        livenessProbe={**run_every_second("import os; assert not os.path.exists('dead')"), "failureThreshold": 1},
    )
    pods.make("probed", server)
    early = pods.wait("probed", lambda p: "running" in status_of(p)["state"])
    assert not status_of(early)["started"]
    assert not is_ready(early)
    ready = pods.wait_ready("probed")
    assert status_of(ready)["started"]
    directory = devcluster.directory / "pods" / ready["metadata"]["uid"] / "containers" / "main"
    (directory / "dead").touch()
    dead = pods.wait("probed", lambda p: status_of(p)["restartCount"] == 1)
    (directory / "dead").unlink()
    assert status_of(dead)["lastState"]["terminated"]["exitCode"] == 143
    events = devcluster.request("GET", f"/api/v1/namespaces/{pods.namespace}/events")["items"]
    assert {"Unhealthy", "Killing"} <= {event["reason"] for event in events}


def test_init_containers_and_sidecars_start_in_order(pods: Pods) -> None:
    stamp = "import time; print(time.time(), flush=True)\n"
    late = run_every_second("open('ready')")
    slow = stamp + "time.sleep(0.5); open('ready', 'w'); time.sleep(600)"
    pods.make(
        "ordered",
        python(stamp + "time.sleep(600)"),
        initContainers=[
            python(stamp, name="first"),
            python(slow, name="side", restartPolicy="Always", startupProbe={**late, "failureThreshold": 30}),
            python(stamp, name="second"),
        ],
    )
    pod = pods.wait_ready("ordered")
    times = [float(pods.log("ordered", name)) for name in ("first", "side", "second", "main")]
    assert times == sorted(times)
    assert times[2] - times[1] > 0.5
    assert status_of(pod, "first")["state"]["terminated"]["exitCode"] == 0
    assert status_of(pod, "side")["ready"]


def test_the_end_of_a_pod_keeps_the_order(devcluster: DevCluster, pods: Pods) -> None:
    """All preStop hooks at once; SIGTERM to the main container, then to sidecars, the last started first."""
    log = devcluster.directory / f"order-{pods.namespace}"
    note = f"import signal, sys, time; log = open({str(log)!r}, 'a', buffering=1)\n"
    code = note + (
        "name = sys.argv[1]\n"
        "def stop(*_): log.write(f'term {name}\\n'); time.sleep(0.2); log.write(f'gone {name}\\n'); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop); print('up', flush=True)\n"
        "while True: time.sleep(60)\n"
    )
    hook = {"preStop": {"exec": {"command": ["python3", "-c", note + "log.write('hook\\n'); time.sleep(0.8)"]}}}

    def container(name: str, **fields: object) -> dict[str, object]:
        return python(code, name=name, args=[name], lifecycle=hook, **fields)

    pods.make("end", container("main"), terminationGracePeriodSeconds=20,
              initContainers=[container(name, restartPolicy="Always") for name in ("one", "two")])  # fmt: skip
    pods.wait_ready("end")
    for name in ("one", "two", "main"):
        while "up" not in pods.log("end", name):
            time.sleep(0.05)
    began = time.monotonic()
    pods.delete("end")
    devcluster.wait_until_gone(pods.path("end"))
    lines = log.read_text().split("\n")[:-1]
    assert lines == ["hook"] * 3 + [f"{what} {name}" for name in ("main", "two", "one") for what in ("term", "gone")]
    assert time.monotonic() - began < 20  # its grace


def test_grace_ends_with_sigkill(devcluster: DevCluster, pods: Pods) -> None:
    stubborn = python("import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\n"
                      "while True: time.sleep(60)")  # fmt: skip
    pods.make("stubborn", stubborn, terminationGracePeriodSeconds=1)
    pods.wait_ready("stubborn")
    pods.wait_log("stubborn", "up")  # before, SIGTERM would find no handler
    began = time.monotonic()
    pods.delete("stubborn")
    devcluster.wait_until_gone(pods.path("stubborn"))
    assert 1.0 < time.monotonic() - began < 30.0  # its grace, and not the usual one


def test_a_crash_loop_backs_off_and_says_why(pods: Pods) -> None:
    pods.make("crash", python("print('no weights for this model'); raise SystemExit(3)",
                              terminationMessagePolicy="FallbackToLogsOnError"))  # fmt: skip
    pod = pods.wait("crash", lambda p: status_of(p)["state"].get("waiting", {}).get("reason") == "CrashLoopBackOff")
    ended = status_of(pod)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["message"]) == (3, "Error", "no weights for this model\n")
    assert pod["status"]["phase"] == "Running"
    pods.wait("crash", lambda p: status_of(p)["restartCount"] >= 3)


def test_a_kill_from_outside_is_a_crash(devcluster: DevCluster, pods: Pods) -> None:
    pods.make("victim", python("print('run', flush=True)\n" + SLEEP))
    pods.wait_ready("victim")
    devcluster.kill(pods.namespace, "victim")
    pod = pods.wait("victim", lambda p: status_of(p)["restartCount"] == 1 and is_ready(p))
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137
    assert pods.log("victim", previous="true") == "run\n"


def test_logs_tail_and_follow(devcluster: DevCluster, pods: Pods) -> None:
    code = "import time\nfor i in range(5): print('line', i, flush=True)\ntime.sleep(0.5); print('end')"
    pods.make("talk", python(code), restartPolicy="Never")
    pods.wait("talk", lambda p: "running" in status_of(p)["state"])
    assert pods.log("talk", follow="true").endswith("line 4\nend\n")
    assert pods.log("talk", tailLines="2") == "line 4\nend\n"


def test_a_job_completes(devcluster: DevCluster, namespace: str) -> None:
    side = python(SLEEP, name="side", restartPolicy="Always")
    spec = {"restartPolicy": "Never", "containers": [python("print('done')")], "initContainers": [side],
            "terminationGracePeriodSeconds": 2}  # fmt: skip
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": {"template": {"spec": spec}}}
    devcluster.apply(job, namespace=namespace)
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs/job"
    devcluster.wait_for(path, lambda j: j.get("status", {}).get("succeeded") == 1, timeout=20)


def test_the_token_of_a_pod_is_its_own(devcluster: DevCluster, pods: Pods) -> None:
    grant = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": {"name": "view"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": pods.namespace}],
    }
    devcluster.apply(grant, namespace=pods.namespace)
    code = f"""
import asyncio, os, pathlib
from e2e.devcluster import ApiClient
async def main():
    async with ApiClient.from_kubeconfig(pathlib.Path(os.environ["KUBECONFIG"])) as client:
        print([p["metadata"]["name"] for p in await client.items("/api/v1/namespaces/{pods.namespace}/pods")])
asyncio.run(main())
"""
    root = {"name": "PYTHONPATH", "value": str(ROOT)}
    pods.make("reader", python(code, env=[root]), restartPolicy="Never")
    pods.wait("reader", lambda p: p["status"].get("phase") in ("Succeeded", "Failed"))
    assert pods.log("reader").strip() == "['reader']"


def test_a_service_reaches_ready_pods_only(devcluster: DevCluster, pods: Pods) -> None:
    check = {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1}
    container = python(SERVER, env=POD_ENV, ports=[{"name": "http", "containerPort": 8000}], readinessProbe=check)
    for name in ("a", "b", "c"):
        pods.make(name, container, labels={"app": "web"})
    spec = {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}
    (made,) = devcluster.apply(service, namespace=pods.namespace)
    for name in ("a", "b"):
        pod = pods.wait(name, lambda p: "running" in status_of(p)["state"])
        (devcluster.directory / "pods" / pod["metadata"]["uid"] / "containers" / "main" / "ready").touch()
        pods.wait_ready(name)
    url = f"http://{made['spec']['clusterIP']}/"
    assert {fetch(url) for _ in range(10)} == {"a", "b"}


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


def run_every_second(code: str) -> Object:
    """Return a probe that runs a program."""
    return {"exec": {"command": ["python3", "-c", code]}, "periodSeconds": 1, "timeoutSeconds": 5}


def test_a_volume_claim_outlives_its_pod(devcluster: DevCluster, pods: Pods) -> None:
    claim = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "cache"},
        "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    devcluster.apply(claim, namespace=pods.namespace)
    mount = {
        "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
        "env": [{"name": "FILE", "value": "/cache/weights"}],
    }
    volumes = [{"name": "cache", "persistentVolumeClaim": {"claimName": "cache"}}]
    for name, code in (
        ("writer", "import os; open(os.environ['FILE'], 'w').write('bytes')"),
        ("reader", "import os; print(open(os.environ['FILE']).read())"),
    ):
        pods.make(name, python(code, **mount), restartPolicy="Never", volumes=volumes)
        pods.wait(name, lambda p: p["status"].get("phase") == "Succeeded")
    assert pods.log("reader") == "bytes\n"
