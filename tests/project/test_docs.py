"""The documents are true: links lead somewhere, the file tree is the file tree, commands parse."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from mohist.cli.main import build_parser

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "README.zh.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("docs/*.md")),
]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(encoding="utf-8"), re.M | re.S)


def tree(document: Path) -> list[str]:
    """The paths in a README's file tree, folders with a slash at the end."""
    (text,) = blocks(document, "text")
    parents: list[str] = []
    paths = []
    for line in text.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        paths.append("".join(parents))
    return paths


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", document.read_text(encoding="utf-8")):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            linked = document.parent / path if path else document
            assert linked.exists(), target
            if not anchor:
                continue
            headings = re.findall(r"^#+ (.*)$", linked.read_text(encoding="utf-8"), re.M)
            assert anchor in {heading.lower().replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("document", READMES, ids=lambda path: path.name)
def test_the_file_tree_is_true(document: Path) -> None:
    listed = tree(document)
    for path in listed:
        assert (ROOT / path).is_dir() == path.endswith("/"), path
        assert (ROOT / path).exists(), path
    package = ROOT / "src" / "mohist"
    folders = {
        f"{path.parent.relative_to(ROOT)}/" for path in [*package.rglob("*.py"), *package.rglob("*.cpp")]
    }
    modules = {str(path.relative_to(ROOT)) for path in package.glob("*.py") if not path.name.startswith("__")}
    assert set(listed) >= folders | modules


def test_both_readmes_have_one_tree() -> None:
    assert tree(READMES[0]) == tree(READMES[1])


def commands() -> list[str]:
    lines = [line for doc in DOCUMENTS for block in blocks(doc, "console") for line in block.splitlines()]
    return sorted(
        {line.removeprefix("$ .venv/bin/") for line in lines if line.startswith("$ .venv/bin/mohist ")}
    )


@pytest.mark.parametrize("command", commands())
def test_documented_commands_parse(command: str) -> None:
    argv = shlex.split(command)[1:]
    args, unknown = build_parser(argv).parse_known_args(argv)
    assert not unknown or "overrides" in args, unknown


@pytest.mark.parametrize("document", [*READMES, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_documented_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert (
        set(re.findall(r"make ([a-z]+)\b(?! (?:sure|it))", document.read_text(encoding="utf-8"))) <= targets
    )
