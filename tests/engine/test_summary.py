"""The summary at a run's end."""

from engine.distributed import World
from engine.summary import Summary, merge, print_summary


def test_summaries_of_processes_are_merged():
    def part(done, seconds, mib):
        return {
            "images": {"done": done, "skipped": 1, "failed": 2},
            "seconds": seconds,
            "peak_memory_mib": mib,
            "stages": {"maps": {"images": done, "seconds": seconds, "workers": 1}},
            "peak_gpu_memory_mib": 0,
        }

    total = merge([part(6, 2.0, 10), part(3, 4.0, 30)])
    assert total["images"] == {"done": 9, "skipped": 2, "failed": 2}  # failed.txt is one for all
    assert total["stages"]["maps"] == {"images": 9, "seconds": 6.0, "workers": 2, "images_per_second": 3.0}
    assert total["seconds"] == 4.0 and total["peak_memory_mib"] == 30


def test_a_stage_may_come_in_parts():
    summary = Summary()
    for images in (2, 3):
        with summary.stage("training") as stage:
            stage["images"] += images
    assert summary.stages["training"]["images"] == 5


def test_a_stage_too_short_to_measure_has_no_rate():
    summary = Summary()
    summary.stages = {
        "maps": {"images": 12, "seconds": 0.0001, "workers": 1},
        "crf": {"images": 12, "seconds": 4, "workers": 2},
    }
    total = merge([summary.collect(World())])
    assert [stage["images_per_second"] for stage in total["stages"].values()] == [None, 6.0]
    lines = []
    print_summary("infer.py", total, [], log=lines.append)
    assert lines[1] == "  maps: 12 images, 0.0 s"
    assert lines[2] == "  crf: 12 images, 4.0 s of 2 processes, 6.00 images/s"
