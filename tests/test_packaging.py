"""pyproject.toml: the one list of dependencies, the version, and a `pip install .` that refuses."""

import importlib.util
import subprocess
import sys

import pytest
from conftest import ROOT

from tool import VERSION

PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_requirements_are_those_of_the_project():
    spec = importlib.util.spec_from_file_location("requirements", ROOT / ".ci" / "requirements.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name, text in module.made().items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run make requirements"
        assert "==" in text


def test_the_version_is_that_of_the_code():
    assert f'\nversion = "{VERSION}"\n' in PROJECT


def test_nothing_is_installed(tmp_path):
    if importlib.util.find_spec("pip") is None:
        pytest.skip("no pip here")
    options = ["--no-index", "--no-deps", "--dry-run", "--target", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "install", *options, "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode != 0
    said = result.stdout + result.stderr
    assert "error: AEFT is run from its folder and is no package; pip install -r requirements.txt" in said
