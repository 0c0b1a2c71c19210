"""Writes docs/families.md from a run of the tests that every family has to pass.

python tools/families.py                  run them and write the page anew
python tools/families.py --report FILE    write it from a run of all tests
python tools/families.py --check          fail if the page is not of the families and tests that there are now
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from mohist.model.family import all_families  # noqa: E402
from tests.model.published import PUBLISHED  # noqa: E402

PAGE = ROOT / "docs" / "families.md"
COLUMNS = {
    "logits": "tests/model/test_families.py::test_prompt_and_decode_match_transformers",
    "gradients": "tests/model/test_families.py::test_gradients_match_transformers",
    "files": "tests/model/test_families.py::test_saving_and_loading_keeps_every_byte",
    "GGUF": "tests/model/test_gguf.py::test_the_same_model_from_both_files",
    "llama.cpp": "tests/model/test_llama_cpp.py::test_llama_cpp_reads_what_we_write",
    "refusals": "tests/model/test_refusals.py",
    "exact": "tests/exact",
    "training": "tests/train/test_families.py",
}
"""The tests behind each column."""
HEADER = """\
# Families

Written by `python tools/families.py` from a run of the tests; a test fails when it is out of date.

transformers' own class writes tiny models with random weights (for `deepseek`, which it lacks, a reference
in the tests does). Each family is compared with that, and must pass:

- **logits**: of prompts and of decoding through the cache. The number is the largest difference from
  transformers, relative to the range of the logits, in float32.
- **gradients** of the loss, of every tensor.
- **files**: what is saved and read back is the same, byte for byte.
- **GGUF**: a file as llama.cpp's converter writes it gives the same model.
- **llama.cpp** reads the GGUF file that we write of it, and computes the same logits.
- **refusals**: fields and tensors that do not fit are named.
- **exact**: batches, chunks, prefix hits, preemption, scoring and the training forward change no bit.
- **training**: steps of SFT on all weights and on LoRA's make the loss smaller.

Cells say how many tests passed, of how many.

"""


class Result(NamedTuple):
    """Of one test."""

    column: str
    family: str
    passed: bool
    difference: float | None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument(
        "--report", type=Path, help="of a run of all tests with --junitxml=FILE -o junit_family=xunit1"
    )
    args = parser.parse_args()
    if args.check:
        return check()
    with TemporaryDirectory() as place:
        report = args.report or Path(place, "report.xml")
        if args.report is None:
            command = [*pytest_command(), f"--junitxml={report}", "-o", "junit_family=xunit1"]
            subprocess.run(command, cwd=ROOT, check=False)
        results = list(read(report))
    PAGE.write_text(HEADER + table(results), encoding="utf-8")
    failed = [result for result in results if not result.passed]
    for result in failed:
        print(f"failed: {result.column} of {result.family}")
    return 1 if failed else 0


def check() -> int:
    """Compare everything but what only a run can tell."""
    listed = subprocess.run(
        [*pytest_command(), "--collect-only"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    tests = [line for line in listed.stdout.splitlines() if "::" in line]
    results = [
        Result(column, family, True, None)
        for test in tests
        if (column := column_of(test)) and (family := family_of(test))
    ]
    written = re.sub(r"\d\.\de-\d\d, ", "", PAGE.read_text(encoding="utf-8"))
    if written == HEADER + table(results):
        return 0
    print(f"{PAGE.relative_to(ROOT)} is out of date: run `python tools/families.py`")
    return 1


def pytest_command() -> list[str]:
    """Quiet, and without what the project's own settings add to the output."""
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", *dict.fromkeys(COLUMNS.values())]


def read(report: Path) -> Iterable[Result]:
    """The results in a JUnit file."""
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('file')}::{case.get('name')}"
        column, family = column_of(test), family_of(test)
        if not column or not family:
            continue
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        values = [p.get("value") for p in case.iter("property") if p.get("name") == "difference"]
        yield Result(column, family, passed, max(map(float, filter(None, values)), default=None))


def column_of(test: str) -> str | None:
    """The column that a test belongs to."""
    return next((column for column, prefix in COLUMNS.items() if test.startswith(prefix)), None)


def family_of(test: str) -> str | None:
    """The family in a test's parameters."""
    parameters = re.split(r"[\[\]-]", test.partition("[")[2])
    return next((part for part in parameters if part in all_families()), None)


def table(results: list[Result]) -> str:
    """A row for each family."""
    cells: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for result in results:
        cells[result.family, result.column].append(result)
    lines = [
        "| family | `model_type` | GGUF architecture | released models counted | "
        + " | ".join(COLUMNS)
        + " |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    for name, family in all_families().items():
        released = [
            f"{model} ({published.total})"
            for model, published in PUBLISHED.items()
            if published.config["model_type"] in family.MODEL_TYPES
        ]
        row = [
            f"[{name}](../src/mohist/model/families/{name}.py)",
            ", ".join(f"`{kind}`" for kind in family.MODEL_TYPES),
            ", ".join(f"`{kind}`" for kind in family.GGUF_ARCHITECTURES),
            ", ".join(released),
            *(cell(cells[name, column]) for column in COLUMNS),
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def cell(results: list[Result]) -> str:
    """Passed of all, behind the largest difference where one was measured."""
    if not results:
        return "-"
    differences = [result.difference for result in results if result.difference is not None]
    worst = f"{max(differences):.1e}, " if differences else ""
    return f"{worst}{sum(result.passed for result in results)}/{len(results)}"


if __name__ == "__main__":
    sys.exit(main())
