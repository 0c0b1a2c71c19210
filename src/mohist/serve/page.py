"""The web page: its static files, and the text of PDF files that people attach.

`/` is one small HTML file. Everything else is served under `/page/VERSION/`, where VERSION is a digest of all
the files: a browser may keep them for ever, and a new Mohist is a new address. The page is public; what it
asks the API for needs a key like anybody's request.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from mohist.serve.errors import ApiError
from mohist.serve.openai_reply import ErrorBody, documented
from mohist.serve.openai_shape import error_body
from mohist.serve.routes import error_route
from mohist.serve.settings import LimitsConfig
from mohist.serve.wire import JsonReply, unless_client_leaves

__all__ = ["CONTENT_SECURITY_POLICY", "PDF_PATH", "routes"]

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "font-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)
"""No code, style, picture or request that is not this server's own; HTML only through the sanitiser."""

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".txt": "text/plain; charset=utf-8",
}

PDF_PATH = "/v1/pdf/text"
PDF = {"schema": {"type": "string", "format": "binary"}}
PDF_TIMEOUT_S = 30.0
PDF_READERS = 2
"""PDF files that are read at the same time; others wait."""


class PdfText(BaseModel):
    """What a PDF says."""

    text: str
    pages: int


@dataclass(frozen=True, slots=True)
class _File:
    data: bytes
    packed: bytes | None
    """Compressed with gzip, where that makes it smaller."""
    type: str


@dataclass(frozen=True, slots=True)
class _Site:
    version: str
    index: bytes
    files: dict[str, _File]


def routes(limits: LimitsConfig) -> APIRouter:
    """The page's routes: `/`, `/page/...`, and `POST /v1/pdf/text`.

    The page knows how large files may be, so that it need not send one to be told.
    """
    known = {b"{max_body_bytes}": limits.max_body_bytes, b"{max_pdf_bytes}": limits.max_pdf_bytes}
    router = APIRouter(route_class=error_route(error_body))
    readers = asyncio.Semaphore(PDF_READERS)

    @router.get("/", include_in_schema=False)
    def index(request: Request) -> Response:
        site = _site()
        etag = f'"{site.version}-{limits.max_body_bytes}-{limits.max_pdf_bytes}"'
        headers = HEADERS | {"Cache-Control": "no-cache", "ETag": etag}
        if request.headers.get("if-none-match") == etag:
            return Response(status_code=304, headers=headers)
        text = site.index
        for place, value in known.items():
            text = text.replace(place, str(value).encode())
        return Response(text, headers=headers, media_type=TYPES[".html"])

    @router.get("/page/{version}/{path:path}", include_in_schema=False)
    def asset(request: Request, version: str, path: str) -> Response:
        site = _site()
        file = site.files.get(path) if version == site.version else None
        if file is None:
            raise ApiError(404, "the page has no such file: load / again", type="not_found_error")
        headers = HEADERS | {
            "Cache-Control": "public, max-age=31536000, immutable",
            "Vary": "Accept-Encoding",
        }
        if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            return Response(file.packed, headers=headers | {"Content-Encoding": "gzip"}, media_type=file.type)
        return Response(file.data, headers=headers, media_type=file.type)

    @router.post(
        PDF_PATH,
        tags=["page"],
        responses=documented(PdfText)
        | {
            422: {"model": ErrorBody, "description": "It is no PDF, or one that cannot be read"},
            501: {"model": ErrorBody, "description": "This server reads no PDFs"},
        },
        openapi_extra={"requestBody": {"required": True, "content": {"application/pdf": PDF}}},
    )
    async def pdf_text(request: Request) -> Response:
        """The text of a PDF file, with an empty line between two pages."""
        data = await request.body()
        async with readers:
            return JsonReply(await unless_client_leaves(request, _read_pdf(data)))

    return router


@cache
def _site() -> _Site:
    """All files of the page, read once. `index.html` names the others by the place `{version}`."""
    files = {
        path: _file(path, node.read_bytes()) for path, node in _walk(resources.files("mohist.serve") / "web")
    }
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path} {len(files[path].data)}\n".encode())
        digest.update(files[path].data)
    version = digest.hexdigest()[:16]
    index = files.pop("index.html").data.replace(b"{version}", version.encode())
    return _Site(version, index, files)


def _walk(folder: Traversable, prefix: str = "") -> list[tuple[str, Traversable]]:
    found = []
    for node in folder.iterdir():
        path = prefix + node.name
        if node.is_dir():
            found += _walk(node, f"{path}/")
        elif path.endswith(tuple(TYPES)):
            found.append((path, node))
    return found


def _file(path: str, data: bytes) -> _File:
    packed = gzip.compress(data, 9, mtime=0)
    type_ = next(type_ for suffix, type_ in TYPES.items() if path.endswith(suffix))
    return _File(data, packed if len(packed) < len(data) * 0.9 else None, type_)


async def _read_pdf(data: bytes) -> dict[str, object]:
    """`{"text", "pages"}` of a PDF, read by a process of its own: a hostile file can only harm that one.

    Raises ApiError: it is not a PDF, needs a password, is too long, or takes too long.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-m",
        "mohist.serve.pdf",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        out, _ = await asyncio.wait_for(process.communicate(data), PDF_TIMEOUT_S)
    except TimeoutError as error:
        raise ApiError(422, f"the PDF could not be read within {PDF_TIMEOUT_S:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise ApiError(422, "the PDF could not be read: its reader gave up on it")
    answer = json.loads(out)
    if "text" not in answer:
        raise ApiError(answer["status"], answer["message"])
    return answer
