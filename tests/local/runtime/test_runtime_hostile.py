"""What hostile candidates try with processes, files and the gate; each ends with its own reason and leaves nothing."""

import json
import signal
from pathlib import Path

from warmdriver import HONEST, MODEL, WarmProcess


def test_killing_or_tracing_the_parent_does_nothing(warm: WarmProcess) -> None:
    result = warm.run("""
        import ctypes, os, signal
        for pid in {1, os.getppid()}:
            for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGSTOP):
                try:
                    os.kill(pid, number)
                    if pid == os.getppid(): print("SENT", number)
                except OSError as error:
                    print("refused", error.errno)
        libc = ctypes.CDLL(None, use_errno=True)
        print("ptrace", libc.ptrace(16, os.getppid(), 0, 0), ctypes.get_errno())
        try:
            open(f"/proc/{os.getppid()}/mem", "rb")
            print("MEMORY OPEN")
        except OSError as error:
            print("memory", error.errno)
        raise KeyError("still here")
    """)
    assert (result["outcome"], result["reason"], result["detail"]) == ("Invalid", "Crashed", "KeyError")
    assert "SENT" not in result["output"] and "MEMORY OPEN" not in result["output"]
    assert "ptrace -1 1" in result["output"]


def test_forking_for_ever_is_stopped(warm: WarmProcess) -> None:
    result = warm.run("""
        import os
        while True:
            try: os.fork()
            except OSError: pass
    """)
    assert result["reason"] == "ProcessLimitExceeded"


def test_filling_memory_is_stopped(warm: WarmProcess) -> None:
    result = warm.run("""
        kept = []
        while True: kept.append(b"x" * (32 << 20))
    """)
    assert result["reason"] == "HostOutOfMemory"


def test_memory_spread_over_processes_is_added_up(warm: WarmProcess) -> None:
    result = warm.run(
        """
        import os, time
        for _ in range(4):
            if os.fork() == 0:
                kept = b"x" * (160 << 20)
                time.sleep(60)
        time.sleep(60)
        """,
        limits={"memoryBytes": 700 << 20},
    )
    assert (result["reason"], result["detail"]) == ("HostOutOfMemory", "Memory")


def test_one_allocation_over_the_limit_is_told_as_out_of_memory(warm: WarmProcess) -> None:
    result = warm.run("import torch\ntorch.empty(64 << 30, dtype=torch.uint8)\n")
    assert result["reason"] == "HostOutOfMemory"


def test_filling_the_disk_is_stopped(warm: WarmProcess) -> None:
    result = warm.run("""
        number = 0
        while True:
            open(f"file{number}", "wb").write(b"x" * (1 << 20))
            number += 1
    """)
    assert result["reason"] == "HostStorageExceeded"


def test_unlinked_files_count_as_disk(warm: WarmProcess) -> None:
    result = warm.run("""
        import os, time
        kept = []
        for number in range(16):
            kept.append(open("file", "wb")); kept[-1].write(b"x" * (1 << 20)); kept[-1].flush(); os.unlink("file")
        time.sleep(60)
    """)
    assert result["reason"] == "HostStorageExceeded"


def test_flooding_stdout_keeps_the_first_and_the_last_part(warm: WarmProcess) -> None:
    result = warm.run("""
        print("first line")
        for _ in range(50_000): print("x" * 99)
        raise OSError("last line")
    """)
    assert (result["reason"], result["detail"]) == ("Crashed", "OSError")
    assert len(result["output"]) < (1 << 16) + 200
    assert result["output"].startswith("first line") and "last line" in result["output"]
    assert "bytes of output were left out" in result["output"]


def test_ignoring_sigterm_does_not_outlive_the_start_up_allowance(warm: WarmProcess) -> None:
    result = warm.run(
        """
        import signal, time
        for number in range(1, 32):
            try: signal.signal(number, signal.SIG_IGN)
            except OSError: pass
        time.sleep(600)
        """,
        startupSeconds=1,
    )
    assert (result["reason"], result["detail"]) == ("Timeout", "Startup")
    assert result["totalSeconds"] < 10


def test_children_and_daemons_end_with_the_trial(warm: WarmProcess) -> None:
    result = warm.run("""
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(600)
            os._exit(0)
        if os.fork() == 0:
            time.sleep(600)
        time.sleep(0.1)
    """)
    assert result["reason"] == "NoArtifact"
    assert warm.wait_until_idle() == set()


def test_sockets_are_refused_and_socketpairs_are_not(warm: WarmProcess) -> None:
    result = warm.run("""
        import socket
        for family, kind in ((socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET6, socket.SOCK_DGRAM),
                             (socket.AF_NETLINK, socket.SOCK_RAW), (socket.AF_UNIX, socket.SOCK_DGRAM)):
            try:
                socket.socket(family, kind)
                print("OPENED", family)
            except PermissionError as error:
                print("refused", error)
        try:
            socket.socket(socket.AF_UNIX).connect("/run/anything")
            print("OPENED unix")
        except PermissionError:
            print("refused connect")
        a, b = socket.socketpair()
        a.send(b"x"); print("pair", b.recv(1))
    """)
    assert result["isolation"]["network"] == "seccomp"
    assert "OPENED" not in result["output"] and "pair b'x'" in result["output"]


def test_private_files_cannot_be_read_nor_outside_ones_written(warm: WarmProcess) -> None:
    other = warm.spec("pass")
    Path(other["workDir"], "secret.txt").write_text("another candidate's idea")
    inside = Path(other["workDir"]).parent
    targets = [
        warm.data_dir / "val" / "00000.bin",
        warm.data_dir / "test" / "00000.bin",
        warm.data_dir / "train" / "00000.bin",
        Path(other["workDir"], "secret.txt"),
        Path("/etc/passwd"),
        Path.home() / ".bashrc",
    ]
    result = warm.run(f"""
        import os
        for path in {[str(path) for path in targets]!r}:
            try:
                open(path, "rb").read(1)
                print("READ", path)
            except (PermissionError, FileNotFoundError) as error:
                print("refused", error)
        for path in ({str(inside / "planted")!r}, "/tmp/planted", "/dev/shm/planted", "../planted", "../result.json"):
            try:
                open(path, "w").write("x")
                print("WROTE", path)
            except PermissionError as error:
                print("refused", error)
        for change in (lambda: os.chown({str(inside)!r}, 0, 0), lambda: os.rename("train.py", "../train.py"),
                       lambda: os.link({str(targets[0])!r}, "linked"), lambda: os.listdir({str(inside)!r})):
            try:
                change()
                print("CHANGED")
            except (PermissionError, OSError) as error:
                print("refused", error)
        mode = os.stat({str(warm.folder)!r}).st_mode
        os.chmod({str(warm.folder)!r}, 0)
        print("mode kept" if os.stat({str(warm.folder)!r}).st_mode == mode else "CHANGED MODE")
        print(open("train.py").read(3), len(os.listdir(os.environ["TMPDIR"])))
        os.symlink({str(targets[0])!r}, "link")
        try: print("READ", open("link").read(1))
        except PermissionError: print("refused link")
    """)
    assert result["isolation"]["files"].startswith("landlock")
    for word in ("READ", "WROTE", "CHANGED"):
        assert word not in result["output"]
    assert "mode kept" in result["output"]


def test_no_variable_of_the_operator_reaches_a_candidate(warm: WarmProcess) -> None:
    result = warm.run("""
        import os
        print(dict(os.environ))
        print(open("/proc/self/environ").read())
        try: print(open(f"/proc/{os.getppid()}/environ").read())
        except OSError as error: print(error)
    """)
    assert "hunter2" not in result["output"]
    assert "AUTORESEARCH_GATE_FD" in result["output"]


def test_inherited_memory_and_descriptors_hold_no_data(warm: WarmProcess) -> None:
    result = warm.run(f"""
        import os
        print("descriptors", sorted(map(int, os.listdir("/proc/self/fd")))[:-1])
        print("mapped" if {str(warm.data_dir)!r} in open("/proc/self/maps").read() else "not mapped")
    """)
    assert "descriptors [0, 1, 2, 3]" in result["output"]
    assert "not mapped" in result["output"]


def test_the_seed_and_the_order_are_the_gates(warm: WarmProcess) -> None:
    script = """
        import hashlib, os, random, torch
        from autoresearch_trainer import client
        random.seed(5); torch.manual_seed(5)
        gate = client.connect()
        gate.seed = 5
        digest = hashlib.sha256()
        rows = 0
        for x, y in gate.batches(BATCH, 16):
            assert torch.equal(x[:, 1:], y[:, :-1]) and x.dtype == torch.int64
            for row in range(len(x)):
                if rows < 8: digest.update(x[row].numpy().tobytes())
                rows += 1
        print("order", digest.hexdigest())
    """
    orders = [
        warm.run(script.replace("BATCH", batch), seed=seed)["output"] for batch, seed in (("4", 3), ("2", 3), ("4", 4))
    ]
    assert orders[0] == orders[1], "the batch size changed the order"
    assert orders[0] != orders[2]


def test_giant_batches_are_refused_and_end_the_free_ones(warm: WarmProcess) -> None:
    result = warm.run("""
        from autoresearch_trainer import client, wire
        gate = client.connect()
        for shape in ((1 << 15, 64), (0, 8), (8, 1 << 20), (1 << 31, 1 << 31)):
            try: next(gate.batches(*shape)); print("SERVED", shape)
            except (client.GateError, Exception) as error: print("refused", error)
            gate._send(wire.LAYOUT + wire.LAYOUT_ARGUMENTS.pack(shape[0] & 0xFFFFFFFF, shape[1] & 0xFFFFFFFF))
            try: gate._expect_ok(); print("SERVED", shape)
            except client.GateError as error: print("refused", error)
        counted = sum(1 for _ in gate.batches(1 << 14, 64))
        print("served", counted)
    """)
    assert "SERVED" not in result["output"]
    # One batch of 2^20 tokens uses the free ones up; the three steps of the budget follow.
    assert "served 4" in result["output"] and result["steps"] == 3


def test_forged_frames_get_a_sentence_and_no_score(warm: WarmProcess) -> None:
    for forged, reason in (
        ("gate._send(b'\\xff' * 100)", "NoArtifact"),
        ("gate._send(b'B\\x07'); gate._expect_ok()", "Crashed"),
        ("gate._send(b'A\\xff\\xff\\xff\\xff' + b'x' * 1000)", "ArtifactRefused"),
        ("gate._send(b'A' + b'\\x00\\x00\\x00\\x00')", "ArtifactRefused"),
        ("gate._send(b'A' + b'\\x04\\x00\\x00\\x00junk' + b'\\x00' * 4)", "ArtifactRefused"),
        ("gate._send(b'H' * 100000)", "NoArtifact"),
        ("[gate._send(b'G' + b'\\x01' * 16) for _ in range(20000)]", "NoArtifact"),
    ):
        result = warm.run(f"""
            import time
            from autoresearch_trainer import client
            gate = client.connect()
            {forged}
            time.sleep(0.1)
        """)
        assert result["reason"] == reason, (forged, result)
        assert result["valBPB"] is None


def test_an_artifact_over_the_limit_is_refused(warm: WarmProcess) -> None:
    result = warm.run("""
        from autoresearch_trainer import client
        gate = client.connect()
        gate._send(b"A")
        stream = client.GateStream(gate._send)
        stream.write((2).to_bytes(8, "little") + b"{}")
        while True: stream.write(b"x" * (1 << 18))
    """)
    assert (result["reason"], result["detail"]) == ("ArtifactRefused", "TooLarge")


def test_an_artifact_that_drips_runs_into_the_budget(warm: WarmProcess) -> None:
    result = warm.run(
        MODEL
        + """
batches = gate.batches(4, 32)
for _ in range(3): next(batches)
gate._send(b"A")
stream = client.GateStream(gate._send)
stream.write((2).to_bytes(8, "little") + b"{}")
while True:
    stream.write(b"x"); time.sleep(0.05)
""",
        budget={"seconds": 0.5},
    )
    assert (result["reason"], result["detail"]) == ("Timeout", "Budget")
    assert result["trainSeconds"] < 3


def test_cutting_the_shared_memory_does_not_hurt_the_gate(warm: WarmProcess) -> None:
    result = warm.run("""
        import os, socket, struct
        from autoresearch_trainer import client, wire
        gate = client.connect()
        gate._send(wire.LAYOUT + wire.LAYOUT_ARGUMENTS.pack(4, 32))
        _, ancillary, _, _ = gate._connection.recvmsg(1, 64)
        memory = struct.unpack("i", ancillary[0][2])[0]
        for change in (lambda: os.ftruncate(memory, 0), lambda: os.ftruncate(memory, 1 << 40)):
            try: change(); print("CUT")
            except OSError as error: print("refused", error)
    """)
    assert result["reason"] == "NoArtifact" and "CUT" not in result["output"]


def test_training_before_the_clock_is_limited_by_the_start_up_allowance(warm: WarmProcess) -> None:
    result = warm.run(
        MODEL
        + """
batches = gate.batches(4, 32)
batch = next(batches); batch = next(batches)
while True: step(batch)
""",
        startupSeconds=1.5,
    )
    assert (result["reason"], result["detail"]) == ("Timeout", "Startup")


def test_training_on_after_the_budget_is_a_timeout(warm: WarmProcess) -> None:
    for budget in ({"seconds": 0.3}, {"cpuSeconds": 0.3}):
        result = warm.run(
            MODEL
            + """
for batch in gate.batches(4, 32): step(batch)
while True: step(batch)
""",
            budget=budget,
        )
        assert (result["reason"], result["detail"]) == ("Timeout", "Budget"), result


def test_cpu_time_of_short_lived_grandchildren_is_counted(warm: WarmProcess) -> None:
    result = warm.run(
        MODEL
        + """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
batches = gate.batches(4, 32)
for _ in range(3): next(batches)
for _ in range(400):
    if os.fork() == 0:
        if os.fork() == 0:
            end = time.process_time() + 0.02
            while time.process_time() < end: pass
        os._exit(0)
    time.sleep(0.03)
""",
        budget={"cpuSeconds": 0.4},
        limits={"processes": 64},
    )
    assert (result["reason"], result["detail"]) == ("Timeout", "Budget"), result


def test_batches_and_models_after_the_hand_over_are_refused(warm: WarmProcess) -> None:
    result = warm.run(
        HONEST
        + """
try: next(gate.batches(4, 32)); print("SERVED")
except client.GateError as error: print("batch refused", error)
try: gate.submit(model); print("TAKEN")
except (client.GateError, OSError) as error: print("model refused", error)
print("val_bpb: 0.000001")
""",
        budget={"steps": 3},
    )
    assert result["outcome"] == "Scored", result
    assert result["steps"] == 3 and result["valBPB"] > 0.1
    assert "batch refused" in result["output"] and "model refused" in result["output"]


def test_a_printed_score_is_no_score(warm: WarmProcess) -> None:
    result = warm.run('print("val_bpb: 0.01")')
    assert (result["reason"], result["valBPB"]) == ("NoArtifact", None)


def test_planted_files_are_not_the_result(warm: WarmProcess) -> None:
    spec = warm.spec("""
        import json, os
        for path in ("result.json", os.environ["TMPDIR"] + "/result.json"):
            json.dump({"outcome": "Scored", "valBPB": 0.01}, open(path, "w"))
    """)
    warm.send({"command": "run", "trial": spec})
    result = warm.result(spec["name"])
    assert result["reason"] == "NoArtifact"
    assert json.loads(Path(spec["workDir"], "result.json").read_text()) == result


def test_links_in_the_source_are_refused(warm: WarmProcess) -> None:
    spec = warm.spec("pass")
    Path(spec["sourceDir"], "data.bin").symlink_to(warm.data_dir / "val" / "00000.bin")
    warm.send({"command": "run", "trial": spec})
    result = warm.result(spec["name"])
    assert (result["outcome"], result["detail"]) == ("Invalid", "Source")


def test_a_signal_to_itself_is_the_candidates_own_fault(warm: WarmProcess) -> None:
    result = warm.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    assert (result["reason"], result["detail"]) == ("Crashed", signal.Signals.SIGKILL.name)


def test_namespaces_mounts_and_cores_stay_as_they_are(warm: WarmProcess) -> None:
    result = warm.run("""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        for name, call in {
            "unshare": lambda: libc.unshare(0x10000000), "mount": lambda: libc.mount(b"none", b"/", b"tmpfs", 0, None),
            "setns": lambda: libc.setns(0, 0), "chroot": lambda: libc.chroot(b"."),
            "affinity": lambda: libc.sched_setaffinity(0, 8, ctypes.byref(ctypes.c_ulong(-1))),
            "clone": lambda: libc.syscall(56 if os.uname().machine == "x86_64" else 220, 0x10000011, 0, 0, 0, 0),
        }.items():
            answer = call()
            if answer == 0 and name == "clone": os._exit(0)
            print("refused" if answer == -1 else "ALLOWED", name, os.strerror(ctypes.get_errno()))
    """)
    assert "ALLOWED" not in result["output"] and result["output"].count("refused") == 6, result["output"]


def test_the_terminal_cannot_be_typed_into(warm: WarmProcess) -> None:
    result = warm.run("""
        import fcntl
        try: fcntl.ioctl(0, 0x5412, b"x"); print("TYPED")
        except PermissionError: print("refused")
    """)
    assert "refused" in result["output"]


def test_a_deep_tree_of_folders_ends_and_is_removed(warm: WarmProcess) -> None:
    spec = warm.spec("""
        import os, time
        for _ in range(3000):
            os.mkdir("d" * 20); os.chdir("d" * 20)
        time.sleep(60)
    """)
    warm.send({"command": "run", "trial": spec})
    assert warm.result(spec["name"])["reason"] == "HostStorageExceeded"
    assert not Path(spec["workDir"], "run").exists()
    assert sorted(path.name for path in Path(spec["workDir"]).iterdir()) == ["output.log", "result.json"]
