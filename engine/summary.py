"""What a run says at its end: images done, skipped and failed, seconds by stage, peak memory, what comes next."""

import contextlib
import sys
import time

import torch

from engine.record import finish_record

try:
    import resource
except ImportError:  # Windows
    resource = None

MIB = 2**20


class Summary:
    """Counts of images, and time by stage; stages may run side by side, so their seconds need not sum to the whole."""

    def __init__(self):
        self.started = time.perf_counter()
        self.counts = {"done": 0, "skipped": 0, "failed": 0}
        self.stages = {}

    def add(self, stage, background):
        """Count the jobs of a `Background` that is done."""
        if background.images:
            self.stages[stage] = {key: getattr(background, key) for key in ("images", "seconds", "workers")}

    @contextlib.contextmanager
    def stage(self, name):
        """Time what is inside, which raises ["images"] of the value it gets; a stage may come several times."""
        entry = self.stages.setdefault(name, {"images": 0, "seconds": 0.0, "workers": 1})
        started = time.perf_counter()
        yield entry
        entry["seconds"] += time.perf_counter() - started

    def collect(self, world):
        """Everything as plain values, over all processes of the run."""
        on_gpu = torch.cuda.max_memory_allocated(world.device) if world.device.type == "cuda" else 0
        mine = {
            "images": self.counts,
            "seconds": time.perf_counter() - self.started,
            "stages": self.stages,
            "peak_memory_mib": peak_memory(),
            "peak_gpu_memory_mib": round(on_gpu / MIB),
        }
        return merge(world.collect(mine))

    def end(self, script, world, folders, failures, next_command, log=print):
        """The last thing a run does: write the summary to the folders' run.json and print it. Leaves the world.

        log: prints a line.
        """
        self.counts["failed"] = len(failures.ids())
        result = self.collect(world)
        world.leave()
        if world.main:
            for folder in folders:
                finish_record(folder, result | {"results": str(folder), "next": next_command})
            print_summary(script, result, folders, next_command, log)
            failures.report()


def merge(parts):
    """Summaries of all processes -> one: counts, seconds and workers add up, times and memory are the largest.

    Failures are counted in a file that all processes share, so theirs are the largest, too.
    """
    total = {
        "images": {k: sum(part["images"][k] for part in parts) for k in ("done", "skipped")},
        "seconds": round(max(part["seconds"] for part in parts), 3),
        "stages": {},
    }
    total["images"]["failed"] = max(part["images"]["failed"] for part in parts)
    for part in parts:
        for name, stage in part["stages"].items():
            entry = total["stages"].setdefault(name, {"images": 0, "seconds": 0.0, "workers": 0})
            for key in entry:
                entry[key] += stage[key]
    for entry in total["stages"].values():
        entry["seconds"] = round(entry["seconds"], 3)
        rate = entry["images"] * entry["workers"] / entry["seconds"] if entry["seconds"] else None  # None: too short
        entry["images_per_second"] = rate and round(rate, 3)
    for key in ("peak_memory_mib", "peak_gpu_memory_mib"):
        total[key] = max(part[key] for part in parts)
    return total


def peak_memory():
    """MiB of the largest process so far, this one or one that it waited for; 0 where the system does not say."""
    if resource is None:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return round(
        max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)) * unit / MIB
    )


def print_summary(script, summary, results, next_command=None, log=print):
    """results: paths. log: prints a line."""
    images = summary["images"]
    log(
        f"{script}: {images['done']} images done, {images['skipped']} skipped (done before), "
        f"{images['failed']} failed, in {summary['seconds']:.1f} s"
    )
    for name, stage in summary["stages"].items():
        if stage["images"]:
            several = f" of {stage['workers']} processes" if stage["workers"] > 1 else ""
            rate = f", {stage['images_per_second']:.2f} images/s" if stage["images_per_second"] else ""
            log(f"  {name}: {stage['images']} images, {stage['seconds']:.1f} s{several}{rate}")
    gpu = f", on the GPU {summary['peak_gpu_memory_mib']} MiB" if summary["peak_gpu_memory_mib"] else ""
    log(f"  peak memory {summary['peak_memory_mib'] or 'unknown'} MiB{gpu}")
    for path in results:
        log(f"{script}: wrote {path}")
    if next_command:
        log(f"next: {next_command}")
