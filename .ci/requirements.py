"""requirements.txt and requirements-dev.txt from the lists in pyproject.toml.

python .ci/requirements.py           writes them
"""

from pathlib import Path

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `make requirements` from pyproject.toml, which says what each is for.\n"


def made():
    """{name of a file: its text}."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lists = {
        "requirements.txt": project["project"]["dependencies"],
        "requirements-dev.txt": ["-r requirements.txt", *project["dependency-groups"]["dev"]],
    }
    return {name: HEADER + "".join(f"{line}\n" for line in lines) for name, lines in lists.items()}


if __name__ == "__main__":
    for name, text in made().items():
        (ROOT / name).write_text(text, encoding="utf-8")
