"""The process tree of one trial, from the supervisor's side: started, heard of, and ended as one."""

import json
import os
import signal
import socket
import sys
from contextlib import suppress

from . import launcher, preparation
from .sandbox import kernel, namespace
from .spec import TrialSpec


class TrialTree:
    """The launcher and everything under it. The caller must be a subreaper (PR_SET_CHILD_SUBREAPER)."""

    def __init__(
        self, spec: TrialSpec, folders: preparation.TrialFolders, gate_socket: socket.socket, output: int
    ) -> None:
        """Forks a stage that enters the namespaces, and from it the launcher, which this process then adopts.

        The stage exists because a process that has entered a pid namespace for its children can never fork into its own
        again, and this one still has a judge to start. Raises OSError when the tree could not be started.
        """
        ours, theirs = socket.socketpair()
        sys.stdout.flush()
        sys.stderr.flush()
        stage = os.fork()
        if stage == 0:
            ours.close()
            _stage(spec, folders, launcher.Descriptors(gate_socket.fileno(), output, theirs.fileno()))
        theirs.close()
        line = b""
        while not line.endswith(b"\n"):
            piece = ours.recv(4096)
            if not piece:
                raise OSError("the trial's first process could not be started")
            line += piece
        os.waitpid(stage, 0)
        told = json.loads(line)
        self.root: int = told["pid"]
        """The launcher; 0 once the tree has ended."""
        self._kind: str = told["tree"]
        ours.setblocking(False)
        self.connection = ours
        """Where the launcher's JSON lines arrive."""

    def go(self) -> None:
        """Lets the launcher start the candidate; until then it waits."""
        self.connection.send(b"g")

    def end(self) -> None:
        """Kills whatever is left of the tree and returns when it is gone."""
        if not self.root:
            return
        if self._kind == namespace.SWEEP:
            namespace.sweep(self.root, include_root=True)
        with suppress(ProcessLookupError):
            os.kill(self.root, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.root, 0)  # for PID 1 of a namespace this returns when all of it has ended
        self.root = 0
        if self._kind == namespace.SWEEP:
            namespace.sweep(os.getpid(), include_root=False)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _stage(spec: TrialSpec, folders: preparation.TrialFolders, descriptors: launcher.Descriptors) -> None:
    """Between the supervisor and the launcher: enters the namespaces, forks, says who was born, ends."""
    code = 1
    try:
        kernel.die_with_parent()
        tree = namespace.enter()
        child = os.fork()
        if child == 0:
            places = launcher.Folders(folders.run_dir, folders.temporary)
            os._exit(launcher.main(spec, places, descriptors, tree))
        os.write(descriptors.control, json.dumps({"pid": child, "tree": tree}).encode() + b"\n")
        code = 0
    finally:
        os._exit(code)
