"""A pass over a list of images that makes files of each: `Labelling`, the counterpart of engine/training.py.

A script builds its network, output folders and jobs, then

    with Labelling(args, net, images, jobs, failures, facts) as run:
        for image_id, image, classes, data in samples(run, run.left):
            run.write(image_id, image, classes, data)

Images that are done are left out, so a run that was cut off goes on when it is started again. Under torchrun each
process takes its share; where one dies, the next run does its images. While the network sees one image, processes
refine those before it and a thread writes. With --check the same loop sees one image, and nothing is written.
"""

import contextlib
import sys
import time
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from engine.background import Background
from engine.check import Check
from engine.distributed import join_world, memory_format
from engine.experiment import next_command, scored_list
from engine.outputs import NONE, Inputs, Outputs, split_classes
from engine.record import this_run
from engine.summary import Summary
from tool.cam import inner_size
from tool.io.failures import FAILED_FILE, Failures
from tool.io.files import UserError, read_list
from tool.io.images import open_image
from tool.io.lock import locked
from tool.threads import one_thread
from voc12.data import (
    Broken,
    check_images,
    image_path,
    in_range,
    inference_loader,
    mask_path,
    read_maps,
    require_images,
)
from voc12.labels import describe_negatives
from voc12.layout import find_images

CLASSES_AN_IMAGE = 1.5  # VOC's mean, for images whose classes are not known beforehand


class Images(NamedTuple):
    """What is labelled. photograph, maps: functions ID -> path; maps is for stages that read stored ones.

    labels: {ID: vector of 0 and 1} where it is known beforehand which classes an image shows.
    """

    ids: list
    photograph: object
    maps: object = None
    labels: object = None


class Job(NamedTuple):
    """Work beside the network. outputs: {name: Output}. work: of engine/jobs.py. crf: whether in worker processes."""

    outputs: dict
    work: object
    crf: bool = False


class Facts(NamedTuple):
    """What a run reads, beside its arguments. list, weights: paths, for the record; both may be None.

    maps: the Output of maps that need not be made again where they are there, see `Labelling.split`.
    """

    list: str | None
    weights: object
    maps: object = None


def find_photographs(args, jobs):
    """Images of --images, or of --infer_list, and Failures, which hold those that are missing with --on_error skip."""
    first = next(iter(jobs[0].outputs.values()))
    failures = Failures(args.on_error, first.folder / FAILED_FILE, held=True)
    if args.images:
        found = find_images(args.images, args.out)
        return Images(list(found), found.get), failures
    ids = usable_images(read_list(args.infer_list), args.voc12_root, failures)
    return Images(ids, partial(image_path, args.voc12_root)), failures


def usable_images(ids, voc12_root, failures):
    """The IDs that have an image; see --on_error for the others. UserError where none has any."""
    if not failures.skip:
        check_images(ids, voc12_root)
        return ids
    usable = failures.usable(ids, lambda image_id: require_images([image_id], voc12_root))
    if not usable:
        reason = failures.noted[-1].split("\t")[1]
        raise UserError(f"no image is left: all {len(ids)} failed, the last with: {reason}")
    return usable


class Larger:
    """Photographs that --max_side brings down: the first one is said at once, how many there were at the end."""

    def __init__(self, max_side):
        self.max_side, self.count = max_side, 0

    def inner(self, image_id, size):
        """`inner_size` of a photograph of `size` (h, w), which is counted."""
        seen = inner_size(size, self.max_side)
        if seen != tuple(size):
            self.count += 1
            if self.count == 1:
                tqdm.write(
                    f"{image_id}: {size[1]} x {size[0]} pixels, seen at {seen[1]} x {seen[0]} (--max_side "
                    f"{self.max_side}, as all that are larger); results have its own size",
                    file=sys.stderr,
                )
        return seen

    def say(self):
        if self.count:
            print(f"{self.count} photographs were larger than --max_side {self.max_side}", file=sys.stderr)


class Labelling:
    """One pass on this machine: processes and device, output folders (which no other run can enter meanwhile), worker
    pools, what is left to do, record and summary. The top of this file shows its use.
    """

    def __init__(self, args, net, images, jobs, failures, facts):
        """net: None where stored maps alone are used. images: of all processes. failures: those found before."""
        self.args, self.net, self.images, self.jobs = args, net, images, jobs
        self.failures, self.facts = failures, facts
        self.world = join_world(args.device)
        self.device = self.world.device
        self.summary = Summary()
        self.inputs = Inputs(self.world.share(images.ids), images.photograph, images.maps, images.labels)
        self.folders = [output for job in jobs for output in job.outputs.values()]
        self.there, self.todo = [], []  # see `split`
        self.next = self.last = None  # of `when_done`
        self.network = "network"  # what --check calls the time of a sample
        self.seconds = {"network": 0.0, "crf": 0.0}  # of the image that --check sees
        if net:
            with one_thread():  # processes are forked below, and a fork does not copy torch's threads
                net.to(self.device, memory_format=memory_format(self.device, args.amp)).eval()
        with contextlib.ExitStack() as stack:
            if args.check:
                self.begin_check()
            else:
                self.begin(stack)
            self.stack = stack.pop_all()

    def begin(self, stack):
        """Take the folders, start the workers, find out what is left."""
        stack.enter_context(locked([output.folder for output in self.folders], self.world))
        self.crf = stack.enter_context(Background(processes=self.args.crf_workers * any(job.crf for job in self.jobs)))
        self.thread = stack.enter_context(Background(threads=1))
        self.failures.begin(self.world)
        lists = [self.facts.list] if self.facts.list else []
        run = this_run(self.args, self.world, lists, self.facts.weights)
        self.world.first(lambda: self.claim(run))
        self.outputs = Outputs(self.folders, self.inputs)
        self.left = list(self.outputs.left)
        self.outputs.renew()
        where = f"{self.facts.weights or 'stored maps'}, {self.device}, process {self.world.rank} of {self.world.size}"
        about = f"{self.outputs.describe()}{self.split()}{describe_negatives(self.images.labels)}"
        print(f"{self.args.script}: {where}: {about}", flush=True)

    def claim(self, run):
        """The folders are those of these results. For rank 0."""
        for output in self.folders:
            output.claim(self.args.overwrite, run)

    def begin_check(self):
        """--check: folders, images, disk; one image is left."""
        self.check = Check(self.world, f"{self.device} works, lists and labels are read, weights fit")
        for output in self.folders:
            output.check(self.args.overwrite)
        self.failures = Failures("stop", "")
        self.outputs = Outputs(self.folders, self.inputs)
        self.sizes = self.check.images({image_id: self.images.photograph(image_id) for image_id in self.outputs.left})
        self.check.disks(self.disk_needed())
        self.left = sorted(self.sizes, key=lambda i: not self.inputs.classes[i])[:1]  # with classes, which takes longer
        self.split()
        self.clock = time.perf_counter()

    def disk_needed(self):
        """{folder: bytes, about} of what is left."""
        needed = {output.folder: 0 for output in self.folders}
        for image_id, lacking in self.outputs.left.items():
            width, height = self.sizes.get(image_id, (0, 0))
            classes = self.inputs.classes[image_id]
            count = CLASSES_AN_IMAGE if classes == NONE else len(split_classes(classes))
            for output in lacking:
                needed[output.folder] += width * height * output.pixel_bytes(count)
        return needed

    def each(self, stage, samples):
        """The samples, with a bar, timed as a stage of the summary; those that are written are counted."""
        if not len(samples):
            return
        self.network = stage if stage == "walk" else "network"
        with self.summary.stage(stage) as self.stage:
            yield from tqdm(samples, stage, unit="image", disable=None)

    @contextlib.contextmanager
    def inference(self):
        """Without gradients, in autocast where that is asked for."""
        with torch.no_grad(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.args.amp):
            yield

    def split(self):
        """Part what is left into `there`, whose maps are stored, and `todo`, for the network; in words.

        UserError where there is no network for the latter, or these are failures.
        """
        maps = self.facts.maps
        if maps is None:
            return ""
        lacking = self.outputs.lacking(maps)
        self.there = [image_id for image_id in self.left if image_id not in lacking]
        self.todo = [image_id for image_id in self.left if image_id in lacking]
        if self.todo and not self.net:
            first, of = self.todo[0], f"{len(self.todo)} of {len(self.inputs.classes)} images"
            if not self.failures.skip:
                text = f"no maps of {of}, or of other photographs (first {first})"
                raise UserError(f"{maps.folder}: {text}; give --load_epo EPOCH, or put maps there")
            for image_id in self.todo:
                self.failures.add(image_id, f"{maps.path(image_id)}: no maps of this image")
            self.todo = []
        return f", {len(self.there)} from stored maps, {len(self.todo)} through the network"

    def stored(self, maps, ids, num_classes):
        """Maps of `ids` that were written before, from the Output `maps` -> samples for `write`."""
        said = set()
        for image_id in self.each("from dict", ids):
            try:
                image = np.array(open_image(self.images.photograph(image_id)))
                cams = read_maps(maps.path(image_id), image.shape[:2], num_classes)
            except UserError as error:
                self.failures.add(image_id, error)
                continue
            yield image_id, image, sorted(cams), in_range(cams, maps.path(image_id), said)

    def samples(self, stage, dataset):
        """The samples of a data set, by loading processes; what is Broken goes to the failures."""
        workers, pinned = min(self.args.num_workers, len(dataset)), self.device.type == "cuda"
        loader = inference_loader(dataset, workers, pin_memory=pinned)
        for sample in self.each(stage, loader):
            if isinstance(sample, Broken):
                self.failures.add(sample.image_id, sample.reason)
            else:
                yield sample

    def seen(self, stage, samples):
        """Samples of an InferenceSet as the network takes them.

        -> (ID, H x W x 3 uint8, views on the device, label, (h, w) at which --max_side shows it).
        """
        form, larger = memory_format(self.device, self.args.amp), Larger(self.args.max_side)
        for image_id, image, views, label in self.samples(stage, samples):
            views = [view.to(self.device, non_blocking=True).contiguous(memory_format=form) for view in views]
            yield image_id, image.numpy(), views, label, larger.inner(image_id, image.shape[:2])
        larger.say()

    def write(self, image_id, image, classes, data):
        """Have an image's missing files made. image: H x W x 3 uint8; classes: indices it shows; data: for the jobs."""
        if self.args.check:
            return self.rehearse(image, data)
        self.stage["images"] += 1
        lacking = self.outputs.begin(image_id, classes)
        for job in self.jobs:
            files = {k: output.files(image_id, classes) for k, output in job.outputs.items() if output in lacking}
            if files:
                (self.crf if job.crf else self.thread).submit(job.work, image, data, files)

    def rehearse(self, image, data):
        """--check: time the network, up to now, and the CRF."""
        self.seconds["network"] = time.perf_counter() - self.clock
        for job in self.jobs:
            if job.crf:
                started = time.perf_counter()
                job.work(image, data, dict.fromkeys(job.outputs))
                self.seconds["crf"] += time.perf_counter() - started

    def when_done(self, next_command, work=None):
        """Say what comes next; have `work` done by one process when the files of all are there."""
        self.next, self.last = next_command, work

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        self.stack.__exit__(kind, *exc)  # waits for the jobs
        if kind is None:
            (self.end_check if self.args.check else self.end)()

    def end_check(self):
        """The estimate. On the CPU network and CRF share the cores."""
        network, crf = self.seconds["network"], self.seconds["crf"]
        share = crf / self.args.crf_workers
        each = network + share if self.device.type == "cpu" else max(network, share)
        count = len(self.outputs.left)
        self.check.end(each * count, count, f"{self.network} {network:.2f} s an image, CRF {crf:.2f} s")

    def end(self):
        """The summary, to console and run.json."""
        counts = self.summary.counts
        counts["done"] = sum(stage["images"] for stage in self.summary.stages.values())
        counts["skipped"] = len(self.inputs.classes) - len(self.outputs.left)
        self.summary.add("crf", self.crf)
        self.summary.add("writing", self.thread)
        folders = [output.folder for output in self.folders]
        if self.last:
            self.world.collect(None)  # all have written theirs
            self.world.first(self.last)
        self.summary.end(self.args.script, self.world, folders, self.failures, self.next)

    def scoring(self, task, folder):
        """The command that scores results of the run's list; None where images of it have no masks."""
        if not self.facts.list:
            return None
        scored = scored_list(self.facts.list)
        try:
            ids = read_list(scored)
        except OSError:
            return None
        if not all(mask_path(self.args.voc12_root, image_id).is_file() for image_id in ids):
            return None
        return next_command("evaluation.py", self.args, task=task, dict_dir=folder, list=scored)
