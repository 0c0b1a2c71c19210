"""Fetches the libraries of the web page with npm, and writes down where each file came from.

    python tools/vendor_web.py            write src/mohist/serve/web/vendor anew
    python tools/vendor_web.py --check    fail if what is there differs from what npm delivers

Files are taken from the published packages byte for byte. `VENDORED` beside them lists package, version,
licence and SHA-256 of each.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parents[1] / "src" / "mohist" / "serve" / "web" / "vendor"

KATEX_FONTS = [
    "AMS-Regular",
    "Caligraphic-Bold",
    "Caligraphic-Regular",
    "Fraktur-Bold",
    "Fraktur-Regular",
    "Main-Bold",
    "Main-BoldItalic",
    "Main-Italic",
    "Main-Regular",
    "Math-BoldItalic",
    "Math-Italic",
    "SansSerif-Bold",
    "SansSerif-Italic",
    "SansSerif-Regular",
    "Script-Regular",
    "Size1-Regular",
    "Size2-Regular",
    "Size3-Regular",
    "Size4-Regular",
    "Typewriter-Regular",
]


@dataclass(frozen=True, kw_only=True)
class Package:
    """What is taken from one npm package: `files` maps paths in it to paths in the folder."""

    name: str
    version: str
    licence: str
    files: dict[str, str]


PACKAGES = (
    Package(
        name="htm",
        version="3.1.1",
        licence="Apache-2.0, and MIT for the Preact inside",
        files={"preact/standalone.module.js": "preact.js", "LICENSE": "licences/htm.txt"},
    ),
    Package(name="preact", version="10.5.13", licence="MIT", files={"LICENSE": "licences/preact.txt"}),
    Package(
        name="marked",
        version="18.2.1",
        licence="MIT",
        files={"lib/marked.esm.js": "marked.js", "LICENSE": "licences/marked.txt"},
    ),
    Package(
        name="dompurify",
        version="3.4.18",
        licence="MPL-2.0 or Apache-2.0",
        files={"dist/purify.min.js": "purify.js", "LICENSE": "licences/dompurify.txt"},
    ),
    Package(
        name="katex",
        version="0.19.1",
        licence="MIT",
        files={
            "dist/katex.min.js": "katex/katex.js",
            "dist/katex.min.css": "katex/katex.css",
            **{f"dist/fonts/KaTeX_{font}.woff2": f"katex/fonts/KaTeX_{font}.woff2" for font in KATEX_FONTS},
            "LICENSE": "licences/katex.txt",
        },
    ),
    Package(
        name="@highlightjs/cdn-assets",
        version="11.12.0",
        licence="BSD-3-Clause",
        files={"es/highlight.min.js": "highlight.js", "LICENSE": "licences/highlight.txt"},
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    wanted = {target: data for package in PACKAGES for target, data in fetch(package).items()}
    wanted["VENDORED"] = listing(wanted).encode()
    if check:
        return compare(wanted)
    for target, data in wanted.items():
        path = FOLDER / target
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(f"{len(wanted)} files, {sum(map(len, wanted.values())):,} bytes in {FOLDER}")
    return 0


def fetch(package: Package) -> dict[str, bytes]:
    """The wanted files of one package, by their paths in the folder."""
    with TemporaryDirectory() as place:
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=place, check=True, stdout=subprocess.DEVNULL)
        (archive,) = Path(place).glob("*.tgz")
        with tarfile.open(archive) as packed:
            return {
                target: member.read()
                for source, target in package.files.items()
                if (member := packed.extractfile(f"package/{source}"))
            }


def listing(files: dict[str, bytes]) -> str:
    """The text of `VENDORED`."""
    lines = [
        "Written by tools/vendor_web.py. SHA-256 of each file, as the npm package has it.",
        "",
    ]
    for package in PACKAGES:
        lines.append(f"{package.name} {package.version} ({package.licence})")
        lines += [
            f"  {hashlib.sha256(files[target]).hexdigest()}  {target}" for target in package.files.values()
        ]
        lines.append("")
    return "\n".join(lines)


def compare(wanted: dict[str, bytes]) -> int:
    """Print how the folder differs from what is wanted; 0 if it does not."""
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    different = sorted(
        name
        for name in there | set(wanted)
        if name not in there or (FOLDER / name).read_bytes() != wanted.get(name)
    )
    for name in different:
        print(f"differs: {name}", file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
