"""The build backend of pyproject.toml, which refuses: `pip install .` would install nothing that can be used."""

import sys


def refuse(*args):
    sys.exit("error: AEFT is run from its folder and is no package; pip install -r requirements.txt, or uv sync, there")


get_requires_for_build_wheel = get_requires_for_build_editable = get_requires_for_build_sdist = refuse
prepare_metadata_for_build_wheel = prepare_metadata_for_build_editable = refuse
build_wheel = build_editable = build_sdist = refuse
