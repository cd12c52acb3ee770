"""Fetching archives with torchvision's helpers: what to do by hand where it fails, sizes checked, done once."""

import http.client
import os
import tarfile
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from tool.cli import DISK_ERRORS
from tool.io.files import UserError


def fetch(what, archive, folder, download):
    """Call `download`; UserError with what to fetch by hand where that fails."""
    print(f"fetching {what} into {folder}")
    try:
        download()
    except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"{what} could not be fetched ({reason})"
        raise UserError(f"{text}; fetch {archive} by hand, put it into {folder} as it is and run this again") from None


def fetch_archive(what, url, folder):
    """The archive at `url` in `folder`, of the size that the server says; what is there is not fetched again.

    Without a server an archive that is there, fetched by hand, is taken as it is. Returns its path.
    """
    path = Path(folder) / url.rpartition("/")[2]

    def download():
        from torchvision.datasets.utils import download_url

        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=60) as answer:
                size = int(answer.headers["Content-Length"] or 0)  # 0 where the server does not say
        except OSError:
            if path.is_file():
                return
            raise
        if path.is_file() and size in (0, path.stat().st_size):
            return
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)  # torchvision takes any file for a whole one
        download_url(url, str(folder), filename=part.name)
        if size not in (0, part.stat().st_size):
            raise RuntimeError(f"{part.stat().st_size} of {size} bytes came")
        os.replace(part, path)

    fetch(what, url, folder, download)
    return path


def unpack(archive, folder, begins=""):
    """Unpack a zip's files whose names begin with `begins`; those that are there in their size stay.

    A file is checked against the archive's checksum as it is written. UserError where the archive is broken.
    """
    try:
        with zipfile.ZipFile(archive) as pack:
            members = [m for m in pack.infolist() if m.filename.startswith(begins) and not m.is_dir()]
            for member in tqdm(members, desc=f"unpacking {Path(archive).name}", disable=None):
                path = Path(folder) / member.filename
                if not path.is_file() or path.stat().st_size != member.file_size:
                    pack.extract(member, folder)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UserError(f"{archive}: broken ({error}); remove it and run this again") from None
