"""What every stage stands on; knows no network and no data set."""

import getpass
import os

VERSION = "0.1.0"

try:
    getpass.getuser()
except (KeyError, OSError, ImportError):  # docker run --user 1234: no such user; torchvision's import wants its name
    os.environ["USER"] = f"user{os.getuid() if hasattr(os, 'getuid') else ''}"
