"""How every script runs: flags in, `main(args)`, and one line instead of a traceback for a user's mistake."""

import argparse
import datetime
import difflib
import errno
import os
import re
import signal
import sys
from pathlib import Path

from tool.io.files import CONTROL, UserError, shorten
from tool.io.streams import forgiving_streams
from tool.workers import shared_memory_lacks

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR)
DISK_ERRORS += (errno.EEXIST, errno.ENAMETOOLONG, errno.EFBIG)
NO_MEMORY = "out of memory|not enough memory|can't allocate memory|Storage size calculation overflowed"


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description, and adds the default to the help of every flag that does not speak of it."""

    def _get_help_string(self, action):
        text = action.help or ""
        no_default = action.default in (None, argparse.SUPPRESS) or action.required or not action.option_strings
        if no_default or "(default" in text:
            return text
        return f"{text} (default: {shown(action.default)})"


def shown(value):
    """A flag's value as --help shows it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) or "none" if type(value) in (list, tuple) else str(value)


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations; a mistake is one line, with the flag that was meant, and exit code 2."""

    def __init__(self, prog, description):
        super().__init__(prog, description=description, formatter_class=HelpFormatter, allow_abbrev=False)
        self.script = Path(prog).name

    def parse_args(self, args=None, namespace=None):
        args, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [option for option in self._option_string_actions if option.startswith("--")]
            close = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
            hint = f" (did you mean {close[0]}?)" if close else ""
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        for name, value in vars(args).items():  # what can only be an accident: --weights "$UNSET", and what is no text
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and (not text or CONTROL.search(text)):
                    what = "holds characters that are no text" if text else "is empty"
                    self.fail(f"--{name}: {text!r} {what}")
        return args

    def error(self, message):
        self.fail(f"{message}; --help lists all flags")

    def fail(self, message):
        """End the script with one line and exit code 2."""
        text = f"{self.script}: error: {shorten(message, 1500)}"
        if not said_by_another(text):
            print(text, file=sys.stderr)
        sys.exit(2)

    def how_to_go_on(self):
        """What continues a run of this script that was cut off."""
        return "--resume continues" if "--resume" in self._option_string_actions else "run it again and it continues"


def said_by_another(text):
    """Whether another process of those that torchrun started has said it: they share the store of their launcher."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    from torch.distributed import TCPStore

    place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        store = TCPStore(*place, is_master=False, timeout=datetime.timedelta(seconds=5))
        return store.add(f"said {os.environ.get('TORCHELASTIC_RESTART_COUNT')}: {text}", 1) > 1
    except RuntimeError:  # the launcher is gone
        return False


# ---------------------------------------------------------------- types


def number(kind, test, what):
    """An argparse type: kind(text) where test(value) holds, else an error that says `what` was wanted."""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = None
        if value is None or not test(value):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what}")
        return value

    return parse


FINITE = 1e30  # also rules out inf and nan
positive_int = number(int, lambda v: 1 <= v < 2**31, "a whole number from 1 to 2147483647")
natural = number(int, lambda v: 0 <= v < 2**31, "a whole number from 0 to 2147483647")
several = number(int, lambda v: 2 <= v < 2**31, "a whole number from 2")
workers = number(int, lambda v: 0 <= v <= 1024, "a whole number from 0 to 1024")
power = number(int, lambda v: 1 <= v <= 99, "a whole number from 1 to 99")
positive = number(float, lambda v: 0 < v < FINITE, "a number above 0 and below 1e30")
nonnegative = number(float, lambda v: 0 <= v < FINITE, "a number from 0 and below 1e30")


def one_of(choices):
    """An argparse type: a text that is one of `choices`."""
    return number(str, choices.__contains__, f"one of {', '.join(choices)}")


fraction = number(float, lambda v: 0 <= v <= 1, "a number from 0 to 1")


# ---------------------------------------------------------------- run


class Interrupted(Exception):
    """SIGINT or SIGTERM ended a run after its current step; `code` is the exit code (130 or 143)."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class Terminated(KeyboardInterrupt):
    """SIGTERM, to be handled as Ctrl-C is: like that, no `except Exception` swallows it."""


def raise_terminated(number, frame):
    raise Terminated


@forgiving_streams()
def run_script(main, parser, argv=None):
    """main(arguments); what the user can mend is one line on stderr and exit code 2, SIGINT 130, and SIGTERM 143."""
    previous = signal.signal(signal.SIGTERM, raise_terminated)
    try:
        main(parser.parse_args(argv))
    except UserError as error:
        parser.fail(error)
    except Interrupted as stop:
        print(f"{parser.script}: {stop}", file=sys.stderr)
        sys.exit(stop.code)
    except KeyboardInterrupt as stop:
        print(f"{parser.script}: interrupted; {parser.how_to_go_on()}", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except (OSError, MemoryError, RuntimeError) as error:  # torch has no types of its own for those that are meant here
        parser.fail(explain(error, parser.how_to_go_on()))
    finally:
        signal.signal(signal.SIGTERM, previous)


def explain(error, go_on):
    """One line for a file that cannot be written or read, and for a lack of memory, here or in a process that loads
    data; any other error is raised again."""
    if shared := shared_memory_lacks(error):
        return f"{shared}; {go_on}"
    if isinstance(error, OSError):
        if error.errno not in DISK_ERRORS and error.filename is None:  # with a name it is about a file of the user's
            raise error
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        hint = f"free some space, then {go_on}" if full else "check the path and its permissions"
        return f"{error.filename or 'the output folder'}: {error.strerror or error}; {hint}"
    if isinstance(error, MemoryError) or re.search(NO_MEMORY, str(error)):
        reason = shorten(error, 200) or "MemoryError"
        return f"not enough memory ({reason}); lower the batch, crop, image or network size, or the number of processes"
    if "DataLoader worker" in str(error):
        return f"a process that loads data was killed, probably for lack of memory; with fewer --num_workers {go_on}"
    raise error
