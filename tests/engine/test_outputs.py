"""Output folders: which images they lack, what makes an image be done again, and where its files go."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from engine.outputs import Inputs, Output, Outputs, add_inputs, files_below, inputs_path, mend_inputs, read_inputs
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


def test_two_images_that_would_share_a_file_are_refused(tmp_path):
    output = Output(tmp_path / "vis", {}, class_names=["horse", "sea_horse", "dog"])
    text = "vis/a_sea_horse.png: would be of a with the class sea_horse and of a_sea with the class horse; rename"
    with pytest.raises(UserError, match=text):
        output.check_names(["b", "a", "a_sea"])
    with pytest.raises(UserError, match=text):
        output.check_names(["a", "a_sea"], {"a": [0, 1, 0], "a_sea": [1, 0, 1]})
    output.check_names(["a", "a_sea"], {"a": [1, 0, 0], "a_sea": [1, 1, 0]})  # neither shows what would be the other's
    output.check_names(["a", "b_sea"])
    Output(tmp_path, {}).check_names(["a", "a_sea"])


# ---------------------------------------------------------------- what files were made from


def test_what_has_changed_since_a_line_was_written(tmp_path):
    photo, maps = tmp_path / "photo", tmp_path / "maps"
    photo.write_bytes(b"12345")
    maps.write_bytes(b"abc")

    def now(label, with_maps=True):
        return Inputs(["i"], lambda i: photo, (lambda i: maps) if with_maps else None, label and {"i": np.array(label)})

    first = now([0, 1, 1])
    add_inputs(tmp_path, [first.line("i", first.classes["i"])])
    stored = read_inputs(tmp_path)["i"]
    assert stored[0] == "1,2" and first.compare("i", stored) is None
    assert now([1, 0, 0]).compare("i", stored) == "labels"
    assert now(None).compare("i", stored) is None  # not known beforehand: not compared
    os.utime(photo, (1, 1))
    assert now([0, 1, 1]).compare("i", stored) == "times"
    photo.write_bytes(b"12346")
    assert now([0, 1, 1]).compare("i", stored) == "photograph"
    photo.write_bytes(b"1234")
    assert now([0, 1, 1]).compare("i", stored) == "photograph"
    photo.write_bytes(b"12345")
    maps.write_bytes(b"abd")
    assert now([0, 1, 1]).compare("i", stored) == "maps"
    assert now([0, 1, 1], with_maps=False).compare("i", stored) == "times"
    maps.unlink()
    assert now([0, 1, 1]).compare("i", stored) == "times"  # its absence is said elsewhere


def test_a_file_that_is_replaced_during_a_run_counts_as_changed(tmp_path):
    photo = tmp_path / "photo"
    photo.write_bytes(b"12345")
    begun = Inputs(["i"], lambda i: photo)
    photo.write_bytes(b"67890")
    os.utime(photo, (1, 1))
    add_inputs(tmp_path, [begun.line("i", "0")])
    assert Inputs(["i"], lambda i: photo).compare("i", read_inputs(tmp_path)["i"]) == "photograph"


def test_half_a_line_of_a_full_disk_spoils_no_other(tmp_path):
    inputs_path(tmp_path).write_text("a\t1\t-\t-\nb\t2\t5:7:0")
    mend_inputs(tmp_path)
    add_inputs(tmp_path, ["c\t3\t-\t-\n", "a\t4\t-\t-\n"])
    assert read_inputs(tmp_path) == {"a": ["4", "-", "-"], "c": ["3", "-", "-"]}
