"""A pass over a list of images: what is left, what is done, what failed."""

import pytest

from engine.labelling import usable_images
from tool.io.failures import Failures
from tool.io.files import UserError


def test_a_list_without_any_image_is_refused(toy, tmp_path, capsys):
    failures = Failures("skip", tmp_path / "failed.txt", held=True)
    with pytest.raises(UserError, match="no image is left: all 2 failed, the last with: .*/nobody.jpg: no such image"):
        usable_images(["none", "nobody"], toy, failures)
    assert capsys.readouterr().err.count("left out") == 2 and not failures.path.exists()
