"""Scripts run one after the other by another script, as a user would run them."""

import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tool.io.files import UserError, read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[1]


class Stages:
    """Runs the scripts and keeps how long each took: seconds, {stage: seconds}."""

    def __init__(self):
        self.seconds = {}

    def run(self, stage, script, *flags):
        """Print the command and run it. UserError where it ends with another exit code than 0.

        A user's mistake, exit code 2, ends this process as well: the script has said what is wrong.
        """
        words = list(map(str, flags))
        print("$ python", shlex.join([script, *words]), flush=True)
        started = time.time()
        code = subprocess.call([sys.executable, str(ROOT / script), *words])
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.time() - started
        if code == 2:
            sys.exit(code)
        if code:
            raise UserError(f"{script}: stopped with exit code {code}; its message is above")


class Runs(Stages):
    """Experiments below one folder, whose stages are not run again once they are done.

    folder: holds all experiments; data, num_workers: every stage's --voc12_root and --num_workers.
    """

    def __init__(self, folder, data, num_workers):
        super().__init__()
        self.folder, self.data, self.num_workers = folder, data, num_workers

    def write_list(self, name, ids):
        """Write a list file, its path is returned."""
        path = self.folder / f"{name}.txt"
        write_text(path, "".join(f"{i}\n" for i in ids))
        return path

    def once(self, name, kind, commands, scores):
        """Run commands, [script, flag, ...] each, and score, unless just this was done to its end -> {key: figures}.

        scores: {key: (task, folder of results, list, flag, ...)}; the figures are kept with the commands in
        FOLDER/NAME/{kind}.json.
        """
        path, common = self.folder / name / f"{kind}.json", ["--name", name, "--experiment", self.folder]
        files = {key: self.folder / name / f"score_{key}.json" for key in scores}
        for key, (task, folder, ids, *flags) in scores.items():
            words = ["--task", task, "--dict_dir", folder, "--list", ids, "--json", files[key]]
            commands = [*commands, ["evaluation.py", *words, *flags]]
        commands = [[script, *common, "--voc12_root", self.data, *flags] for script, *flags in commands]
        texts = [" ".join(map(str, command)) for command in commands]
        if path.is_file() and (kept := read_json(path))["commands"] == texts:
            return kept["scores"]
        for script, *flags in commands:
            workers = [] if script in ("evaluation.py", "choose.py") else ["--num_workers", self.num_workers]
            self.run(script, script, *flags, *workers)
        results = {key: read_json(score) for key, score in files.items()}
        write_json(path, {"commands": texts, "scores": results})
        return results


def seconds_a_step(train):
    """What train.py --check says that a step takes, the mean of those with and without erasing. train: its flags.

    UserError with what it says is wrong.
    """
    command = [sys.executable, ROOT / "train.py", *map(str, [*train, "--check"])]
    result = subprocess.run(command, capture_output=True, text=True)
    found = re.findall(r"([\d.]+) s each", result.stdout)
    if result.returncode or not found:
        said = re.findall(r"(?:PROBLEM|error): (.*)", result.stderr)
        raise UserError("; ".join(dict.fromkeys(said)) or "train.py --check says no time")
    return sum(map(float, found)) / len(found)
