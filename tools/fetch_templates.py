"""Fetch the chat templates of many models, for tests that compare with them.

llama.cpp keeps them in its sources, and llama-cpp-python carries those on the Python package index. They are
other people's work under licences of their own: they go to the cache folder and never into this repository.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from mohist.weights.source import cache_folder

PACKAGE = "llama-cpp-python"
VERSION = "0.3.36"


def main() -> None:
    """Download the source package and keep its templates."""
    target = cache_folder() / "templates"
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", PACKAGE]
        subprocess.run([*command, f"{PACKAGE}=={VERSION}", "--dest", folder], check=True)
        (archive,) = Path(folder).glob("*.tar.gz")
        count = extract(archive, target)
    print(f"{count} templates in {target}")


def extract(archive: Path, target: Path) -> int:
    """Write the templates in a source package to a folder; how many there are."""
    count = 0
    with tarfile.open(archive) as files:
        for member in files:
            path = PurePosixPath(member.name)
            if path.parent.parts[-2:] == ("models", "templates") and path.suffix == ".jinja":
                source = files.extractfile(member)
                assert source is not None
                (target / path.name).write_bytes(source.read())
                count += 1
    return count


if __name__ == "__main__":
    main()
