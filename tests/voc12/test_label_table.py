"""Image labels of a CSV in both forms."""

import pytest

from tool.io.files import UserError
from voc12.label_table import read_table


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
