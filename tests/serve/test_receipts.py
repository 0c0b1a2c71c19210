"""Receipts: what a server said is given again, bit for bit, here and elsewhere; anything else is noticed."""

from __future__ import annotations

import copy
import json
from collections.abc import Generator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from mohist.cli.main import main
from mohist.errors import RequestError
from mohist.llm import LLM
from mohist.receipt import Receipt
from mohist.weights.fingerprint import content_hash
from tests.serve.servers import Running, serving, user
from tests.serve.tiny import save_babbler

SAMPLED = {
    "temperature": 1.1,
    "top_p": 0.9,
    "frequency_penalty": 0.3,
    "max_tokens": 12,
    "seed": 7,
    "receipt": True,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_babbler(tmp_path_factory.mktemp("babbler"))


@pytest.fixture(scope="module")
def running(folder: Path) -> Generator[Running]:
    with serving({"babbler": LLM.load(str(folder), threads=1)}) as server:
        yield server


def verdict(running: Running, receipt: Any) -> dict[str, Any]:
    response = running.post("/v1/replay", receipt)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"n": 3},
        {"stop": ["e", "a"]},
        {"response_format": {"type": "regex", "regex": "[abc]{5,9}"}},
        {"thinking": {"type": "enabled", "budget_tokens": 4}},
        {"logprobs": True, "top_logprobs": 3},
    ],
    ids=str,
)
def test_answers_come_out_again(
    running: Running, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: dict[str, Any]
) -> None:
    reply = running.chat("hello", **SAMPLED, **more)
    receipt = reply["receipt"]
    assert reply["system_fingerprint"] == receipt["fingerprint"]
    assert len(receipt["answers"]) == more.get("n", 1)
    found = verdict(running, receipt)
    assert found["identical"]
    assert found["first_difference"] is None
    assert found["num_tokens"] == sum(len(answer["tokens"]) for answer in receipt["answers"])
    file = tmp_path / "answer.json"
    file.write_text(json.dumps(reply))
    assert main(["replay", str(file), "--threads", "2"]) == 0
    assert capsys.readouterr().out.startswith("identical: ")


def test_every_dialect_gives_the_same_receipt(running: Running) -> None:
    seed = {"seed": 5, "receipt": True}
    message = {"messages": [user("hello")], "max_tokens": 9, **seed}
    receipts = [
        running.post("/v1/chat/completions", message).json()["receipt"],
        running.stream("/v1/chat/completions", message)[-1]["receipt"],
        running.post("/v1/messages", message).json()["receipt"],
        running.post("/v1/responses", {"input": "hello", "max_output_tokens": 9, **seed}).json()["receipt"],
    ]
    assert all(receipt == receipts[0] for receipt in receipts)
    raw = running.post("/v1/completions", {"prompt": "once", "max_tokens": 5, **seed}).json()["receipt"]
    assert raw["raw"]
    assert verdict(running, raw)["identical"]


def test_what_compiled_the_form_is_said_where_that_may_be_why(
    running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"response_format": {"type": "regex", "regex": "[abc]{5,9}"}}
    receipt = running.chat("hello", **SAMPLED, **shape)["receipt"]
    here = f"llguidance {version('llguidance')}"
    assert receipt["compiler"] == here
    for free in ({}, {"thinking": {"type": "enabled", "budget_tokens": 4}}):
        assert running.chat("hello", **SAMPLED, **free)["receipt"]["compiler"] is None
    elsewhere = {**receipt, "compiler": "llguidance 0.1.0"}
    assert verdict(running, elsewhere)["doubt"] is None, "it is identical"
    old = {name: value for name, value in receipt.items() if name != "compiler"}
    assert verdict(running, old)["identical"], "receipts of before"
    for then, said in [
        (
            elsewhere,
            f"compiled by llguidance 0.1.0 and here by {here}: another version may allow other tokens",
        ),
        (old, f"compiled by a version that the receipt does not name and here by {here}"),
        (receipt, None),
    ]:
        forged: Any = copy.deepcopy(then)
        forged["answers"][0]["tokens"][1] += 1
        doubt = verdict(running, forged)["doubt"]
        assert (doubt is None) if said is None else (said in doubt)
        file = tmp_path / "receipt.json"
        file.write_text(json.dumps(forged))
        assert main(["replay", str(file)]) == 1
        out = capsys.readouterr().out
        assert ("this may be why" in out) == (said is not None)
        assert said is None or said in out


def test_forgeries_are_noticed(running: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    receipt = running.chat("hello", **SAMPLED)["receipt"]
    tokens, logprobs = receipt["answers"][0]["tokens"], receipt["answers"][0]["logprobs"]
    forged = copy.deepcopy(receipt)
    forged["answers"][0]["tokens"][3] = (tokens[3] + 1) % 200
    found = verdict(running, forged)
    assert not found["identical"]
    difference = found["first_difference"]
    assert (difference["answer"], difference["index"]) == (0, 3)
    assert difference["found"] == [tokens[3], logprobs[3]]
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(forged))
    assert main(["replay", str(file)]) == 1
    assert "token 3" in capsys.readouterr().out
    nudged = copy.deepcopy(receipt)
    nudged["answers"][0]["logprobs"][1] += 1e-9
    assert verdict(running, nudged)["first_difference"]["index"] == 1
    other = copy.deepcopy(receipt)
    other["prompt"][0] += 1
    assert not verdict(running, other)["identical"]


def test_other_weights_have_another_fingerprint(running: Running, folder: Path, tmp_path: Path) -> None:
    receipt = running.chat("hello", **SAMPLED)["receipt"]
    quantized = LLM.load(str(folder), threads=1, quantize="q8_0")
    with pytest.raises(RequestError, match="same weights in the same format"):
        Receipt.from_json(receipt).replay(quantized)
    response = running.post("/v1/replay", {**receipt, "fingerprint": "fp_0"})
    assert response.status_code == 404
    before = content_hash(folder)
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for file in folder.iterdir():
        (copied / file.name).write_bytes(file.read_bytes())
    assert content_hash(copied) == before
    weights = next(copied.glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert content_hash(copied) != before


@pytest.mark.parametrize(
    "change",
    [
        {"receipt": 2},
        {"answers": []},
        {"answers": [{"sample": 0, "tokens": [1], "logprobs": []}]},
        {"answers": [{"sample": 0, "tokens": ["1"], "logprobs": [-1.0]}]},
        {"answers": {"sample": 0}},
        {"answers": [{"sample": -1, "tokens": [1], "logprobs": [-1.0]}]},
        {"prompt": [10**9]},
        {"prompt": [True]},
        {"prompt": []},
        {"params": {"temperature": "hot"}},
        {"params": {"temperature": -1.0}},
        {"params": {"heat": 1}},
        {"form": {"pattern": "("}},
        {"form": {"calls": "sometimes"}},
        {"form": {"schema": 7}},
        {"more": 1},
    ],
    ids=str,
)
def test_broken_receipts_are_refused(running: Running, change: dict[str, Any]) -> None:
    receipt = running.chat("hello", **SAMPLED)["receipt"]
    response = running.post("/v1/replay", {**receipt, **change})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


def test_no_receipt_unless_asked(running: Running) -> None:
    assert "receipt" not in running.chat("hello", max_tokens=3)
    body = {"prompt": ["a", "b"], "max_tokens": 3, "receipt": True}
    assert running.post("/v1/completions", body).status_code == 400
