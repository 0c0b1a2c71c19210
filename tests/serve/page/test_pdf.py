"""PDF files become text in a process of their own."""

from __future__ import annotations

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from mohist.serve import page, pdf
from mohist.serve.settings import LimitsConfig
from tests.serve.page.pdfs import pdf_of

pytest.importorskip("pypdfium2", reason="PDFs are read by pypdfium2, of the extra `serve`")


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    app.include_router(page.routes(LimitsConfig()))
    return TestClient(app)


def test_the_text_of_all_pages(client: TestClient) -> None:
    reply = client.post("/v1/pdf/text", content=pdf_of("All are one.", "", "Spend less."))
    assert reply.json() == {"text": "All are one.\n\nSpend less.", "pages": 3}


@pytest.mark.parametrize("data", [b"", b"%PDF-1.7\n", b"\x00" * 1000, b"<html>"])
def test_what_is_no_pdf_is_said_to_be_none(client: TestClient, data: bytes) -> None:
    reply = client.post("/v1/pdf/text", content=data)
    assert reply.status_code == 422
    assert reply.json()["error"]["message"] == "this is not a PDF file"


def test_a_damaged_pdf_is_read_or_refused(client: TestClient) -> None:
    whole = pdf_of("All are one.")
    for cut in range(0, len(whole), 97):
        assert client.post("/v1/pdf/text", content=whole[:cut]).status_code in (200, 422)


def test_a_pdf_that_takes_too_long_is_given_up(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "PDF_TIMEOUT_S", 0.0)
    reply = client.post("/v1/pdf/text", content=pdf_of("All are one."))
    assert reply.status_code == 422
    assert "within 0 s" in reply.json()["error"]["message"]


def test_a_reader_that_dies_takes_nothing_along(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.sys, "executable", "/bin/false")
    reply = client.post("/v1/pdf/text", content=pdf_of("All are one."))
    assert reply.status_code == 422
    assert "gave up" in reply.json()["error"]["message"]


def test_long_files_are_refused_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "_limit", lambda: None)
    monkeypatch.setattr(pdf, "MAX_PAGES", 1)
    assert pdf.read(pdf_of("one", "two"))["message"] == "the PDF has 2 pages; at most 1 are read"
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    monkeypatch.setattr(pdf, "MAX_CHARACTERS", 5)
    assert pdf.read(pdf_of("one", "two"))["message"] == "the PDF has more than 5 characters"
