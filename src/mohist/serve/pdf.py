"""`python -m mohist.serve.pdf`: a PDF file on standard input, its text as a line of JSON on standard output.

A process of its own with bounded memory, time and files: PDFium is C++ and reads what strangers send.
The line is `{"text", "pages"}`, or `{"status", "message"}` saying what is wrong with the file.
"""

from __future__ import annotations

import json
import sys

MEMORY_BYTES = 1 << 30
CPU_S = 25
MAX_PAGES = 2000
MAX_CHARACTERS = 4_000_000


def main() -> int:
    """Answer one file."""
    data = sys.stdin.buffer.read()
    answer = read(data)
    sys.stdout.write(json.dumps(answer))
    return 0


def read(data: bytes) -> dict[str, object]:
    """The text of all pages, with an empty line between two."""
    try:
        import pypdfium2
    except ModuleNotFoundError:
        return {"status": 501, "message": "this server reads no PDFs: pip install 'mohist[serve]'"}
    _limit()
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        locked = "password" in str(error).lower()
        return {"status": 422, "message": "the PDF needs a password" if locked else "this is not a PDF file"}
    if len(document) > MAX_PAGES:
        return {"status": 422, "message": f"the PDF has {len(document)} pages; at most {MAX_PAGES} are read"}
    pages = []
    for page in document:
        text = page.get_textpage()
        pages.append(text.get_text_range(errors="replace").replace("\r\n", "\n").strip())
        text.close()
        page.close()
        if sum(map(len, pages)) > MAX_CHARACTERS:
            return {"status": 422, "message": f"the PDF has more than {MAX_CHARACTERS:,} characters"}
    return {"text": "\n\n".join(filter(None, pages)), "pages": len(pages)}


def _limit() -> None:
    """From here on: bounded memory and time, no new files or processes."""
    if sys.platform == "win32":
        return
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


if __name__ == "__main__":
    sys.exit(main())
