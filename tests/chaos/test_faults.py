"""A full disk, a clock that jumps, a lock left behind and files cut short: the run goes on to the same end."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from campaign import Campaign, Verdicts

FULL = bool(os.environ.get("AUTORESEARCH_FULL"))
CUTS = 40 if FULL else 6
JUMPING_CLOCK = """
import random, time
real, draw, shift = time.time, random.Random(7), [0.0]
def jumping():
    # Now and then the wall clock is set back or forward by up to a year, as NTP or a person may do.
    if draw.random() < 0.02:
        shift[0] = draw.choice([-3.2e7, -86400.0, -1.0, 0.0, 1.0, 86400.0, 3.2e7])
    return real() + shift[0]
time.time = jumping
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        message = f"a file system of its own needs root (mount: {mounted.stderr.strip()})"
        if os.environ.get("AUTORESEARCH_REQUIRE_ISOLATION"):
            pytest.fail(message)
        pytest.skip(message)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_stops_with_a_sentence_and_the_run_goes_on_when_there_is_room(
    undisturbed: Verdicts, small_disk: Path, tmp_path: Path
) -> None:
    campaign = Campaign(tmp_path)
    campaign.workdir = small_disk / "run"
    ballast = small_disk / "ballast"
    stopped = 0
    for free in (100_000, 200_000, 350_000, 500_000):
        room = os.statvfs(small_disk)
        ballast.write_bytes(b"x" * max(0, room.f_bavail * room.f_frsize - free))
        code = campaign.finish()
        ballast.unlink()
        assert "Traceback" not in campaign.log()
        if code != 0:
            stopped += 1
            assert code == 1
            assert "the disk is full" in campaign.log()
    assert stopped >= 2, "the disk was never full: the test proves nothing"
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    assert campaign.finish() == 0, campaign.log()
    campaign.check(undisturbed)


def test_a_clock_that_jumps_changes_no_verdict(undisturbed: Verdicts, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    assert campaign.finish(before=JUMPING_CLOCK) == 0, campaign.log()
    campaign.check(undisturbed)


def test_locks_left_behind_and_a_second_process(undisturbed: Verdicts, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, trial_seconds=0.2)
    assert campaign.kill_after(5.0), "it ended before it could be killed"
    for lock in ("packed-refs.lock", "refs/heads/autoresearch/default-chaos.lock", "HEAD.lock"):
        path = campaign.workdir / "repo.git" / lock
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    first = campaign.start()
    second = campaign.start()
    codes = {first.wait(240), second.wait(240)}
    assert codes == {0, 2}, campaign.log()
    assert "another" in campaign.log()
    campaign.check(undisturbed)


@pytest.mark.timeout(2400 if FULL else 400)
def test_files_cut_short_by_a_power_failure_are_made_again(undisturbed: Verdicts, tmp_path: Path) -> None:
    """After a kill, one of the files written last is cut at a random length, emptied or filled with zeros."""
    draw = random.Random(11)
    campaign = Campaign(tmp_path, trial_seconds=0.2)
    cut: list[str] = []
    for _ in range(CUTS):
        if not campaign.kill_at_work(draw.uniform(0.0, 0.6)):
            break
        files = sorted(
            (path for path in campaign.workdir.rglob("*") if path.is_file() and path.stat().st_size > 0),
            key=lambda path: path.stat().st_mtime_ns,
        )
        victim = draw.choice(files[-12:])
        content = victim.read_bytes()
        victim.chmod(0o600)
        victim.write_bytes(draw.choice([b"", content[: draw.randrange(len(content))], b"\0" * len(content)]))
        cut.append(str(victim.relative_to(campaign.workdir)))
    assert campaign.finish() == 0, f"{cut}\n{campaign.log()[-3000:]}"
    campaign.check(undisturbed)
    assert len(cut) >= 3, "it ended before anything could be cut"
