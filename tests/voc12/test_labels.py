"""Image labels: annotations, the label table, and the script that writes it."""

import io
import pickle
import subprocess
import sys
from xml.sax.saxutils import escape

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from tool.io.files import UserError
from voc12 import labels as labels_module
from voc12.classes import VOC_CLASSES
from voc12.labels import (
    describe_negatives,
    load_labels,
    load_training_labels,
    read_cls_labels,
    read_xml_label,
    write_cls_labels,
)

BOMB = (
    '<!DOCTYPE annotation [<!ENTITY a "cat"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotation><object><name>&b;</name></object></annotation>"
)


@pytest.fixture(autouse=True)
def forget_warnings():
    labels_module._unknown_names.clear()


def annotation(*names):
    objects = "".join(f"<object><name>{escape(name)}</name></object>" for name in names)
    return f"<annotation><folder>VOC2012</folder>{objects}</annotation>"


def make_root(folder, **images):
    """A root with an annotation for each image: ID -> names of its objects."""
    (folder / "Annotations").mkdir(parents=True)
    for image_id, names in images.items():
        (folder / "Annotations" / f"{image_id}.xml").write_text(annotation(*names))
    return folder


def one_hot(*indices, length=20):
    label = np.zeros(length, dtype=np.float32)
    label[list(indices)] = 1
    return label


def save_dict(path, value, protocol=4):
    """What np.save writes of `value`, with the pickle protocol of choice."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|O", "fortran_order": False, "shape": ()})
    path.write_bytes(buffer.getvalue() + pickle.dumps(np.array(value, dtype=object), protocol=protocol))


def run(script, *arguments, module=False, cwd=ROOT):
    command = ["-m", f"voc12.{script}"] if module else [str(ROOT / "voc12" / f"{script}.py")]
    return subprocess.run(
        [sys.executable, *command, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, check=False
    )


# ---------------------------------------------------------------- annotations


def test_objects_of_an_annotation_in_vocs_order(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text(
        """<?xml version="1.0" encoding="UTF-8"?>
        <annotation>
          <filename>a.jpg</filename><source><name>cat</name></source>
          <object><name>person</name><truncated>1</truncated><part><name>dog</name></part></object>
          <object><name> dog</name><difficult>1</difficult></object>
          <object><name>person</name></object>
          <object><part><name>car</name></part><name>tvmonitor
          </name></object>
        </annotation>""".strip()
    )
    label = read_xml_label(path, VOC_CLASSES)
    # the owner of a picture and the parts of a person have names as well; they are no objects
    assert label.dtype == np.float32 and label.shape == (20,)
    np.testing.assert_array_equal(label, one_hot(11, 14, 19))


def test_difficult_objects_count(tmp_path):
    path = tmp_path / "a.xml"
    path.write_text("<annotation><object><name>cow</name><difficult>1</difficult></object></annotation>")
    np.testing.assert_array_equal(read_xml_label(path, VOC_CLASSES), one_hot(9))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=8), min_size=1, unique=True), st.data()
)
def test_any_class_list_any_objects(tmp_path_factory, classes, data):
    shown = data.draw(st.lists(st.sampled_from(classes), max_size=6))
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    path.write_text(annotation(*shown), encoding="utf-8")
    assert read_xml_label(path, classes).tolist() == [float(name in shown) for name in classes]


def test_names_with_markup_and_a_foreign_encoding(tmp_path):
    classes = ("cat & dog", "größe")
    path = tmp_path / "a.xml"
    path.write_bytes(f'<?xml version="1.0" encoding="ISO-8859-1"?>{annotation("größe")}'.encode("latin-1"))
    assert read_xml_label(path, classes).tolist() == [0, 1]
    path.write_bytes(f'<?xml version="1.0" encoding="UTF-16"?>{annotation(*classes)}'.encode("utf-16"))
    assert read_xml_label(path, classes).tolist() == [1, 1]


def test_unknown_name_is_warned_about_once(tmp_path, capsys):
    root = make_root(tmp_path, a=["unicorn", "cat"], b=["unicorn", "dog"], c=["yeti", "car"])
    got = load_labels(["a", "b", "c"], root, VOC_CLASSES, cls_labels=None)
    assert [got[k].nonzero()[0].tolist() for k in "abc"] == [[7], [11], [6]]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert "a.xml" in lines[0] and "'unicorn'" in lines[0]
    assert "c.xml" in lines[1] and "'yeti'" in lines[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not an XML file"),
        (b"\xff\xd8\xff\xe0 JFIF", "not an XML file"),
        (annotation("cat").encode()[:-5], "not an XML file"),
        (b"<annotation><object><name>cat</object></annotation>", "not an XML file"),
        (b'<?xml version="1.0" encoding="nonsense"?><annotation/>', "not an XML file"),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "not an XML file"),
        (b"<html><object><name>cat</name></object></html>", "not a VOC <annotation>"),
        (b"<annotation><object><bndbox/></object></annotation>", "object without a name"),
        (b"<annotation><object><name> </name></object></annotation>", "object without a name"),
        (BOMB.encode(), "DOCTYPE"),
        (BOMB.encode("utf-16"), "DOCTYPE"),
        (BOMB.encode("utf-16-le"), "DOCTYPE"),
        (b'<!DOCTYPE annotation SYSTEM "file:///etc/passwd"><annotation/>', "DOCTYPE"),
    ],
)
def test_broken_annotations_are_named(tmp_path, content, words):
    path = tmp_path / "a.xml"
    path.write_bytes(content)
    with pytest.raises(UserError, match="a.xml") as error:
        read_xml_label(path, VOC_CLASSES)
    assert words in str(error.value)


def test_missing_annotation_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.xml: no such annotation"):
        read_xml_label(tmp_path / "none.xml", VOC_CLASSES)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=20).map(lambda b: annotation("cat").encode()[:40] + b))
def test_any_bytes_give_a_label_or_a_user_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("xml") / "a.xml"
    path.write_bytes(content)
    try:
        label = read_xml_label(path, VOC_CLASSES)
    except UserError as error:
        assert "a.xml" in str(error)
    else:
        assert label.shape == (20,) and b"annotation" in content


# ---------------------------------------------------------------- labels of a list


def test_table_first_then_annotations(tmp_path):
    root = make_root(tmp_path / "voc", a=["cat"], b=["dog"], unused=["car"])
    table = tmp_path / "cls_labels.npy"
    write_cls_labels(table, {"a": one_hot(3, 4), "elsewhere": one_hot(1)})
    got = load_labels(["b", "a"], root, VOC_CLASSES, table)
    assert list(got) == ["b", "a"]
    np.testing.assert_array_equal(got["a"], one_hot(3, 4))
    np.testing.assert_array_equal(got["b"], one_hot(11))


def test_labels_are_arrays_of_their_own(tmp_path):
    table = tmp_path / "t.npy"
    shared = one_hot(2)
    save_dict(table, {"a": shared, "b": shared})  # the pickle keeps it one array
    got = load_labels(["a", "b"], tmp_path, VOC_CLASSES, table)
    got["a"][5] = 1
    np.testing.assert_array_equal(got["b"], one_hot(2))


def test_without_a_table_annotations_are_read(tmp_path):
    root = make_root(tmp_path, a=["cat"])
    np.testing.assert_array_equal(load_labels(["a"], root, VOC_CLASSES)["a"], one_hot(7))


def test_a_table_that_was_asked_for_must_exist(tmp_path):
    root = make_root(tmp_path, a=["cat"])
    with pytest.raises(UserError, match=r"mine\.npy: no such file; --cls_labels takes"):
        load_labels(["a"], root, VOC_CLASSES, tmp_path / "mine.npy")


def test_images_without_a_usable_label_can_be_left_out(tmp_path):
    root = make_root(tmp_path, a=["cat"], broken=["dog"], z=["dog"])
    (root / "Annotations" / "broken.xml").write_text("<annotation>")
    failed = {}
    ids = ["z", "nowhere", "broken", "a"]
    got = load_labels(ids, root, VOC_CLASSES, None, failed.__setitem__)
    assert list(got) == ["z", "a"] and got.matrix.shape == (2, 20)
    np.testing.assert_array_equal(got["a"], one_hot(7))
    assert {image_id: str(error).split(";")[0] for image_id, error in failed.items()} == {
        "nowhere": f"nowhere: one of the images that have no label (no {root}/Annotations/ID.xml)",
        "broken": f"{root}/Annotations/broken.xml: not an XML file (no element found: line 1, column 12)",
    }


def test_nested_ids_have_nested_annotations(tmp_path):
    (tmp_path / "Annotations" / "a" / "b c").mkdir(parents=True)
    (tmp_path / "Annotations" / "a" / "b c" / "d.xml").write_text(annotation("cat"))
    np.testing.assert_array_equal(load_labels(["a/b c/d"], tmp_path, VOC_CLASSES, None)["a/b c/d"], one_hot(7))


def test_labels_take_a_byte_a_value(tmp_path):
    """Not an array of its own for each image, of which workers would have a copy each."""
    ids = [f"{k:04d}" for k in range(1000)]
    write_cls_labels(tmp_path / "t.npy", {i: one_hot(k % 20) for k, i in enumerate(ids)})
    got = load_labels(ids[::-1], tmp_path, VOC_CLASSES, tmp_path / "t.npy")
    assert got.matrix.nbytes == 20 * 1000 and len(got) == 1000 and list(got) == ids[::-1]
    assert "0007" in got and "7" not in got and got["0007"].dtype == np.float32
    assert all(got[i].tolist() == one_hot(k % 20).tolist() for k, i in enumerate(ids))
    with pytest.raises(KeyError):
        got["7"]


def test_a_table_without_annotations_is_enough(tmp_path):
    write_cls_labels(tmp_path / "t.npy", {"an ID, with dots.and more": one_hot(0)})
    got = load_labels(["an ID, with dots.and more"], tmp_path / "nowhere", VOC_CLASSES, tmp_path / "t.npy")
    np.testing.assert_array_equal(got["an ID, with dots.and more"], one_hot(0))


def test_missing_labels_are_counted(tmp_path):
    root = make_root(tmp_path, a=["cat"])
    with pytest.raises(UserError, match="^2 of 3 images have no label, the first is x ") as error:
        load_labels(["a", "x", "y"], root, VOC_CLASSES, None)
    assert str(root / "Annotations" / "ID.xml") in str(error.value)
    write_cls_labels(tmp_path / "t.npy", {"x": one_hot(1)})
    with pytest.raises(UserError, match="^1 of 3 images have no label, the first is y ") as error:
        load_labels(["a", "x", "y"], root, VOC_CLASSES, tmp_path / "t.npy")
    assert "t.npy" in str(error.value)


def test_images_without_class_are_taken_and_counted(tmp_path):
    root = make_root(tmp_path, a=["cat"], b=[], c=["yeti"])
    write_cls_labels(tmp_path / "t.npy", {"d": one_hot()})
    labels = load_labels(["a", "d", "c", "b"], root, VOC_CLASSES, tmp_path / "t.npy")
    assert {i: np.flatnonzero(v).tolist() for i, v in labels.items()} == {"a": [7], "d": [], "c": [], "b": []}
    assert labels.without_class() == ["d", "c", "b"]
    assert describe_negatives(labels) == ", 3 show none of the classes"
    assert describe_negatives(load_labels(["a"], root, VOC_CLASSES)) == describe_negatives(None) == ""
    with pytest.raises(UserError, match="^l.txt: none of 2 images shows any of the classes; check --classes"):
        load_training_labels(["c", "b"], "l.txt", root, VOC_CLASSES)


def test_table_of_other_classes(tmp_path):
    root = make_root(tmp_path, a=["zebra"], b=["lion"])
    classes = ("lion", "zebra")
    write_cls_labels(tmp_path / "t.npy", {"b": one_hot(0)})
    # what the table has of other images does not matter: it may be another data set's
    assert load_labels(["a"], root, classes, tmp_path / "t.npy")["a"].tolist() == [0, 1]
    with pytest.raises(UserError, match=r"t\.npy: b has 20 values for 2 classes: made with other classes"):
        load_labels(["a", "b"], root, classes, tmp_path / "t.npy")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "i8", "u1"])
def test_tables_of_any_number_type(tmp_path, dtype):
    save_dict(tmp_path / "t.npy", {"a": one_hot(0, 19).astype(dtype)}, protocol=3)
    got = load_labels(["a"], tmp_path, VOC_CLASSES, tmp_path / "t.npy")["a"]
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, one_hot(0, 19))


@pytest.mark.parametrize(
    "vector",
    [3, "cat", np.eye(20), np.array(["cat"] * 20, dtype=object), one_hot(1) * np.nan, one_hot(1) * 0.5, -one_hot(1)],
    ids=["number", "text", "matrix", "objects", "nan", "half", "negative"],
)
def test_vectors_that_are_no_labels(tmp_path, vector):
    save_dict(tmp_path / "t.npy", {"a": vector})
    with pytest.raises(UserError, match=r"t\.npy: (a|not a label table)"):
        load_labels(["a"], tmp_path, VOC_CLASSES, tmp_path / "t.npy")


# ---------------------------------------------------------------- the table


def tables(*exclude):
    """{ID: three labels}, IDs without characters of these categories."""
    texts = st.text(st.characters(exclude_categories=exclude), min_size=1, max_size=12)
    return st.dictionaries(texts, st.lists(st.booleans(), min_size=3, max_size=3), min_size=1)


@settings(max_examples=50, deadline=None)
@given(tables("Cs"))
def test_table_round_trip_and_numpy_reads_it(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("table") / "t.npy"
    write_cls_labels(path, {key: np.array(bits) for key, bits in table.items()})
    # our own file, made a line above, as other tools of the field read it
    for got in (read_cls_labels(path), np.load(path, allow_pickle=True).item()):
        assert {key: vector.tolist() for key, vector in got.items()} == table
        assert all(vector.dtype == np.float32 for vector in got.values())


def test_a_table_in_an_archive_is_refused(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array(["a"]), labels=np.zeros((1, 20), np.uint8))  # as older versions wrote it
    with pytest.raises(UserError, match=r"t\.npz: not a label table .*make_cls_labels"):
        read_cls_labels(tmp_path / "t.npz")


class Evil:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_table_that_runs_code_is_refused(tmp_path):
    save_dict(tmp_path / "t.npy", {"a": Evil(tmp_path / "ran")})
    with pytest.raises(UserError, match=r"t\.npy: not a label table .*open"):
        load_labels(["a"], tmp_path, VOC_CLASSES, tmp_path / "t.npy")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [{}, ["a"], {7: one_hot(1)}, {"a": one_hot(1), b"b": one_hot(1)}])
def test_dicts_that_are_no_table(tmp_path, value):
    save_dict(tmp_path / "t.npy", value)
    with pytest.raises(UserError, match=r"t\.npy: not a label table"):
        read_cls_labels(tmp_path / "t.npy")


def test_files_that_are_no_table(tmp_path):
    np.save(tmp_path / "array.npy", np.zeros((3, 20)))
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "text.npy").write_text("a 1 0 1")
    for name in ("array", "empty", "text"):
        with pytest.raises(UserError, match=f"{name}.npy: not a label table .*make_cls_labels"):
            read_cls_labels(tmp_path / f"{name}.npy")
    with pytest.raises(UserError, match=r"none\.npy: no such file"):
        read_cls_labels(tmp_path / "none.npy")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_table_gives_labels_or_a_user_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("table") / "t.npy"
    write_cls_labels(path, {"a": one_hot(1), "b": one_hot(2)})
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        got = load_labels(["a", "b"], path.parent, VOC_CLASSES, path)
    except UserError:
        return
    assert all(set(np.unique(got[key])) == {0, 1} and got[key].shape == (20,) for key in "ab")


# ---------------------------------------------------------------- make_cls_labels.py


@pytest.mark.parametrize("module", [False, True])
def test_script_takes_all_annotations(tmp_path, module):
    names = [f"{k * 37 % 50:02d}" for k in range(50)]
    root = make_root(tmp_path / "voc", **dict.fromkeys(names, ["person"]), b=["cat", "dog"])
    done = run("make_cls_labels", "--voc12_root", root, "--out", tmp_path / "out" / "t.npy", module=module)
    assert (done.returncode, done.stderr) == (0, "")
    assert "51 images, 20 classes" in done.stdout
    table = read_cls_labels(tmp_path / "out" / "t.npy")
    assert list(table) == [*sorted(names), "b"]
    np.testing.assert_array_equal(table["b"], one_hot(7, 11))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["t.npy"]


def test_script_with_lists_and_classes_from_another_folder(tmp_path):
    root = make_root(tmp_path / "voc", a=["lion"], b=["zebra"], c=["zebra", "lion"], d=["lion"])
    (tmp_path / "one.txt").write_text("a\n/JPEGImages/c.jpg /SegmentationClassAug/c.png\n")
    (tmp_path / "two.txt").write_text("c\nb\n")
    (tmp_path / "classes.txt").write_text("lion\nzebra\n")
    done = run(
        "make_cls_labels",
        "--voc12_root",
        "voc",
        "--list",
        "one.txt",
        "two.txt",
        "--classes",
        "classes.txt",
        "--out",
        "t.npy",
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    table = read_cls_labels(tmp_path / "t.npy")
    assert {key: vector.tolist() for key, vector in table.items()} == {"a": [1, 0], "c": [1, 1], "b": [0, 1]}
    assert load_labels(["b"], root, ("lion", "zebra"), tmp_path / "t.npy")["b"].tolist() == [0, 1]


def test_script_finds_nested_annotations(tmp_path):
    root = make_root(tmp_path / "voc", b=["cat"])
    (root / "Annotations" / "a").mkdir()
    (root / "Annotations" / "a" / "c.xml").write_text(annotation("dog"))
    (root / "Annotations" / "a" / "._c.xml").write_bytes(b"what a Mac leaves beside a file")
    done = run("make_cls_labels", "--voc12_root", root, "--out", tmp_path / "t.npy")
    assert (done.returncode, done.stderr) == (0, "")
    table = read_cls_labels(tmp_path / "t.npy")
    assert list(table) == ["a/c", "b"]
    np.testing.assert_array_equal(table["a/c"], one_hot(11))


def test_script_says_which_images_show_nothing(tmp_path):
    root = make_root(tmp_path / "voc", a=["cat"], b=[], c=[])
    done = run("make_cls_labels", "--voc12_root", root, "--out", tmp_path / "t.npy")
    assert done.returncode == 0
    assert "2 of them show none of the classes, the first is b" in done.stderr
    assert read_cls_labels(tmp_path / "t.npy")["b"].tolist() == [0] * 20


@pytest.mark.parametrize(
    ("files", "arguments", "words"),
    [
        ({}, [], "no XML files"),
        ({"Annotations/a.xml": "<annotation>"}, [], "a.xml: not an XML file"),
        ({"Annotations/a.xml": annotation()}, [], "none of 1 images shows any"),
        ({"Annotations/a.xml": annotation("cat"), "l.txt": "a\nx\n"}, ["--list", "l.txt"], "1 of 2 images"),
        ({"Annotations/a.xml": annotation("cat")}, ["--list", "none.txt"], "none.txt"),
        ({"Annotations/a.xml": annotation("cat")}, ["--classes", "none.txt"], "none.txt"),
        ({"Annotations/a.xml": annotation("cat"), "t.npy/x": ""}, [], "t.npy"),
    ],
    ids=["nothing", "broken", "no class", "no label", "no list", "no classes", "out is a folder"],
)
def test_script_refuses_in_one_line(tmp_path, files, arguments, words):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = sorted(tmp_path.rglob("*"))
    done = run("make_cls_labels", "--voc12_root", ".", "--out", "t.npy", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("make_cls_labels.py: error: ") and words in done.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_broken_annotation_keeps_the_table_that_was_there(tmp_path):
    root = make_root(tmp_path / "voc", a=["cat"])
    assert run("make_cls_labels", "--voc12_root", root, "--out", tmp_path / "t.npy").returncode == 0
    before = (tmp_path / "t.npy").read_bytes()
    (root / "Annotations" / "b.xml").write_text("")
    assert run("make_cls_labels", "--voc12_root", root, "--out", tmp_path / "t.npy").returncode == 2
    assert (tmp_path / "t.npy").read_bytes() == before
