"""Image labels of a CSV in both forms."""

import pytest

from tool.io.files import UserError
from voc12.label_table import finder, read_table


@pytest.mark.parametrize("column", ["label", "Label", "class", "Labels", "category"])
@pytest.mark.parametrize("cell", ["1", "dog"])
def test_a_column_that_may_mean_two_things_is_asked_about(tmp_path, column, cell):
    (tmp_path / "x.csv").write_text(f"image,{column}\na.jpg,{cell}\n")
    with pytest.raises(UserError, match=f"does `image,{column}` list .* or mark one class .* `labels`; for one class"):
        read_table(tmp_path / "x.csv", str)


def test_columns_that_mean_one_thing_are_read(tmp_path):
    for header, classes in (("labels", None), ("dog", ["dog"]), ("label,class", ["label", "class"])):
        (tmp_path / "x.csv").write_text(f"image,{header}\na.jpg,1{',0' * header.count(',')}\n")
        assert read_table(tmp_path / "x.csv", str)[0] == classes


def read(folder, text, locate=str):
    (folder / "x.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_table(folder / "x.csv", locate)


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_both_forms_give_the_same_labels(tmp_path, start, end):
    listed = ["image,labels", "a.jpg,cow;dog", '"b, c.jpg", cow ;', "sub\\d.jpg,", ""]
    marked = ["image, cow ,dog", "a.jpg,1,1.0", '"b, c.jpg",1,0', "sub\\d.jpg,0,0.0", ",,"]
    by_hand = {"a.jpg": {"cow", "dog"}, "b, c.jpg": {"cow"}, "sub/d.jpg": set()}
    assert read(tmp_path, start + end.join(listed).encode()) == (None, by_hand)
    assert read(tmp_path, start + end.join(marked).encode()) == (["cow", "dog"], by_hand)


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_spreadsheets_that_separate_by_semicolons_or_tabs(tmp_path, start):
    by_hand = {"a, b.jpg": {"cow", "dog"}, "c.jpg": {"dog"}, "d.jpg": set()}
    quoted = 'image;labels\r\na, b.jpg;"cow;dog"\r\nc.jpg;dog\r\nd.jpg;\r\n'
    for text in (quoted, quoted.replace('"', "").replace("dog\r", "dog;\r")):
        assert read(tmp_path, start + text) == (None, by_hand)
    marked = '"image";"cow";"dog"\na, b.jpg;1;1\nc.jpg;0;1\nd.jpg;0;0\n'
    for text in (marked, marked.replace(";", "\t")):
        assert read(tmp_path, start + text) == (["cow", "dog"], by_hand)
    with pytest.raises(UserError, match="line 2: 1 fields where the header has 2"):
        read(tmp_path, "image;labels\na.jpg\n")


@pytest.mark.parametrize(
    "text", ["image;labels;\na.jpg;cow;dog\nb.jpg;dog;\n", "image,labels,,\na.jpg,cow;dog,,\nb.jpg,dog\n"]
)
def test_lines_that_a_spreadsheet_filled_up(tmp_path, text):
    assert read(tmp_path, text) == (None, {"a.jpg": {"cow", "dog"}, "b.jpg": {"dog"}})


def test_quotes_after_a_blank(tmp_path):
    text = 'image, labels\na.jpg, "cow;dog"\nb.jpg, dog\n'
    assert read(tmp_path, text) == (None, {"a.jpg": {"cow", "dog"}, "b.jpg": {"dog"}})


def test_letters_of_one_and_of_two_codes_are_one_name(tmp_path):
    """macOS writes an umlaut in the name of a file as a letter and two dots."""
    one, two = "K\u00e4fer", "Ka\u0308fer"
    labels = read(tmp_path, f"image,labels\na.jpg,{one}\nb.jpg,{two}\n")[1]
    assert labels == {"a.jpg": {one}, "b.jpg": {one}}
    assert read(tmp_path, f"image,{two},cow\na.jpg,1,0\n")[0] == [one, "cow"]
    for file, name in ((one, two), (two, one)):
        find = finder(tmp_path, [f"{file}.jpg"])
        assert find(f"{name}.jpg") == find(name) == find(f"{file}.jpg") == f"{file}.jpg"


def test_rows_are_gathered_under_what_is_located(tmp_path):
    text = "image,labels\na.jpg,cow;dog\na.jpeg,dog;cow\n"
    assert read(tmp_path, text, lambda name: name[0])[1] == {"a": {"cow", "dog"}}
    with pytest.raises(UserError, match="x.csv: line 3: 'a.jpeg' has other labels in an earlier row"):
        read(tmp_path, text.replace("dog;cow", "dog"), lambda name: name[0])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no header"),
        ("photo,labels\n", "no header"),
        ("image\n", "no header"),
        ("image,cow,dog\na.jpg,1\n", "line 2: 2 fields where the header has 3"),
        ("image,cow,dog\na.jpg,1,yes\n", "line 2: 'yes' in column 'dog' is neither 0 nor 1"),
        ('image,labels\n"a\nb.jpg",cow\n../c.jpg,cow\n', r"line 4: '../c.jpg' leads out"),
        ("image,labels\nC:\\a.jpg,cow\n", "line 2: .* leads out of the folder"),
        ("image,labels\n/a.jpg,cow\n", "line 2: .* leads out of the folder"),
        ("image,labels\n ,cow\n", "line 2: no image is named"),
        ("image,labels,notes\na.jpg,cow,x\n", r"other columns beside image and labels \(notes\); remove them"),
        ('image,labels\n"a.jpg,cow\n', "line 2: a quote that never ends"),
        ("image,labels\nä.jpg,cow\n".encode("latin1"), "not UTF-8"),
    ],
)
def test_tables_that_are_refused_with_their_line(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path, text)
    assert str(tmp_path / "x.csv") in str(error.value)


def test_absolute_paths_in_the_folder_of_the_images(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    text = f"image,labels\n{tmp_path}/link/a.jpg,cow\n {tmp_path.resolve()}/b.jpg,cow\nc.jpg,cow\n"
    (tmp_path / "x.csv").write_text(text)
    assert list(read_table(tmp_path / "x.csv", str, tmp_path / "link")[1]) == ["a.jpg", "b.jpg", "c.jpg"]
    (tmp_path / "x.csv").write_text(f"image,labels\n{tmp_path}/link/../a.jpg,cow\n")
    with pytest.raises(UserError, match="leads out of the folder"):
        read_table(tmp_path / "x.csv", str, tmp_path / "link")


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="x.csv: no such file; --labels takes a CSV"):
        read_table(tmp_path / "x.csv", str)


def test_a_name_finds_its_photograph_with_or_without_its_suffix(tmp_path):
    (tmp_path / "other.heic").touch()
    find = finder(tmp_path, {"a.jpg", "sub/b.png", "c.jpg", "c.png"})
    assert [find(name) for name in ("a.jpg", "a", "sub/b", "c.png")] == ["a.jpg", "a.jpg", "sub/b.png", "c.png"]
    assert find("other.heic") == "other.heic" and find("b") is None
    with pytest.raises(UserError, match="c: several photographs are called so"):
        find("c")
