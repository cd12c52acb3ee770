"""Output folders: which images they lack, what makes an image be done again, and where its files go."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from engine.inputs import Inputs, read_inputs
from engine.outputs import Output, Outputs, files_below
from tool.io.files import UserError

NAMES = ["cow", "dog", "cat"]
IDS = ["a", "b/c", "d"]
LABELS = {"a": [1, 0, 0], "b/c": [1, 1, 0], "d": [0, 0, 0]}


@pytest.fixture
def photographs(tmp_path):
    (tmp_path / "photos" / "b").mkdir(parents=True)
    for image_id in IDS:
        (tmp_path / "photos" / f"{image_id}.jpg").write_bytes(image_id.encode())
    return tmp_path / "photos"


def inputs_of(photographs, labels=LABELS):
    return Inputs(
        IDS, lambda image_id: photographs / f"{image_id}.jpg", labels={k: np.float32(v) for k, v in labels.items()}
    )


def folders(tmp_path):
    """A folder with a file an image, and one with a file for each of its classes."""
    labels = Output(tmp_path / "out" / "labels", {"alpha": 2}, bytes_a_pixel=(1, 2))
    overlays = Output(tmp_path / "out" / "vis", {"alpha": 2}, class_names=NAMES)
    for output in (labels, overlays):
        output.claim(False, {})
    return labels, overlays


def make(outputs, image_id, classes):
    """Do one image -> the folders that lacked it."""
    lacking = outputs.begin(image_id, classes)
    for output in lacking:
        paths, origin = output.files(image_id, classes)
        for path in paths.values() if isinstance(paths, dict) else [paths]:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(origin)
    return lacking


def make_all(outputs, labels=LABELS):
    for image_id in list(outputs.left):
        make(outputs, image_id, [k for k, there in enumerate(labels[image_id]) if there])


def test_names_paths_and_sizes(tmp_path):
    labels, overlays = folders(tmp_path)
    assert labels.path("b/c") == f"{tmp_path}/out/labels/b/c.png"
    assert labels.files("a", [0, 2]) == (labels.path("a"), labels.origin)
    assert overlays.files("a", [0, 2])[0] == {0: f"{overlays.folder}/a_cow.png", 2: f"{overlays.folder}/a_cat.png"}
    assert Output(tmp_path, {}, ".npy").name("a") == "a.npy"
    assert labels.pixel_bytes(3) == 7 and overlays.pixel_bytes(3) == 0.25
    assert labels.origin == overlays.origin != Output(tmp_path, {"alpha": 3}).origin


def test_a_folder_is_of_one_run_s_settings(tmp_path):
    labels, _ = folders(tmp_path)
    (labels.folder / "a.png").touch()
    other = Output(labels.folder, {"alpha": 3})
    with pytest.raises(UserError, match="alpha 2, not 3"):
        other.check(overwrite=False)
    labels.check(overwrite=False)
    other.claim(True, {})
    assert not (labels.folder / "a.png").exists()
    assert json.loads((labels.folder / "run.json").read_text())["settings"] == {"alpha": 3}


def test_what_is_done_is_not_left(tmp_path, photographs):
    labels, overlays = folders(tmp_path)
    outputs = Outputs([labels, overlays], inputs_of(photographs))
    both = (labels, overlays)
    assert outputs.left == {"a": both, "b/c": both, "d": (labels,)} and outputs.lacking(labels) == {*IDS}
    assert outputs.describe() == "3 images, 0 done before"
    make_all(outputs)
    assert files_below(overlays.folder) >= {"a_cow.png", "b/c_cow.png", "b/c_dog.png"}
    again = Outputs([labels, overlays], inputs_of(photographs))
    assert not again.left and again.describe() == "3 images, 3 done before"
    (overlays.folder / "b" / "c_dog.png").unlink()
    (labels.folder / "a.png").unlink()
    again = Outputs([labels, overlays], inputs_of(photographs))
    assert again.left == {"a": (labels,), "b/c": (overlays,)} and again.lacking(labels) == {"a"}


def test_other_settings_leave_everything(tmp_path, photographs):
    labels, _ = folders(tmp_path)
    make_all(Outputs([labels], inputs_of(photographs)))
    assert [*Outputs([Output(labels.folder, {"alpha": 3})], inputs_of(photographs)).left] == IDS


def test_other_labels_and_photographs_are_done_again_and_their_old_files_go(tmp_path, photographs):
    labels, overlays = folders(tmp_path)
    make_all(Outputs([labels, overlays], inputs_of(photographs)))
    (photographs / "d.jpg").write_bytes(b"another")
    now = LABELS | {"b/c": [1, 0, 1]}
    outputs = Outputs([labels, overlays], inputs_of(photographs, now))
    assert [*outputs.left] == ["b/c", "d"]
    text = "3 images, 1 done before, 2 again because they have changed (labels of 1, photograph of 1; first b/c)"
    assert outputs.describe() == text
    outputs.begin("b/c", [0, 2])
    assert not {"b/c_cow.png", "b/c_dog.png"} & files_below(overlays.folder)  # before the new ones are written
    make_all(outputs, now)
    assert {name for name in files_below(overlays.folder) if name.startswith("b")} == {"b/c_cow.png", "b/c_cat.png"}
    assert not Outputs([labels, overlays], inputs_of(photographs, now)).left


def test_a_copied_photograph_is_none_that_has_changed(tmp_path, photographs):
    """Other times and the same bytes: noted, so that the bytes are read once."""
    labels, _ = folders(tmp_path)
    make_all(Outputs([labels], inputs_of(photographs)))
    before = read_inputs(labels.folder)["a"]
    (photographs / "a.jpg").write_bytes(b"a")
    os.utime(photographs / "a.jpg", ns=(1, 1))
    outputs = Outputs([labels], inputs_of(photographs))
    assert not outputs.left
    outputs.renew()
    after = read_inputs(labels.folder)
    assert after["a"] != before and after["a"][0] == before[0] and after["a"][1].endswith(before[1].split(":")[-1])


def test_files_without_a_line_stay_and_get_one(tmp_path, photographs):
    labels, _ = folders(tmp_path)
    (labels.folder / "a.png").write_text("of another tool")
    outputs = Outputs([labels], inputs_of(photographs))
    assert [*outputs.left] == ["b/c", "d"] and "a" not in read_inputs(labels.folder)
    outputs.renew()
    assert [*read_inputs(labels.folder)] == ["a"] and (labels.folder / "a.png").read_text() == "of another tool"
