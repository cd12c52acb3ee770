"""A pass over a list of images: what is left, what is done, what failed; with --check nothing is written."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engine import flags
from engine.jobs import Job
from engine.labelling import Facts, Labelling
from engine.outputs import Output
from tool.io.failures import Failures
from tool.io.files import UserError
from tool.io.scores import write_scores
from voc12.data import Broken
from voc12.paths import images_of

IDS = ["a", "b", "c"]


@pytest.fixture
def root(tmp_path):
    """A data set of three photographs, 8 x 6 pixels."""
    (tmp_path / "set" / "JPEGImages").mkdir(parents=True)
    for k, image_id in enumerate(IDS):
        Image.new("RGB", (8, 6), (50 * k, 0, 0)).save(tmp_path / "set" / "JPEGImages" / f"{image_id}.jpg")
    (tmp_path / "list.txt").write_text("".join(f"{image_id}\n" for image_id in IDS))
    return tmp_path


def write_text(image, text, files):
    """A job: a file for each output that lacks one."""
    for file in files.values():
        if file:
            Path(file[0]).write_text(f"{text} {image.shape}")


def arguments(root, *words):
    parser = flags.Parser("stage.py", "")
    flags.add_common(parser)
    flags.add_data(parser, labels=False)
    parser.add_list("--infer_list", "list.txt", "train", "")
    flags.add_labelling(parser)
    place = ["--name", "n", "--experiment", root / "e", "--voc12_root", root / "set", "--infer_list", root / "list.txt"]
    more = ["--device", "cpu", "--num_workers", 0, "--crf_workers", 1]
    return parser.parse_args([str(word) for word in (*place, *more, *words)])


def begin(root, *words, maps=None, settings=None):
    """A Labelling with two jobs: of a thread, and, as a CRF is, of a process."""
    args = arguments(root, *words)
    outputs = [Output(root / "e" / "n" / name, settings or {"epoch": 3}, suffix=".out") for name in ("fast", "slow")]
    jobs = [Job({"fast": outputs[0]}, write_text), Job({"slow": outputs[1]}, write_text, crf=True)]
    failures = Failures(args.on_error, jobs[0].folder / "failed.txt", held=True)
    images = images_of(args, failures)
    return Labelling(args, None, images, jobs, failures, Facts(args.infer_list, None, maps, 3))


def go(run, samples=None):
    """All that is left, written."""
    with run:
        for image_id in run.each("maps", list(run.left)) if samples is None else run.samples("maps", samples):
            run.write(image_id, np.zeros((6, 8, 3), np.uint8), [0], f"of {image_id}")


def texts(root):
    return {p.relative_to(root / "e" / "n").as_posix(): p.read_text() for p in (root / "e" / "n").glob("*/*.out")}


def test_what_is_left_is_done_and_nothing_twice(root, capsys):
    go(begin(root))
    whole = texts(root)
    assert whole == {f"{name}/{k}.out": f"of {k} (6, 8, 3)" for name in ("fast", "slow") for k in IDS}
    (root / "e" / "n" / "slow" / "b.out").unlink()
    kept = (root / "e" / "n" / "fast" / "b.out").stat().st_mtime_ns
    run = begin(root)
    assert run.left == ["b"] and "3 images, 2 done before" in capsys.readouterr().out
    go(run)
    assert texts(root) == whole and (root / "e" / "n" / "fast" / "b.out").stat().st_mtime_ns == kept
    record = json.loads((root / "e" / "n" / "slow" / "run.json").read_text())
    assert record["summary"]["images"] == {"done": 1, "skipped": 2, "failed": 0} and record["settings"] == {"epoch": 3}
    assert record["summary"]["stages"]["crf"]["images"] == record["summary"]["stages"]["maps"]["images"] == 1


def test_results_of_other_settings_are_not_mixed(root):
    go(begin(root))
    with pytest.raises(UserError, match="fast: holds results of other settings: epoch 3, not 1; --overwrite"):
        begin(root, settings={"epoch": 1})
    run = begin(root, "--overwrite", settings={"epoch": 1})
    assert run.left == IDS and not texts(root)
    run.__exit__(None, None, None)


def test_an_error_keeps_what_was_done_and_no_summary_is_written(root):
    run = begin(root)
    with pytest.raises(UserError, match="broken"), run:
        for image_id in run.each("maps", list(run.left)):
            if image_id == "c":
                raise UserError("broken")
            run.write(image_id, np.zeros((6, 8, 3), np.uint8), [0], "done")
    assert json.loads((root / "e" / "n" / "fast" / "run.json").read_text())["summary"] is None
    run = begin(root)
    assert "c" in run.left and "fast/c.out" not in texts(root)
    go(run)
    assert len(texts(root)) == 6


def test_broken_samples_are_failures_and_do_not_end_a_run(root, capsys):
    samples = ["a", Broken("b", "b: cut off"), "c"]
    with pytest.raises(UserError, match="b: cut off"):
        go(begin(root), samples)
    go(begin(root, "--on_error", "skip"), samples[1:])  # "a" is done
    assert {Path(name).stem for name in texts(root)} == {"a", "c"}
    assert (root / "e" / "n" / "fast" / "failed.txt").read_text() == "b\tb: cut off\n"
    out, errors = capsys.readouterr()
    assert "1 failed" in out and "1 images could not be used" in errors


def killed_meanwhile(image, data, files):
    """A job whose process is killed while the next image is on its way to it."""
    time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_ends_a_run_while_photographs_are_loaded(root):
    """The pipe to the CRF process takes no whole photograph; a loading process, forked later, holds it open too."""
    left = threading.Event()
    run = begin(root, "--num_workers", 1)
    run.jobs = [run.jobs[1]._replace(work=killed_meanwhile)]

    def end_all():
        left.set()
        for process in multiprocessing.active_children():
            process.kill()

    timer = threading.Timer(60, end_all)
    timer.start()
    try:
        with pytest.raises(UserError, match="a CRF process was killed"), run:
            loading = run.samples("maps", IDS * 20)
            for image_id in loading:  # a name holds it beyond the error, as in infer.py
                run.write(image_id, np.zeros((300, 400, 3), np.uint8), [0], "")
    finally:
        timer.cancel()  # or it ends processes of the tests that follow
    assert not left.is_set(), "waited for a process that loads photographs"


def test_a_check_sees_one_image_and_writes_nothing(root, capsys):
    seen = []
    run = begin(root, "--check")
    with run:
        for image_id in run.each("maps", list(run.left)):
            seen.append(image_id)
            run.write(image_id, np.zeros((6, 8, 3), np.uint8), [0], "")
    out = capsys.readouterr().out
    assert len(seen) == 1 and not (root / "e").exists()
    assert "images: all 3 can be read" in out and "all is well" in out


def test_stored_maps_are_taken_and_without_a_network_all_must_be_there(root):
    maps = Output(root / "maps", {}, ".npy")
    maps.claim(False, {})
    for image_id in ("a", "b"):
        write_scores(root / "maps" / f"{image_id}.npy", {1: np.full((6, 8), 0.5, np.float32)})
    with pytest.raises(UserError, match=r"maps: no maps of 1 of 3 images, .*\(first c\); give --load_epo"):
        begin(root, maps=maps)
    run = begin(root, "--on_error", "skip", maps=maps)
    assert (run.there, run.todo) == (["a", "b"], [])
    found = list(run.stored())
    assert [sample[0] for sample in found] == ["a", "b"] and [sample[2] for sample in found] == [[1], [1]]
    assert np.array_equal(found[1][1], np.array(Image.open(root / "set" / "JPEGImages" / "b.jpg")))
    run.__exit__(None, None, None)
    assert (root / "e" / "n" / "fast" / "failed.txt").read_text().startswith("c\t")


def test_without_maps_and_network_nothing_is_made(root):
    maps = Output(root / "maps", {}, ".npy")
    with pytest.raises(UserError, match="maps: no such folder; give --load_epo EPOCH, or put maps there"):
        begin(root, maps=maps)
    assert not (root / "e").exists()


def test_photographs_of_a_folder_or_a_list(root):
    failures = Failures("skip", "", held=True)
    assert images_of(arguments(root), failures).ids == IDS
    images = images_of(arguments(root, "--images", root / "set" / "JPEGImages", "--out", root / "out"), failures)
    assert [Path(images.photograph(image_id)).stem for image_id in images.ids] == IDS


def test_a_list_without_any_image_is_refused(root, capsys):
    failures = Failures("skip", root / "failed.txt", held=True)
    (root / "list.txt").write_text("none\nnobody\n")
    with pytest.raises(UserError, match="no image is left: all 2 failed, the last with: .*/nobody.jpg: no such image"):
        images_of(arguments(root), failures)
    assert capsys.readouterr().err.count("left out") == 2 and not failures.path.exists()


def test_larger_photographs_are_said_once_and_counted(root, capsys):
    def sizes(side):
        with begin(root, "--max_side", side) as run:
            found = [size for *_, size in run.seen("maps", IDS, lambda image: [])]
        return found, capsys.readouterr().err

    found, errors = sizes(8)
    assert found == [(6, 8)] * 3 and "larger" not in errors
    found, errors = sizes(4)
    assert found == [(3, 4)] * 3 and errors.count("a: 8 x 6 pixels, seen at 4 x 3 (--max_side 4") == 1
    assert "b: 8" not in errors and "3 photographs were larger than --max_side 4" in errors
