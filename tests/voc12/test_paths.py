"""Where photographs of a data set lie, and how large they are."""

from PIL import Image

from voc12.paths import usual_side


def test_the_usual_side_of_photographs(tmp_path):
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for path, size in zip(paths, [(8, 30), (20, 10), (4000, 3), (9, 41)]):
        Image.new("RGB", size).save(path)
    assert usual_side(paths[:3]) == 30 and usual_side(paths) == 35  # of 20, 30, 41, 4000; the last one is missing
    assert usual_side(paths[4:]) == usual_side([]) == 0
    assert usual_side([paths[0], paths[2]] * 1000) == 30  # every second one
