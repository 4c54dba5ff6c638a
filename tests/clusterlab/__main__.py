"""Command line of the test cluster; `scripts/cluster` is how people call it."""

from __future__ import annotations

import argparse
import sys

from clusterlab import playground, tools
from clusterlab.processes import NotReady


def main() -> int:
    """Returns the exit code: 0, or 1 with a sentence on standard error."""
    parser = argparse.ArgumentParser(prog="scripts/cluster", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build tool groups into the cache, once a machine")
    build.add_argument("groups", nargs="*", metavar="GROUP", help=f"default: all of {' '.join(tools.GROUPS)}")
    up = commands.add_parser("up", help="leave a cluster with simulated GPU nodes running in the background")
    up.add_argument("--nodes", type=int, default=2, help="simulated nodes (default 2)")
    up.add_argument("--gpus", type=int, default=8, help="GPUs on each; 0 makes CPU nodes (default 8)")
    up.add_argument("--product", default="NVIDIA-H100-80GB-HBM3", help="value of the label nvidia.com/gpu.product")
    commands.add_parser("down", help="end it and delete what it left")
    serve = commands.add_parser("serve")  # what `up` starts in the background
    for name, kind in (("nodes", int), ("gpus", int), ("product", str)):
        serve.add_argument(f"--{name}", type=kind, required=True)
    chosen = parser.parse_args()
    try:
        if chosen.command == "build":
            tools.build(chosen.groups or tools.GROUPS)
        elif chosen.command == "up":
            playground.up(chosen.nodes, chosen.gpus, chosen.product)
        elif chosen.command == "down":
            playground.down()
        else:
            playground.serve(chosen.nodes, chosen.gpus, chosen.product)
    except (tools.ToolsMissing, NotReady, playground.Trouble) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
