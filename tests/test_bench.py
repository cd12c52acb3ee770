"""`make bench` compares like with like: on small inputs both forms of every row give the same result."""

import numpy as np
import torch

from tests.bench import rows_affinity, rows_memory, rows_networks, rows_scores, rows_seg, rows_training
from tests.bench.reference import boundary_counts, threshold_counts
from tests.bench.run import all_rows
from tool.metrics import THRESHOLDS

SMALL = {"height": 64, "width": 80}


def test_every_row_is_registered_once():
    """And every module with rows is one that is tested here."""
    modules = (rows_affinity, rows_memory, rows_networks, rows_scores, rows_seg, rows_training)
    assert [*all_rows().items()] == [row for module in modules for row in module.ROWS.items()]


def test_threshold_sweep():
    with rows_scores.stored_scenes(3, **SMALL) as (maps, masks):
        ours, published = rows_scores.sweep_counts(maps, masks), threshold_counts(maps, masks, THRESHOLDS)
    assert np.array_equal(ours, published) and ours[:, 0].any(0).sum() > 1  # more than background is hit


def test_boundary_sweep():
    with rows_scores.stored_scenes(2, **SMALL) as (maps, masks):
        ours = rows_scores.sweep_files(maps, masks, boundaries=True).boundary
        published = boundary_counts(maps, masks, THRESHOLDS)
    assert np.array_equal(ours, published) and (ours[:, 0] < ours[:, 1]).any() and ours[:, 0, 1:].any()


def test_crf(tmp_path):
    scenes = [(image, cams) for image, _, cams in (rows_scores.scene(k, **SMALL) for k in range(2))]
    for name in ("ours", "published"):
        (tmp_path / name).mkdir()
    ours = rows_scores.pooled_crf(scenes, tmp_path / "ours", 1)
    published = rows_scores.crf_one_by_one(scenes, tmp_path / "published")
    assert len(list(published.iterdir())) == 6
    assert rows_scores.stored_difference(ours, published) < 1e-5


def test_disk(tmp_path):
    results = [
        {"dict": cams, "02": rows_scores.crf_with_alphas(image, cams, [2])[2]}
        for image, _, cams in (rows_scores.scene(k, **SMALL) for k in range(2))
    ]
    truths = [rows_scores.scene(k, **SMALL)[1] for k in range(2)]
    folders = [rows_scores.write_folders(results, tmp_path / name, name == "zip") for name in ("zip", "plain")]
    sizes = [sum(path.stat().st_size for path in folder.rglob("*.npy")) for folder in folders]
    assert sizes[0] < sizes[1] / 4
    mious = [rows_scores.folder_mious(folder, truths) for folder in folders]
    assert np.abs(mious[0] - mious[1]).max() < 0.2 and len(mious[0]) == 26


def test_pairs_and_walk():
    for a, b in zip(
        rows_affinity.pair_step(rows_affinity.pair_affinity, 2, 12)(),
        rows_affinity.pair_step(rows_affinity.gathered_pair_affinity, 2, 12)(),
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    pairs, scores = rows_affinity.walk_inputs(12, 14)
    torch.testing.assert_close(
        rows_affinity.sparse_form(pairs, scores, (12, 14)),
        rows_affinity.dense_form(pairs, scores, (12, 14)),
        rtol=0,
        atol=1e-4,
    )


def test_maps():
    fast, exact, published = (form() for form in rows_networks.cam_forms(1 / 16, **SMALL))
    torch.testing.assert_close(exact, published, rtol=0, atol=1e-3)
    assert published.max() > 0.9 and (fast - published).abs().mean() < 0.02


def test_segmentation():
    fast, exact, published = (form() for form in rows_seg.segmentation_forms(1 / 16, **SMALL))
    torch.testing.assert_close(exact, published, rtol=0, atol=1e-5)
    assert published.amax(0).mean() > 0.15 and len(published.argmax(0).unique()) > 3
    assert (fast - published).abs().mean() < 0.005


def test_pseudo_labels():
    _, ours, published = (form() for form in rows_networks.label_forms(1 / 16, **SMALL))
    assert np.mean(ours == published) > 0.999 and len(np.unique(published)) > 1


def test_training_step():
    fast, exact = (form() for form in rows_networks.train_forms(1 / 16, side=64))
    assert abs(fast - exact) < 0.01 * exact


def test_steps_of_other_stages():
    """One of them; tests/test_gpu.py has the forms of all."""
    fast, published = (form() for form in rows_training.step_forms("train_aff.py", 2, 64, 1 / 16))
    assert abs(fast - published) < 0.02 * published


def test_steps_that_keep_memory(monkeypatch, capsys):
    for name, value in (("WIDTH", 1 / 16), ("BATCH", 1), ("SIDE", 64)):
        monkeypatch.setattr(rows_memory, name, value)
    rows_memory.print_steps("kept")
    milliseconds, faults = map(float, capsys.readouterr().out.split())
    assert milliseconds > 0 and faults >= 0
