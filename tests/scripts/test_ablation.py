"""ablation.py: the commands of every row are ones that the scripts take, and what is done is not done again."""

from pathlib import Path

import numpy as np
import pytest
from conftest import load_script, prints, refused
from PIL import Image

from engine.children import Runs
from engine.report.comparison import filled
from engine.report.study import make_parts
from engine.studies import METHOD, MSRC12, VOC6
from tool.io.files import read_json, read_list, write_json, write_text
from tool.io.images import label_image, save_image
from tool.io.scores import write_scores

IDS = [f"photo{k:02d}" for k in range(15)]
PARTS = list(make_parts(MSRC12, Path("nowhere")))


@pytest.fixture
def data(tmp_path):
    """Fifteen photographs with masks of three classes, in VOC layout."""
    root = tmp_path / "msrc12"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for k, image_id in enumerate(IDS):
        save_image(root / "JPEGImages" / f"{image_id}.jpg", Image.new("RGB", (64, 48), (k, 90, 30)))
        mask = np.zeros((48, 64), np.uint8)
        mask[:20, :20] = 1 + k % 3
        save_image(root / "SegmentationClass" / f"{image_id}.png", label_image(mask))
    write_text(root / "ImageSets" / "Segmentation" / "train.txt", "\n".join(IDS) + "\n")
    return root


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "photographs.md"
    write_text(path, "\n".join(f"<!-- {name} -->\nof before\n<!-- end of {name} -->\nprose" for name in PARTS))
    return path


@pytest.fixture
def commands(monkeypatch):
    """What would be run. Every script's own parser takes its flags; evaluation.py and the maps are played."""
    ran = []

    def run(stages, stage, script, *flags):
        words = list(map(str, flags))
        args = load_script(script).get_args_parser().parse_args(words)
        ran.append((script, args))
        name = args.name[0] if isinstance(args.name, list) else args.name
        folder = stages.folder / name
        if script == "evaluation.py":
            miou = 40.0 + len(name)
            result = {
                "miou_present": miou,
                "mean_precision": 60.0,
                "mean_recall": 70.0,
                "classes": {"cat": miou, "cow": 0},
            }
            write_json(args.json, result | ({"kfold": {"miou_present": miou - 1}} if args.kfold else {}))
        elif script == "train.py":
            lines = ['{"epoch": 4}', '{"epoch": 5, "miou_present": 30.5}', '{"epoch": 9, "miou_present": 31.5}']
            write_text(folder / "log.jsonl", "\n".join(lines) + "\n")
        elif script == "infer.py":
            for image_id in IDS:
                scores = {0: np.full((48, 64), 0.5, np.float32)}
                write_scores(folder / "dict" / f"{image_id}.npy", scores)
                for alphas in args.png or ():
                    labels = label_image(np.zeros((48, 64), np.uint8))
                    place = "_".join(f"{alpha:02d}" for alpha in alphas)
                    save_image(folder / f"crf_png/{place}/{image_id}.png", labels)
        elif script == "choose.py":
            score = {"miou": 50.0, "std": 1.0, "setting": "4, 5, 80", "share": 9}
            curve = [{"masks": few, "draws": 20, "cam": score | {"setting": 0.3}, "crf": score} for few in args.curve]
            write_json(folder / "curve.json", {"curve": curve})
        elif script == "infer_aff.py":
            for image_id in IDS:
                labels = label_image(np.zeros((48, 64), np.uint8))
                save_image(folder / f"rw/{args.low:02d}_{args.high:02d}{args.dup:02d}" / f"{image_id}.png", labels)

    monkeypatch.setattr(Runs, "run", run)
    return ran


def flags(data, page, *more):
    return ["--data", data, "--experiment", page.parent / "runs", "--pages", page, "--num_workers", 0, *more]


def test_every_row_runs_once_and_the_page_shows_it(data, page, commands):
    printed = prints("ablation.py", *flags(data, page, "--seeds", 0, 1))
    trained = [args.name for name, args in commands if name == "train.py"]
    assert sorted(trained) == sorted(f"{row}_seed{seed}" for row in MSRC12.rows for seed in (0, 1))
    text = page.read_text()
    assert "of before" not in text and text.count("prose") == len(PARTS)
    folds = 39.0 + len("gap_seed0")
    same = f"60.0 ± 0.0 | 70.0 ± 0.0 | 2 | {folds + 1:.1f} ± 0.0 | {folds:.1f} ± 0.0 |"
    assert f"| average (GAP) | {folds:.1f} ± 0.0 | {same}" in squeeze(text)
    assert all(row.title in text and row.title in printed for row in MSRC12.rows.values())
    assert "| 20 | 50.0 ± 1.0 | 0.3 (9 of 20) | 50.0 ± 1.0 | 4, 5, 80 (9 of 20) |" in squeeze(text)
    assert [args.name for name, args in commands if name == "choose.py"] == ["soft_repel_seed0"]
    assert page.with_name("msrc12.jpg").is_file()
    count = len(commands)
    prints("ablation.py", *flags(data, page, "--seeds", 0, 1))
    assert len(commands) == count  # nothing again


def squeeze(text):
    """Markdown without the blanks that align it."""
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def test_equal_steps_in_every_row(data, page, commands):
    prints("ablation.py", *flags(data, page, "--seeds", 0))
    trainings = [args for name, args in commands if name == "train.py"]
    for setting in ("epochs", "batch_size", "momentum", "trunk", "train_list", "crop_size", "pretrained", "T"):
        assert len({str(getattr(args, setting)) for args in trainings}) == 1, setting
    rates = {(args.optimizer, args.lr) for args in trainings}
    assert rates == {("sgd", 0.01), ("adamw", 0.0001)}
    again = [args for args in trainings if args.optimizer == "adamw"]
    assert len({args.scratch_lr_mult for args in again}) == 1 and len({args.pool for args in again}) == len(again) == 8
    assert all(args.batch_size == args.batch_size_triplet for args in trainings)


def test_settings_are_found_on_photographs_that_no_table_is_scored_on(data, page, commands):
    prints("ablation.py", *flags(data, page, "--seeds", 0, "--rows", "gpp"))
    lists = {name: set(read_list(page.parent / "runs" / f"{name}.txt")) for name in ("all", "tune", "report")}
    assert lists["tune"] | lists["report"] == lists["all"] == set(IDS)
    assert not lists["tune"] & lists["report"] and len(lists["tune"]) == 5


def test_the_segmentation_network_is_scored_on_photographs_it_never_saw(data, page, commands):
    prints("ablation.py", *flags(data, page, "--seeds", 3, "--rows", "soft_repel"))
    trained = [args for name, args in commands if name == "train_seg.py"]
    tested = [args for name, args in commands if name == "infer_seg.py"]
    names = ["truth_seed3", "crf_seed3", "sure_seed3", "soft_repel_seed3"]
    assert [args.name for args in trained] == [args.name for args in tested] == names
    labels = [args.labels for args in trained]
    assert labels[0] == str(data / "SegmentationClass") and labels[3] == "rw/02_1204"
    places = [str(page.parent / "runs/soft_repel_seed3/crf_png" / name) for name in ("04", "02_12")]
    assert labels[1:3] == places
    for one, other in zip(trained, tested):
        train, test = set(read_list(one.train_list)), set(read_list(other.infer_list))
        assert not train & test and train | test == set(IDS) and len(test) == 3
        assert one.pretrained == "imagenet"  # not the classifier, which saw the labels of all


def test_the_mean_of_all_seeds_has_one_crf_and_a_network_a_seed(data, page, commands):
    prints("ablation.py", *flags(data, page, "--seeds", 2, 5, "--rows", "soft_repel"))
    (mean,) = (args for name, args in commands if name == "infer.py" and args.mean_of)
    assert (mean.name, mean.mean_of) == ("mean_seed2", ["soft_repel_seed2", "soft_repel_seed5"]) and mean.dict
    trained = {args.name: args for name, args in commands if name == "train_seg.py"}
    labels = str(page.parent / "runs/mean_seed2/crf_png/02_12")
    assert [trained[f"mean_seed{seed}"].labels for seed in (2, 5)] == [labels, labels]
    assert {args.seed for args in trained.values()} == {2, 5}
    assert "| network on such labels of the mean of the seeds' maps | 50.0 ± 0.0 |" in squeeze(page.read_text())


def test_another_command_is_another_run(tmp_path, commands):
    runs = Runs(tmp_path, tmp_path, 0)
    score = ("png", "rw", tmp_path / "list.txt")
    assert runs.once("n", "maps", [], {"x": score}) == {"x": read_json(tmp_path / "n" / "score_x.json")}
    runs.once("n", "maps", [], {"x": score})
    assert len(commands) == 1
    runs.once("n", "maps", [], {"x": (*score, "--seed", 1)})
    assert len(commands) == 2


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    write_text(page, "<!-- here -->\n<!-- end of here -->\n")
    text = filled(page, {"here": r"back\slash \1", "elsewhere": "not here"})
    assert text == "<!-- here -->\nback\\slash \\1\n<!-- end of here -->\n"
    with pytest.raises(Exception, match="has no place for any of there"):
        filled(page, {"there": ""})


def test_a_set_with_lists_of_its_own(data, page, commands):
    """Trains on train_aug.txt, scores maps on train.txt, networks on val.txt; pages can be made again."""
    data = data.rename(data.with_name("voc6"))
    lists = {"train_aug": IDS[:12], "train": IDS[:5], "val": IDS[12:]}
    for part, ids in lists.items():
        write_text(data / f"ImageSets/Segmentation/{part}.txt", "\n".join(ids) + "\n")
    write_text(
        page, "".join(f"<!-- voc6 {part} -->\n<!-- end of voc6 {part} -->\n" for part in ("segmentation", "classes"))
    )
    prints("ablation.py", *flags(data, page, "--seeds", 0, 1))
    assert len([name for name, _ in commands if name == "train.py"]) == 2 * len(VOC6.rows) == 10
    for name, args in commands:
        if name in ("train.py", "train_aff.py", "train_seg.py"):
            assert read_list(args.train_list) == lists["train_aug"]
        elif name == "infer_seg.py":
            assert read_list(args.infer_list) == lists["val"]
        elif name == "evaluation.py":
            assert read_list(args.list) == lists["val" if args.dict_dir.startswith("seg/") else "train"]
    text, count = page.read_text(), len(commands)
    share = 100 * (40 + len(f"{METHOD}_seed0")) / (40 + len("truth_seed0"))
    assert f"| network on pseudo labels, % of network on true masks | {share:.1f} ± 0.0 | | | 2 |" in squeeze(text)
    labelled = 40 + len(f"{METHOD}_seed0")
    assert f"| cat | 49.0 ± 0.0 | 50.0 ± 0.0 | 50.0 ± 0.0 | {labelled}.0 ± 0.0 | 51.0 ± 0.0 |" in squeeze(text)
    assert "cow" not in text
    assert (page.with_name("voc6_seed1.jsonl")).read_text().count("epoch") == 3
    write_text(page, text.replace("% of", "gone"))
    prints("ablation.py", *flags(data, page, "--seeds"))
    assert page.read_text() == text and len(commands) == count


def test_bad_input(data, page, commands):
    refused("ablation.py", *flags(page.parent / "nothing", page), says=["nothing", "--study"])
    refused("ablation.py", *flags(page.parent / "nothing", page, "--study", "msrc12"), says="nothing")
    refused("ablation.py", *flags(data, page, "--rows", "gapp"), says="gapp")
    refused("ablation.py", *flags(data, page.with_name("none.md")), says="none.md")
    (data / "SegmentationClass" / "photo03.png").unlink()
    refused("ablation.py", *flags(data, page), says=["photo03", "mask"])
    (data / "JPEGImages" / "photo04.jpg").unlink()
    refused("ablation.py", *flags(data, page), says="photo04")
    assert not commands
