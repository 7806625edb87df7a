"""`python -m e2e.demo`: see `make demo`.

Exit status: 0 every claim held; 1 a claim failed; 2 the stage could not be set.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import uvloop
from rich.console import Console

from e2e.demo.play import NODES, Play
from e2e.demo.screen import make_report
from e2e.demo.stage import StageError
from e2e.demo.summary import Summary
from e2e.devcluster import Config, DevCluster, DevClusterError
from e2e.devcluster.binary import BuildError
from e2e.devcluster.cluster import launch_supervisor
from e2e.devcluster.state import state_root
from shoal.cli.console import make_console

NAME = "demo"
LOOK_AROUND = """
The cluster keeps running. Look around:
  export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
  kubectl get msvc,gpupools -A
  kubectl describe msvc chat -n team-a
  kubectl get pods -n team-a -L shoal.dev/variant
  shoal explain team-a/chat
  curl {address}/chat/v1/models
Make a GPU hot:   python -m e2e.devcluster heat gpu-a 0 0.6 --name {name}
Stop it:          python -m e2e.devcluster down --name {name}
"""


def main() -> int:
    """Run the demo; return an exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m e2e.demo", description="The main job in two and a half minutes, most of it traffic."
    )
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object and nothing else")
    parser.add_argument("--keep", action="store_true", help="leave the cluster running and print how to look around")
    options = parser.parse_args()
    console = make_console(stderr=options.json)
    try:
        return _run(console, as_json=options.json, keep=options.keep)
    except (StageError, DevClusterError, BuildError) as error:
        console.print(f"[bold red]The demo could not run:[/] {error}")
        return 2
    except KeyboardInterrupt:
        console.print("stopped")
        return 130


def _run(console: Console, *, as_json: bool, keep: bool) -> int:
    # A kept cluster needs a name to be found by; otherwise it lives as long as we do.
    config = Config(nodes=NODES)
    if keep:
        directory = state_root() / NAME
        directory.mkdir(parents=True, exist_ok=True)
        launch_supervisor(directory, config)
        cluster = DevCluster.attach(NAME)
        summary, address = uvloop.run(_play(cluster, console))
    else:
        with DevCluster(config) as cluster:
            summary, address = uvloop.run(_play(cluster, console))
    if as_json:
        print(json.dumps(summary.as_json()))
    else:
        console.print(make_report(summary))
    if keep:
        console.print(
            LOOK_AROUND.format(
                kubeconfig=cluster.admin_kubeconfig_path,
                programs=Path(sys.executable).parent,
                address=address,
                name=NAME,
            ),
            highlight=False,
            soft_wrap=True,
        )
    return 0 if summary.held else 1


async def _play(cluster: DevCluster, console: Console) -> tuple[Summary, str]:
    async with Play(cluster, console) as play:
        return await play.run()


if __name__ == "__main__":
    sys.exit(main())
