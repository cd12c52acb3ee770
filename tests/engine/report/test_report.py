"""The page of report.py: its numbers, what it says of unfinished experiments, and how it behaves in a browser."""

import html
import json
import re
import shutil
from urllib.parse import unquote

import cv2
import numpy as np
import pytest
from conftest import prints, refused, run_here

from engine.report.found import read_log
from tool.io.files import read_list, write_json
from tool.io.images import label_image, open_mask, save_image
from tool.io.scores import write_scores

LINE = {"steps": 3, "global_step": 3, "planned_steps": 12, "phase": "warm-up", "seconds": 1.0}
RECORD = {"origin": "0" * 16, "settings": {"epochs": 2}, "command": "x.py --name n", "ended": None, "earlier": []}
SCORED = {"dict": "cam", "crf/02": "crf", "crf/09": "crf", "rw/02_1909": "png", "seg/deeplab_resnet38d": "png"}


def shifted(mask, rng):
    """A result that is right in part: the mask without its rim, moved by a few pixels."""
    return np.roll(np.where(mask == 255, 0, mask), rng.integers(-6, 7, 2), (0, 1))


def write_maps(folder, image_id, labels, rng):
    """Soft maps of labels: dict, and CRF scores of two alphas."""
    classes = [int(k) for k in np.unique(labels) if k] or [1]
    blurred = {k: cv2.blur((labels == k).astype(np.float32), (9, 9)) for k in classes}
    noise = {k: np.clip(v * rng.uniform(0.5, 1), 0, 1) for k, v in blurred.items()}
    write_scores(folder / "dict" / f"{image_id}.npy", {k - 1: v for k, v in noise.items()})
    for alpha in (2, 9):
        scores = {0: (1 - np.max(list(noise.values()), axis=0)) ** alpha} | noise
        total = sum(scores.values())
        path = folder / "crf" / f"{alpha:02d}" / f"{image_id}.npy"
        write_scores(path, {k: v / total for k, v in scores.items()})


def write_log(path, epochs=2):
    lines = [LINE | {"epoch": k, "lr": 0.01 / (k + 1), "total": 1.0 - k / 4, "cls": 0.5} for k in range(epochs)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def make_experiment(root, ids, val, folder):
    """Every stage of the experiment as if it had run, without a network. ids, val: the images of its lists."""
    rng = np.random.default_rng(0)
    for image_id in [*ids, *val]:
        truth = open_mask(root / "SegmentationClass" / f"{image_id}.png", 21)
        if image_id in ids:
            write_maps(folder, image_id, shifted(truth, rng), rng)
            save_image(folder / "rw" / "02_1909" / f"{image_id}.png", label_image(shifted(truth, rng)))
        else:
            save_image(folder / "seg" / "deeplab_resnet38d" / f"{image_id}.png", label_image(shifted(truth, rng)))
    for name in ("ckpt", "ckpt_aff/aff021909", "dict", "crf/02", "crf/09", "rw/02_1909"):
        write_json(folder / name / "run.json", RECORD | ({} if "ckpt" in name else {"ended": "2026-01-02T03:04:05"}))
    write_log(folder / "log.jsonl")
    write_log(folder / "log_aff021909.jsonl")


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """Experiments with "n", of which every stage is there."""
    experiments = tmp_path_factory.mktemp("experiments")
    make_experiment(toy, read_list(toy / "train.txt"), read_list(toy / "val.txt"), experiments / "n")
    return experiments


@pytest.fixture
def experiments(finished, tmp_path):
    """`finished` without its page, to damage."""
    return shutil.copytree(finished, tmp_path / "experiments", ignore=shutil.ignore_patterns("report"))


def flags(toy, experiments):
    lists = ["--list", toy / "train.txt", "--seg_list", toy / "val.txt"]
    return ["--name", "n", "--experiment", experiments, "--voc12_root", toy, *lists]


def page(toy, experiments, *more):
    """Make the page -> its HTML."""
    code, errors = run_here("report.py", *flags(toy, experiments), *more)
    assert code == 0, errors
    return (experiments / "n" / "report" / "index.html").read_text()


def links(text):
    """Paths of the files that the pictures show, as the page links them."""
    return [unquote(html.unescape(href)) for href in re.findall(r'<a class="file" href="([^"]+)"', text)]


def pictures(text):
    return re.findall(r'<img src="(images/[^"]+)"', text)


def row(text, stage):
    """{figure: number as it is shown} of one stage."""
    found = re.search(rf'<tr data-stage="{re.escape(stage)}">.*?</tr>', text, re.DOTALL)[0]
    return dict(re.findall(r'data-figure="(\w+)">([^<]*)<', found))


# ---------------------------------------------------------------- numbers


@pytest.fixture(scope="module")
def text(toy, finished):
    return page(toy, finished, "--images", 12)


def evaluate(toy, experiments, path, folder, names):
    """evaluation.py on one folder and the images of a list -> its JSON."""
    prints(
        "evaluation.py",
        *["--name", "n", "--experiment", experiments, "--voc12_root", toy, "--list", names, "--task", SCORED[folder]],
        *["--dict_dir", folder, "--json", path],
    )
    return json.loads(path.read_text())


@pytest.mark.parametrize("folder", SCORED)
def test_scores_are_those_of_evaluation(toy, finished, text, tmp_path, folder):
    names = toy / ("val.txt" if folder.startswith("seg") else "train.txt")
    result = evaluate(toy, finished, tmp_path / "r.json", folder, names)
    shown = row(text, folder)
    assert shown == {key: f"{result[key]:.1f}" for key in shown} and len(shown) == 5
    table = re.search(r'<table class="sortable bars">.*?</table>', text, re.DOTALL)[0]
    column = re.findall(r'class="small">([^<]+)</span></th>', table).index(folder)  # of the CRF every alpha
    rows = re.findall(r"<tr><th scope=\"row\">([^<]+)</th>(.*?)</tr>", table, re.DOTALL)
    values = {name: re.findall(r">([^<]+)</td>", cells)[column] for name, cells in rows}
    absent = set(result["absent"])
    assert {k: v for k, v in values.items() if v != "absent"} == {
        k: f"{v:.1f}" for k, v in result["classes"].items() if k not in absent
    }


def test_the_iou_of_an_image_is_that_of_a_list_of_it_alone(toy, finished, text, tmp_path):
    cards = re.findall(r'<li class="card".*?data-id="([^"]+)"[^>]*>', text)
    (tmp_path / "one.txt").write_text(cards[0])
    result = evaluate(toy, finished, tmp_path / "r.json", "rw/02_1909", tmp_path / "one.txt")
    card = re.search(rf'<li class="card"[^>]*data-id="{cards[0]}"[^>]*>', text)[0]
    assert float(re.search(r'data-iou-3="([^"]+)"', card)[1]) == pytest.approx(result["miou_present"])


def test_the_threshold_curve_and_the_results_that_lie_there(toy, experiments):
    path = experiments / "n" / "score.json"
    result = evaluate(toy, experiments, path, "dict", toy / "train.txt")
    text = page(toy, experiments)
    assert f"Best at {result['best_threshold']:.2f}, with mIoU {result['miou']:.1f}" in text
    assert "score.json" in text and "of an earlier run" not in text
    write_json(experiments / "n" / "dict" / "run.json", RECORD | {"origin": "1" * 16})
    assert "of an earlier run of this folder" in page(toy, experiments)


def test_images_of_both_lists_each_with_its_panels(toy, text):
    cards = re.findall(r'<li class="card".*?</li>', text, re.DOTALL)
    assert len(cards) == 10  # six of train, and the four that val has
    titles = [re.findall(r"<figcaption><span>([\w ]+?)(?: <span|</span>)", card) for card in cards]
    assert sum(t[-1] == "Truth" and "Dense CRF" in t and "Pseudo labels" in t for t in titles) == 6
    assert sum(t == ["Photograph", "Segmentation", "Truth"] for t in titles) == 4
    assert all("Activation" in t for t in titles if "Dense CRF" in t)


# ---------------------------------------------------------------- what is not there, or not yet


def test_of_a_training_alone(toy, experiments):
    n = experiments / "n"
    for name in ("dict", "crf", "rw", "seg", "ckpt_aff"):
        shutil.rmtree(n / name)
    (experiments / "nowhere").mkdir()
    text = page(toy, experiments, "--voc12_root", experiments / "nowhere")  # no photograph is needed
    assert "2 of 2 epochs" in text and "<svg" in text and "Over 2 epochs: total from 1 to 0.75, cls" in text
    assert text.count("missing: ") == 7 and "missing: infer.py --dict writes it" in text
    assert not pictures(text) and not (n / "report" / "images").exists()


def test_of_maps_alone(toy, experiments):
    n = experiments / "n"
    for name in ("ckpt", "ckpt_aff", "crf", "rw", "seg"):
        shutil.rmtree(n / name)
    (n / "dict" / "run.json").unlink()
    for log in n.glob("log*"):
        log.unlink()
    text = page(toy, experiments)
    assert row(text, "dict")["miou"] and "no run.json: files of another tool" in text
    assert "12<span" in text.replace("\n", "") and len(re.findall('<li class="card"', text)) == 12


def test_half_finished_folders(toy, experiments):
    done = sorted((experiments / "n" / "rw" / "02_1909").glob("*.png"))
    for path in done[5:]:
        path.unlink()
    write_json(experiments / "n" / "rw" / "02_1909" / "run.json", RECORD)
    for powers in ("05", "09", "02_09"):  # of infer.py --png; the scores of 09 are there, 02_09 labels not all pixels
        shutil.copytree(experiments / "n" / "rw" / "02_1909", experiments / "n" / "crf_png" / powers)
    text = page(toy, experiments)
    assert row(text, "crf_png/05") == row(text, "rw/02_1909") and 'class="detail">crf_png/05<' in text
    assert "crf_png/09" not in text and "crf_png/02_09" not in text
    cells = re.search(r'data-stage="rw/02_1909">.*?</tr>', text, re.DOTALL)[0]
    assert "running, or stopped before its end" in cells and '5<span class="small">of 12, train.txt' in cells


def test_a_log_that_is_being_written(toy, experiments, tmp_path):
    with open(experiments / "n" / "log.jsonl", "a") as stream:
        stream.write('{"epoch": 2, "steps": 3, "glo')
    write_json(experiments / "n" / "ckpt" / "run.json", RECORD | {"settings": {"epochs": 5}})
    text = page(toy, experiments)
    assert "2 of 5 epochs" in text and "Over 2 epochs" in text
    path = tmp_path / "log.jsonl"
    path.write_text('7\n{"epoch": 1, "a": 1}\n[]\n\x00\n{"epoch": 0}\n{"epoch": 1, "a": 2}\n{"epoch": "x"}\n')
    assert read_log(path) == [{"epoch": 0}, {"epoch": 1, "a": 2}]


def test_without_masks_there_is_everything_but_scores(toy, experiments, tmp_path):
    root = shutil.copytree(toy, tmp_path / "bare", ignore=shutil.ignore_patterns("SegmentationClass"))
    text = page(root, experiments)
    assert "the images have no masks" in text and not any(row(text, "dict").values())
    assert len(re.findall('<li class="card"', text)) == 16 and "Truth" not in text
    assert "Pseudo labels" in text and "data-iou-" not in text
    assert text.index('id="images"') < text.index('id="stages"') and "data-figure" not in text
    shares = re.findall(r'data-why="(\w+)" data-disputed="([^"]+)"', text)
    first = [float(share) for why, share in shares if why == "disputed"]
    assert len(shares) == 12 and len(first) > 2 and first == sorted(first, reverse=True)
    assert shares[: len(first)] == [pair for pair in shares if pair[0] == "disputed"]  # val has one stage alone
    lies = [(experiments / "n" / "report" / path).is_file() for path in links(text)]
    assert all(lies) and len(lies) == len(pictures(text))


def test_results_that_cannot_be_scored_are_said(toy, experiments):
    save_image(experiments / "n" / "rw" / "02_1909" / "toy_00003.png", label_image(np.zeros((5, 7), np.uint8)))
    (experiments / "n" / "crf" / "02" / "toy_00002.npy").write_bytes(b"cut off")
    text = page(toy, experiments, "--images", 40)
    assert "7 x 5 pixels, but its mask has" in text and "toy_00002.npy: not a score file" in text
    assert not any(row(text, "crf/02").values()) and row(text, "crf/09")["miou"]


def test_records_that_are_damaged(toy, experiments):
    n = experiments / "n"
    odd = {"started": 5, "ended": [1], "lists": 3, "weights": "w", "packages": [2], "settings": {"epochs": "x"}}
    write_json(n / "ckpt" / "run.json", RECORD | odd)
    write_json(n / "dict" / "run.json", RECORD | odd)
    (n / "crf" / "02" / "run.json").write_text("{")
    result = {"task": "cam", "list": 1, "dict_dir": 2, "miou": 3.5, "kfold": "no"}
    for name, value in (("a", []), ("b", {"task": 1}), ("c", result | {"miou": "x"}), ("found", result)):
        write_json(n / f"{name}.json", value)
        (n / f"{name}.run.json").write_text('["a"]')
    text = page(toy, experiments)
    assert "found.json" in text and "c.json" not in text and "no run.json" in text


# ---------------------------------------------------------------- made again


def test_made_again_shows_what_changed(toy, experiments):
    def files():
        return {p.name: p.stat().st_mtime_ns for p in (experiments / "n" / "report" / "images").iterdir()}

    text = page(toy, experiments)
    before = files()
    assert before.keys() == {src.split("/")[1] for src in pictures(text)}
    assert pictures(page(toy, experiments)) == pictures(text) and files() == before
    truth = open_mask(toy / "SegmentationClass" / "toy_00004.png", 21)
    save_image(experiments / "n" / "rw" / "02_1909" / "toy_00004.png", label_image(np.where(truth == 255, 0, truth)))
    again = page(toy, experiments)
    assert row(again, "dict") == row(text, "dict") and row(again, "rw/02_1909") != row(text, "rw/02_1909")
    assert files().keys() == {src.split("/")[1] for src in pictures(again)} != before.keys()


@pytest.mark.parametrize("cache", [b"", b"[1]", b'{"dict": {"key": 1}}', b'{"dict": []}'])
def test_a_broken_cache_is_made_again(toy, experiments, text, cache):
    (experiments / "n" / "report").mkdir(exist_ok=True)
    (experiments / "n" / "report" / "scores.json").write_bytes(cache)
    assert row(page(toy, experiments), "dict") == row(text, "dict")


def test_a_report_that_fails_leaves_the_old_page_whole(broken, experiments):
    old = page(broken, experiments)
    photo = next((broken / "JPEGImages").glob("toy_00007*"))
    photo.write_bytes(photo.read_bytes()[:200])
    line = refused("report.py", *flags(broken, experiments), "--size", 100, says=["toy_00007", "unreadable image"])
    assert "fetch it again" in line
    folder = experiments / "n" / "report"
    assert (folder / "index.html").read_text() == old and all((folder / src).is_file() for src in pictures(old))


# ---------------------------------------------------------------- refused


def test_experiments_without_anything(toy, tmp_path):
    (tmp_path / "n").mkdir()
    write_json(tmp_path / "n" / "settings.json", {"width": 1.0})
    refused("report.py", *flags(toy, tmp_path), says=["no result of any stage", "run train.py --name n"])
    refused("report.py", *flags(toy, tmp_path), "--name", "m", says=["m: no such experiment", "--name"])
    assert not (tmp_path / "n" / "report").exists()


def test_photographs_that_were_moved(broken, experiments, tmp_path):
    photo = next((broken / "JPEGImages").glob("toy_00003*"))
    photo.rename(tmp_path / "elsewhere")
    says = ["toy_00003.jpg: no such image", "1 of ", "check --voc12_root"]
    refused("report.py", *flags(broken, experiments), says=says)
    (broken / "JPEGImages").rename(tmp_path / "moved")
    says = [str(broken / "JPEGImages"), "--voc12_root DIR says where it is now"]
    refused("report.py", *flags(broken, experiments), says=says)
    assert not (experiments / "n" / "report").exists()


def test_an_experiment_or_a_folder(toy, experiments, tmp_path):
    refused("report.py", says=["either --name N or --folder DIR"])
    refused("report.py", *flags(toy, experiments), "--folder", tmp_path, says=["either --name N or --folder DIR"])
    refused("report.py", "--folder", tmp_path / "x", says=[f"{tmp_path}/x: no results there", "infer.py --images"])
    folder = experiments / "n"  # dict and crf lie there too, of which nobody knows the photographs
    refused("report.py", "--folder", folder, says=[f"{folder}: the photographs are not there", "--photographs PATH"])
    refused("report.py", "--folder", folder, "--photographs", tmp_path / "x", says=[f"{tmp_path}/x: the photographs"])
    save_image(tmp_path / "other" / "other.png", label_image(np.zeros((4, 4), np.uint8)))
    refused("report.py", "--folder", folder, "--photographs", tmp_path / "other", says=["no photograph there has a"])
    assert not (folder / "report").exists()


def test_counts_and_lists_that_cannot_be(toy, experiments, tmp_path):
    for count in (0, -3, "x"):
        refused("report.py", *flags(toy, experiments), "--images", count, says="--images")
    refused("report.py", *flags(toy, experiments), "--thresholds", 0.5, 0.2, says="MIN must not be above MAX")
    none = ["--list", "none", "--seg_list", "none"]
    refused("report.py", *flags(toy, experiments), *none, says=[str(toy), "give one with --list FILE"])
    (tmp_path / "other.txt").write_text("nobody\n")
    says = ["other.txt", "none of the images has a result in dict", "check --list"]
    refused("report.py", *flags(toy, experiments), "--list", tmp_path / "other.txt", "--seg_list", "none", says=says)


# ---------------------------------------------------------------- in a browser

SIZES = (360, 390, 800, 1440, 1920)
CLASSES = ['"><img src=x onerror=boom()>', "<script>boom()<script>", "Straßenbahn  & 'Co'", *map(str, range(17))]
ODD = ['a "b" <script>boom()<script>', "Grüße & 50%#?", "x/y z", "'single'"]


@pytest.fixture(scope="module")
def odd(toy, tmp_path_factory):
    """The page of images and classes with names that are no names of HTML -> (its path, class of each image)."""
    place = tmp_path_factory.mktemp("odd <b> ü#1")
    root, ids = place / "set", []
    for name, image_id in zip(ODD, read_list(toy / "train.txt")):
        for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(toy / folder / f"{image_id}{suffix}", root / folder / f"{name}{suffix}")
        mask = open_mask(root / "SegmentationClass" / f"{name}.png", 21)
        mask[(mask > 0) & (mask < 255)] = 1 + len(ids) % 3  # of the classes with odd names
        save_image(root / "SegmentationClass" / f"{name}.png", label_image(mask))
        ids.append(name)
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in CLASSES))
    (root / "train.txt").write_text("".join(f"{name}\n" for name in ids))
    make_experiment(root, ids, [], place / "n")
    page(root, place, "--classes", root / "classes.txt", "--seg_list", "none")
    return place / "n" / "report" / "index.html", {name: CLASSES[k % 3] for k, name in enumerate(ids)}


@pytest.fixture(scope="module")
def opened(browser, odd):
    """The browser with that page."""
    browser.get(odd[0].as_uri())
    return browser


def choose(browser, control, value):
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1]; e.dispatchEvent(new Event('change'))",
        control,
        value,
    )


def visible(browser, attribute="data-id"):
    script = (
        "return [...document.querySelectorAll('.card:not([hidden])')].map((card) => card.getAttribute(arguments[0]))"
    )
    return browser.execute_script(script, attribute)


def test_odd_names_are_text(opened, odd):
    ids = opened.execute_script("return [...document.querySelectorAll('.card h3')].map((e) => e.textContent)")
    assert sorted(ids) == sorted(ODD)
    tags = opened.execute_script("return [...document.querySelectorAll('.tag')].map((e) => e.textContent)")
    assert set(CLASSES[:3]) <= {*tags}
    assert opened.execute_script("return document.querySelectorAll('script, main img[src=x]').length") == 1
    text = odd[0].read_text()
    assert "<script>boom" not in text and html.escape(ODD[1]) in text
    assert all((odd[0].parent / path).is_file() for path in links(text)) and len(links(text)) == len(pictures(text))


def test_no_errors_no_broken_image_and_no_network(opened):
    opened.execute_script("for (const image of document.images) image.loading = 'eager'")
    script = """const done = arguments[0];
        Promise.all([...document.images].map((image) => image.decode().then(() => 0, () => 1)))
            .then((all) => done([all.length, all.reduce((a, b) => a + b, 0)]))"""
    count, missing = opened.execute_async_script(script)
    assert count >= 4 * len(ODD) and missing == 0
    asked = opened.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert all(url.startswith("file:") for url in asked)
    assert opened.get_log("browser") == []


@pytest.mark.parametrize("width", SIZES)
def test_no_width_makes_the_page_scroll_sideways(opened, width):
    opened.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    )
    assert opened.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [width, width]
    lines = """return [...document.querySelectorAll('.tile dd')].map((e) =>
        e.clientHeight / parseFloat(getComputedStyle(e).fontSize))"""
    assert all(height < 1.5 for height in opened.execute_script(lines))  # a figure and its unit stand in one line


def test_on_a_phone_rows_of_tables_are_cards(opened):
    size = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    script = """return [...document.querySelectorAll('.stages tbody td:not(:empty), .bars tbody td')].map((cell) =>
        [cell.getBoundingClientRect().right <= innerWidth, getComputedStyle(cell, '::before').content])"""
    cells = opened.execute_script(script)
    assert all(inside and len(label) > 2 for inside, label in cells) and len(cells) > 20
    assert '"boundary IoU"' in [label for _, label in cells]


def test_a_click_enlarges_a_picture_and_arrows_go_on(opened):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    size = {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    shown = """const image = document.querySelector('dialog[open] img');
        return image && [image.getAttribute('src'), image.width]"""
    sources = opened.execute_script(
        "return [...document.querySelectorAll('.card img')].map((e) => e.getAttribute('src'))"
    )
    opened.execute_script("document.querySelectorAll('.card a.zoom')[1].click()")
    source, width = opened.execute_script(shown)
    assert source == sources[1] and width > 1000
    for key, expected in ((Keys.ARROW_RIGHT, sources[2]), (Keys.ARROW_LEFT, sources[1])):
        ActionChains(opened).send_keys(key).perform()
        assert opened.execute_script(shown)[0] == expected
    ActionChains(opened).send_keys(Keys.ESCAPE).perform()
    assert opened.execute_script(shown) is None


def test_images_sort_by_iou_and_name(opened):
    for direction, sign in (("1", 1), ("-1", -1)):
        choose(opened, "direction", direction)
        choose(opened, "sort", "iou-3")
        values = [float(value) for value in visible(opened, "data-iou-3")]
        assert len(values) == len(ODD) and values == sorted(values, reverse=sign < 0) and len({*values}) > 1
        choose(opened, "sort", "id")
        assert visible(opened)[0 if sign > 0 else -1] == "'single'"
    choose(opened, "sort", "order")


def test_images_are_filtered_by_class_and_selection(opened, odd):
    for name in CLASSES[:3]:
        choose(opened, "class", name)
        expected = sorted(image_id for image_id, label in odd[1].items() if label == name)
        assert sorted(visible(opened)) == expected
        shown = opened.execute_script("return document.getElementById('count').textContent")
        assert shown == f"{len(expected)} of {len(ODD)} images shown"
    choose(opened, "class", "")
    choose(opened, "why", "worst")
    assert set(visible(opened, "data-why")) == {"worst"}
    choose(opened, "why", "")
    assert len(visible(opened)) == len(ODD)


def test_classes_sort_and_say_so(opened):
    from selenium.webdriver.common.keys import Keys

    script = """return [...document.querySelectorAll('table.sortable tbody tr')]
        .map((row) => Number(row.cells[1].dataset.value))"""
    heads = opened.find_elements("css selector", "table.sortable thead th")
    button = heads[1].find_element("css selector", "button")
    for order, reverse in (("descending", True), ("ascending", False)):
        button.send_keys(Keys.ENTER)  # as the keyboard does
        values = opened.execute_script(script)
        assert heads[1].get_attribute("aria-sort") == order and values == sorted(values, reverse=reverse)
        assert heads[0].get_attribute("aria-sort") == "none"


def test_a_screen_reader_finds_its_way(opened):
    levels = [
        int(tag[1])
        for tag in opened.execute_script(
            "return [...document.querySelectorAll('h1, h2, h3, h4, h5')].map((e) => e.tagName)"
        )
    ]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:]))
    alone = """const ids = [...document.querySelectorAll('[id]')].map((one) => one.id);
    return [
        document.querySelectorAll('main').length, document.querySelectorAll('nav[aria-label]').length,
        [...document.images].filter((image) => !image.alt.trim()).length,
        [...document.querySelectorAll('select')].filter((one) => !one.labels.length).length,
        [...document.querySelectorAll('[aria-labelledby]')]
            .filter((one) => !document.getElementById(one.getAttribute('aria-labelledby'))).length,
        ids.length - new Set(ids).size
    ]"""
    assert opened.execute_script(alone) == [1, 1, 0, 0, 0, 0]
    assert opened.execute_script("return document.documentElement.lang") == "en"
    opened.execute_script("document.getElementById('sort').focus({focusVisible: true})")
    style = "return getComputedStyle(document.getElementById('sort')).outlineStyle"
    assert opened.execute_script(style) == "solid"


def luminance(colour):
    values = [int(k) / 255 for k in re.findall(r"\d+", colour)[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(opened, scheme):
    """WCAG 2 AA: a contrast of 4.5 at least."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    pairs = opened.execute_script(
        """const colour = (one, key) => getComputedStyle(document.querySelector(one))[key];
        const surface = colour('.card', 'backgroundColor'), ground = colour('body', 'backgroundColor');
        return [[colour('.card h3', 'color'), surface], [colour('.detail', 'color'), surface],
            [colour('.tag', 'color'), surface], [colour('#stages > .small', 'color'), ground],
            [colour('nav a', 'color'), ground], [colour('body', 'color'), ground],
            [getComputedStyle(document.querySelector('.chart svg text')).fill, surface]]"""
    )
    assert (luminance(pairs[-2][1]) > 0.5) == (scheme == "light")
    for text, ground in pairs:
        low, high = sorted((luminance(text), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, (text, ground)
