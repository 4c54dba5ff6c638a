"""A candidate that shares its user id with PID 1 of its container gains nothing: no score, no time, no way out."""

import io
import sys
import tarfile
from collections.abc import Callable

import pytest
from poddriver import Pod, can_unshare, pack

MakePod = Callable[..., Pod]
BARE = [sys.executable, "train.py"]


def test_the_gate_cannot_be_reached_a_second_time(make_pod: MakePod) -> None:
    script = """
        import os, socket
        try:
            other = socket.socket(socket.AF_UNIX)
            other.connect(os.environ.get("SOCKET", "/nothing"))
            print("CONNECTED")
        except OSError as error: print("refused", type(error).__name__)
        print("LISTED" if os.path.exists(os.environ["SOCKET"]) else "gone")
    """
    pod = make_pod(script, command=BARE)
    pod.trial["env"] = {"SOCKET": str(pod.folder / "socket" / "gate.sock")}
    result = pod.run()
    assert result["reason"] == "NoArtifact", result
    assert "refused PermissionError" in pod.log("train") and "gone" in pod.log("train")
    assert not (pod.folder / "socket" / "gate.sock").exists()


@pytest.mark.parametrize("garbage", ["b'\\xff' * 65536", "b'A' + b'\\xff\\xff\\xff\\xff'", "b'L' + b'\\0' * 7"])
def test_garbage_on_the_connection_is_no_score(make_pod: MakePod, garbage: str) -> None:
    script = f"""
        import os, socket, time
        gate = socket.socket(fileno=int(os.environ["AUTORESEARCH_GATE_FD"]))
        gate.settimeout(1)
        try: gate.sendall({garbage}); print(gate.recv(1000))
        except OSError as error: print(error)
    """
    result = make_pod(script, command=BARE).run()
    assert result["outcome"] == "Invalid" and result["valBPB"] is None, result
    assert result["reason"] in ("NoArtifact", "ArtifactRefused")


def test_pid_1_cannot_be_killed_stopped_starved_or_read(make_pod: MakePod) -> None:
    script = """
        import ctypes, os, resource, signal
        launcher = os.getppid()
        def attempt(name, call):
            try: call()
            except OSError as error: print(name, type(error).__name__)
            else: print(name, "WENT THROUGH")
        for number in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGSEGV):
            try: os.kill(launcher, number)
            except OSError: pass
        attempt("limits", lambda: resource.prlimit(launcher, resource.RLIMIT_NOFILE, (0, 0)))
        attempt("priority", lambda: os.setpriority(os.PRIO_PROCESS, launcher, 19))
        attempt("user priority", lambda: os.setpriority(os.PRIO_USER, 0, 19))
        attempt("scheduler", lambda: os.sched_setscheduler(launcher, os.SCHED_IDLE, os.sched_param(0)))
        attempt("memory", lambda: open(f"/proc/{launcher}/mem", "rb"))
        attempt("descriptors", lambda: os.readlink(f"/proc/{launcher}/fd/0"))
        attempt("hiding", lambda: ctypes.CDLL(None).prctl(4, 0, 0, 0, 0) and (_ for _ in ()).throw(OSError))
        print("still here", os.getppid() == launcher)
    """
    pod = make_pod(script, command=BARE)
    result = pod.run()
    log = pod.log("train")
    assert result["reason"] == "NoArtifact", (result, log)
    assert "still here True" in log
    assert "WENT THROUGH" not in log, log


def test_killing_everything_in_sight_is_ones_own_end(make_pod: MakePod) -> None:
    result = make_pod("import os, signal\nos.kill(-1, signal.SIGKILL)\n", command=BARE).run()
    assert result["outcome"] == "Invalid", result


def test_forking_for_ever_is_stopped(make_pod: MakePod) -> None:
    script = """
        import os, time
        while True:
            if os.fork() == 0:
                os.setsid()
                time.sleep(600)
    """
    result = make_pod(script, command=BARE).run()
    assert result["reason"] == "ProcessLimitExceeded", result


def test_filling_the_disk_is_stopped(make_pod: MakePod) -> None:
    script = """
        import time
        for number in range(16):
            open(f"f{number}", "wb").write(bytes(1 << 20))
        time.sleep(60)
    """
    result = make_pod(script, command=BARE).run()
    assert result["reason"] == "HostStorageExceeded", result


def test_a_flood_of_output_is_cut_and_its_end_still_explains_it(make_pod: MakePod) -> None:
    script = """
        import os
        for _ in range(4000): os.write(1, b"x" * 4095 + b"\\n")
        raise ValueError("at the end")
    """
    pod = make_pod(script, command=BARE)
    result = pod.run()
    assert (result["reason"], result["detail"]) == ("Crashed", "ValueError"), result
    assert len(pod.log("train")) < (1 << 16) + 2000
    assert "bytes of output were left out" in pod.log("train")


def test_planted_results_are_not_the_result(make_pod: MakePod) -> None:
    script = """
        import os
        for place in ("account", "socket", "source"):
            try: open(f"../../{place}/account.json", "w").write('{"outcome": "Scored", "valBPB": 0.1}')
            except OSError as error: print(place, type(error).__name__)
        open("account.json", "w").write("{}")
        print("val_bpb: 0.1")
    """
    pod = make_pod(script, command=BARE)
    result = pod.run()
    assert (result["outcome"], result["reason"]) == ("Invalid", "NoArtifact"), result


def test_data_and_account_are_out_of_reach(make_pod: MakePod) -> None:
    script = """
        import os
        print("named", sorted(name for name in os.environ if "ACCOUNT" in name or "DATA" in name))
        for number in range(3, 64):
            try: print("open", number, os.readlink(f"/proc/self/fd/{number}"))
            except OSError: pass
        print("mapped", [line for line in open("/proc/self/maps") if ".bin" in line])
    """
    pod = make_pod(script, command=BARE)
    pod.run()
    log = pod.log("train")
    assert "named []" in log and "mapped []" in log
    assert [line.split()[1] for line in log.splitlines() if line.startswith("open")] == ["3"], log


@pytest.mark.skipif(not can_unshare(), reason="needs the right to make a pid namespace")
def test_processes_that_stay_behind_do_not_outlive_the_trial(make_pod: MakePod) -> None:
    script = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print("daemon", os.getpid(), flush=True)
                time.sleep(600)
            os._exit(0)
        time.sleep(0.5)
    """
    pod = make_pod(script, command=BARE)
    assert pod.run()["reason"] == "NoArtifact"


def _tar_with(entry: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(entry)
    return pack({"train.py": "pass\n"})[:1024] + out.getvalue()


def test_a_source_with_a_link_is_refused(make_pod: MakePod) -> None:
    entry = tarfile.TarInfo("secret")
    entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/shadow"
    result = make_pod("", tar=_tar_with(entry), command=BARE).run()
    assert (result["outcome"], result["detail"]) == ("Invalid", "Source"), result
