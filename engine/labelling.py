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
from engine.outputs import Inputs, Outputs
from engine.record import this_run
from engine.summary import Summary
from tool.cam import inner_size, mean_maps
from tool.io.failures import Failures
from tool.io.files import UserError, read_list
from tool.io.images import open_image
from tool.io.lock import locked
from tool.threads import one_thread
from voc12.data import Broken, InferenceSet, in_range, load_samples, read_maps
from voc12.labels import describe_negatives
from voc12.paths import mask_path


class Facts(NamedTuple):
    """What a run reads, beside its arguments. list, weights: paths, for the record; both may be None.

    maps: the Output of maps that need not be made again where they are there, see `Labelling.split`; num_classes: what
    the keys of such maps are below. mean_of: folders of other runs' maps, which then need no network.
    """

    list: str | None
    weights: object
    maps: object = None
    num_classes: int = 0
    mean_of: tuple = ()


class Labelling:
    """One pass on this machine: processes and device, output folders (which no other run can enter meanwhile), worker
    pools, what is left to do, record and summary. The top of this file shows its use.
    """

    def __init__(self, args, net, images, jobs, failures, facts):
        """net: None where stored maps alone are used. images: of all processes. failures: those found before."""
        self.args, self.net, self.images, self.jobs = args, net, images, jobs
        self.failures, self.facts = Failures("stop", "") if args.check else failures, facts
        self.folders = [output for job in jobs for output in job.outputs.values()]
        for output in self.folders:
            output.check_names(images.ids, images.labels)
        made = any(output.folder.exists() for output in self.folders)
        if facts.maps and not (net or facts.mean_of or made or facts.maps.folder.is_dir()):
            raise UserError(f"{facts.maps.folder}: no such folder; give --load_epo EPOCH, or put maps there")
        self.world, self.summary = join_world(args.device), Summary()
        self.device = self.world.device
        self.there, self.todo = [], []  # see `split`
        self.next = self.last = None  # of `when_done`
        self.network = "network"  # what --check calls the time of a sample
        self.seconds = {"network": 0.0, "crf": 0.0}  # of the image that --check sees
        if net:
            with one_thread():  # processes are forked below, and a fork does not copy torch's threads
                net.to(self.device, memory_format=memory_format(net, self.device, args.amp)).eval()
        with contextlib.ExitStack() as stack:
            if args.check:
                self.check = Check(self.world, f"{self.device} works, lists and labels are read, weights fit")
                for output in self.folders:
                    output.check(args.overwrite)
            else:
                stack.enter_context(locked([output.folder for output in self.folders], self.world))
                crf = args.crf_workers * any(job.crf for job in jobs)
                self.crf, self.thread = map(stack.enter_context, (Background(processes=crf), Background(threads=1)))
                self.failures.begin(self.world)
                run = this_run(args, self.world, [facts.list] if facts.list else [], facts.weights)
                for output in self.folders:
                    self.world.first(partial(output.claim, args.overwrite, run))
            inputs = Inputs(self.world.share(images.ids), images.photograph, images.maps, images.labels)
            self.outputs = Outputs(self.folders, inputs)
            lacking = self.outputs.lacking(facts.maps) if facts.maps else set()
            self.left = self.look() if args.check else list(self.outputs.left)
            parts = self.split(lacking) if facts.maps else ""
            if not args.check:
                self.outputs.renew()
                where = f"{self.device}, process {self.world.rank} of {self.world.size}"
                about = f"{self.outputs.describe()}{parts}{describe_negatives(images.labels)}"
                print(f"{args.script}: {facts.weights or 'stored maps'}, {where}: {about}", flush=True)
            self.clock = time.perf_counter()
            self.stack = stack.pop_all()

    def look(self):
        """--check: photographs, disk -> [ID of one image], with classes where there are such, which takes longer."""
        sizes = self.check.images({image_id: self.images.photograph(image_id) for image_id in self.outputs.left})
        self.check.disk(self.outputs.bytes_needed(sizes))
        return sorted(sizes, key=lambda i: not self.outputs.inputs.classes[i])[:1]

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
        with torch.no_grad(), self.world.autocast(self.args.amp):
            yield

    def split(self, lacking):
        """Part what is left into `there`, whose maps are stored, and `todo`, for network or other runs' maps; in words.

        lacking: IDs without maps. UserError where there is neither for the latter, or these are failures.
        """
        maps = self.facts.maps
        self.there = [image_id for image_id in self.left if image_id not in lacking]
        self.todo = [image_id for image_id in self.left if image_id in lacking]
        if self.todo and not (self.net or self.facts.mean_of):
            first, of = self.todo[0], f"{len(self.todo)} of {len(self.outputs.inputs.classes)} images"
            if not self.failures.skip:
                text = f"no maps of {of}, or of other photographs (first {first})"
                raise UserError(f"{maps.folder}: {text}; give --load_epo EPOCH, or put maps there")
            for image_id in self.todo:
                self.failures.add(image_id, f"{maps.path(image_id)}: no maps of this image")
            self.todo = []
        rest = f"the mean of {len(self.facts.mean_of)} runs" if self.facts.mean_of else "through the network"
        return f", {len(self.there)} from stored maps, {len(self.todo)} {rest}"

    def stored(self):
        """Maps that were written before, of this run or the mean of others -> samples for `write`."""
        yield from self.read_stored("from dict", self.there, [self.facts.maps.folder])
        if self.facts.mean_of:
            yield from self.read_stored("mean", self.todo, self.facts.mean_of)

    def read_stored(self, stage, ids, folders):
        """The mean of what lies in the folders -> samples for `write`."""
        said, num_classes = set(), self.facts.num_classes
        for image_id in self.each(stage, ids):
            paths = [f"{folder}/{image_id}.npy" for folder in folders]
            try:
                image = np.array(open_image(self.images.photograph(image_id)))
                parts = [in_range(read_maps(path, image.shape[:2], num_classes), path, said) for path in paths]
            except UserError as error:
                self.failures.add(image_id, error)
                continue
            cams = mean_maps(parts)
            yield image_id, image, sorted(cams), cams

    def samples(self, stage, dataset):
        """The samples of a data set, by loading processes; what is Broken goes to the failures."""
        workers, pinned = min(self.args.num_workers, len(dataset)), self.device.type == "cuda"
        samples = self.each(stage, load_samples(dataset, workers, pin_memory=pinned))
        # After an error loading processes end before the CRF pool does. Forked from us, they too hold the pipe to the
        # pool open: were a CRF process killed, the pool would wait for ever for its writing thread.
        self.stack.callback(samples.close)
        for sample in samples:
            if isinstance(sample, Broken):
                self.failures.add(sample.image_id, sample.reason)
            else:
                yield sample

    def seen(self, stage, ids, views):
        """The images `ids` as the network takes them.

        -> (ID, H x W x 3 uint8, views on the device, label, (h, w) at which --max_side shows it).
        """
        side, larger = self.args.max_side, 0
        samples = InferenceSet(self.images.photograph, ids, self.images.labels, views)
        for image_id, image, views, label in self.samples(stage, samples):
            views = [view.to(self.device, non_blocking=True) for view in views]
            size = inner_size(image.shape[:2], side)
            if size != image.shape[:2]:
                if not larger:
                    now = f"{image.shape[1]} x {image.shape[0]} pixels, seen at {size[1]} x {size[0]}"
                    text = f"(--max_side {side}, as all that are larger); results have its own size"
                    tqdm.write(f"{image_id}: {now} {text}", file=sys.stderr)
                larger += 1
            yield image_id, image.numpy(), views, label, size
        if larger:
            print(f"{larger} photographs were larger than --max_side {side}", file=sys.stderr)

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
        counts["skipped"] = len(self.outputs.inputs.classes) - len(self.outputs.left)
        self.summary.add("crf", self.crf)
        self.summary.add("writing", self.thread)
        if self.last:
            self.world.collect(None)  # all have written theirs
            self.world.first(self.last)
        self.summary.end(self.args.script, self.world, [o.folder for o in self.folders], self.failures, self.next)

    def scoring(self, task, folder):
        """The command that scores results of the run's list; None where images of it have no masks."""
        if not self.facts.list or self.failures.ids():
            return None
        scored = scored_list(self.facts.list)
        try:
            ids = self.outputs.inputs.classes if scored == self.facts.list else read_list(scored)
        except UserError:
            return None  # what VOC's lists are scored on need not be there
        if not all(mask_path(self.args.voc12_root, image_id).is_file() for image_id in ids):
            return None
        return next_command("evaluation.py", self.args, task=task, dict_dir=folder, list=scored)
