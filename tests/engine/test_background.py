"""Work beside the network: all of it is done, an error comes to light, and a killed process is said in one line."""

import os
import signal
import threading

import pytest

from engine.background import Background
from tool.io.files import UserError


def note(path):
    with open(path, "a", encoding="utf-8") as stream:
        stream.write(f"{os.getpid()}\n")


def fail(text):
    raise UserError(text)


def die(parent):
    assert os.getpid() != parent
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [{"threads": 1}, {"processes": 1}, {"processes": 2}])
def test_every_job_is_done_when_the_context_ends(tmp_path, workers):
    with Background(**workers) as background:
        for _ in range(9):
            background.submit(note, tmp_path / "jobs")
    done_by = (tmp_path / "jobs").read_text().split()
    assert len(done_by) == background.images == 9 and background.seconds > 0
    assert (str(os.getpid()) in done_by) == ("threads" in workers) and len({*done_by}) <= background.workers


def test_nothing_waits_in_a_run_without_jobs():
    with Background() as background:
        assert background.pool is None
    assert background.images == 0


def test_at_most_two_jobs_a_worker_wait():
    """The third is taken when the first is done."""
    gate, background = threading.Event(), Background(threads=1)
    with background:
        for _ in range(2):
            background.submit(gate.wait, 30)
        assert len(background.pending) == 2
        third = threading.Thread(target=background.submit, args=(gate.wait, 30))
        third.start()
        third.join(0.2)
        assert third.is_alive()
        gate.set()
        third.join(30)
        assert not third.is_alive() and len(background.pending) <= 2


@pytest.mark.parametrize("workers", [{"threads": 1}, {"processes": 1}])
def test_an_error_of_a_job_is_raised_and_what_waits_is_dropped(tmp_path, workers):
    with pytest.raises(UserError, match="no such thing"):
        with Background(**workers) as background:
            background.submit(fail, "no such thing")
            for _ in range(9):  # the error comes with one of these
                background.submit(note, tmp_path / "jobs")
    (tmp_path / "jobs").touch()
    assert len((tmp_path / "jobs").read_text().split()) < 4


def test_an_error_of_the_last_job_is_raised():
    with pytest.raises(UserError, match="no such thing"):
        with Background(processes=1) as background:
            background.submit(fail, "no such thing")


@pytest.mark.parametrize("more", [0, 3])
def test_a_killed_process_is_said_in_one_line(tmp_path, more):
    with pytest.raises(UserError, match="killed, probably for lack of memory; .* fewer --crf_workers"):
        with Background(processes=1) as background:
            background.submit(die, os.getpid())
            for _ in range(more):
                background.submit(note, tmp_path / "jobs")
