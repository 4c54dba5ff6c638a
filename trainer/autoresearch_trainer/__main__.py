"""`python -m autoresearch_trainer <command>`: the trainer's programs."""

import sys

USAGE = """usage: python -m autoresearch_trainer COMMAND [ARGUMENTS]

commands:
  warm     start the process that runs trials; speaks JSON lines on stdin and stdout
  prepare  download or build a data set, tokenise it and write its shards
"""


def main(arguments: list[str]) -> int:
    """Runs the command named first; returns the exit code."""
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command == "warm" and not rest:
        from .warm import main as run_warm

        run_warm()
    if command == "prepare":
        from .data.cli import main as run_prepare

        return run_prepare(rest)
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    print(f"{command or 'nothing'!r} is not a command.\n{USAGE}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
