"""`python -m autoresearch_trainer <command>`: the trainer's programs."""

import sys

USAGE = """usage: python -m autoresearch_trainer COMMAND [ARGUMENTS]

commands:
  warm     start the process that runs trials; speaks JSON lines on stdin and stdout
  prepare  download or build a data set, tokenise it and write its shards
  gate     the sidecar of a trial's pod: training data, clock, artifact (AUTORESEARCH_TRIAL says which trial)
  train    the first process of a trial's pod: starts the candidate and watches it
  judge    scores what the candidate handed over and writes the result
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
    if command in ("gate", "train", "judge", "script"):
        return _pod(command, rest)
    if command in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    print(f"{command or 'nothing'!r} is not a command.\n{USAGE}", file=sys.stderr)
    return 2


def _pod(command: str, rest: list[str]) -> int:
    """The programs of a pod; `script` is what `train` starts a candidate's Python file with."""
    if command == "gate":
        from .pod.gate import main as run_gate

        run_gate()
    if command == "train":
        from .pod.train import main as run_train

        run_train()
    if command == "judge":
        from .pod.judge import main as run_judge

        return run_judge()
    from .pod.script import main as run_script

    return run_script(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
