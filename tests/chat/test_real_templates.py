"""Formats against the models' own templates, where `tools/fetch_templates.py` has fetched them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import pytest

from mohist.chat.chat import Chat
from mohist.chat.format import all_formats
from mohist.chat.tokenizer import Tokenizer
from mohist.chat.turns import last_turn
from mohist.types import Message, ToolCall
from mohist.weights.source import cache_folder

pytestmark = pytest.mark.parity

Build = Callable[..., Tokenizer]
NOW = datetime(2026, 11, 24, 12, 0)

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "find",
            "description": "Finds things",
            "parameters": {
                "type": "object",
                "properties": {
                    "q": {"type": "string", "description": "words"},
                    "n": {"type": "integer", "description": "how many"},
                    "deep": {"type": "boolean", "description": "also inside"},
                    "of": {"type": "array", "items": {"type": "string"}, "description": "kinds"},
                },
                "required": ["q"],
            },
        },
    }
]
ARGUMENTS = {"deep": True, "n": 3, "of": ["a", "b"], "q": '007 < "x" & </b>\n二'}
CALL = ToolCall(name="find", arguments=json.dumps(ARGUMENTS, ensure_ascii=False), id="call_0001"[-9:])
SYSTEM = Message(role="system", content="Be brief.")
QUESTION = Message(role="user", content="Where is it?")
THOUGHT = "Let me see.\n\nI should look."
ANSWER = Message(role="assistant", content="It is **there**.\n\nReally.")


class Case(NamedTuple):
    """A template, the format that it belongs to, and what its model does."""

    template: str
    format: str
    thinks: bool = False
    thinks_before_calls: bool = False
    """Whether the template writes thoughts beside calls of tools."""
    text_before_calls: bool = True
    several_calls: bool = True
    calls: bool = True
    offers: bool = True
    """Whether the template tells the model about tools."""
    system: bool = True
    """Whether the template takes a system message."""
    plain: bool = True
    """Whether our default template writes the same, for a conversation without thoughts and tools."""


CASES = [
    Case("Qwen-Qwen2.5-7B-Instruct", "chatml"),
    Case("Qwen-Qwen3-0.6B", "chatml", thinks=True, thinks_before_calls=True),
    Case("HuggingFaceTB-SmolLM3-3B", "chatml", calls=False, plain=False),
    Case("Qwen3-Coder", "qwen_coder"),
    Case("Qwen3.5-4B", "qwen_coder", thinks=True, thinks_before_calls=True, plain=False),
    Case(
        "openai-gpt-oss-120b",
        "gpt_oss",
        thinks=True,
        thinks_before_calls=True,
        text_before_calls=False,
        several_calls=False,
    ),
    Case("GLM-4.6", "glm", thinks=True, thinks_before_calls=True),
    Case("GLM-4.7-Flash", "glm_47", thinks=True, thinks_before_calls=True),
    Case("moonshotai-Kimi-K2", "kimi"),
    Case("Kimi-K2-Instruct", "kimi"),
    Case("Kimi-K2-Thinking", "kimi", thinks=True, thinks_before_calls=True, plain=False),
    Case("Kimi-K3", "kimi_k3", thinks=True, thinks_before_calls=True),
    Case("MiniMax-M1", "minimax_m1", text_before_calls=False),
    Case("MiniMax-M2", "minimax_m2", thinks=True, thinks_before_calls=True),
    Case("llama-cpp-deepseek-r1", "deepseek", calls=False, plain=False),
    Case("deepseek-ai-DeepSeek-R1-Distill-Qwen-32B", "deepseek", calls=False, plain=False),
    Case("deepseek-ai-DeepSeek-V3.1", "deepseek_v31", offers=False, plain=False),
    Case("deepseek-ai-DeepSeek-V3.2", "deepseek_v32", thinks=True, thinks_before_calls=True, plain=False),
    Case("deepseek-ai-DeepSeek-V4", "deepseek_v4", thinks=True, thinks_before_calls=True),
    Case("google-gemma-2-2b-it", "gemma", calls=False, system=False),
    Case("google-gemma-4-31B-it", "gemma_4", thinks_before_calls=True),
    Case("mistralai-Ministral-3-14B-Reasoning-2512", "mistral"),
    Case("Mistral-Small-3.2-24B-Instruct-2506", "mistral", text_before_calls=False),
    Case(
        "meta-llama-Llama-3.1-8B-Instruct",
        "llama3",
        text_before_calls=False,
        several_calls=False,
        plain=False,
    ),
    Case("GigaChat3-10B-A1.8B", "gigachat", several_calls=False, plain=False),
    Case("GigaChat3.1-10B-A1.8B", "gigachat_31", several_calls=False, plain=False),
]
BOS = {"deepseek": "<｜begin▁of▁sentence｜>", "gemma": "<bos>", "llama3": "<|begin_of_text|>"}
EOS = {"deepseek": "<｜end▁of▁sentence｜>"}
everything = pytest.mark.parametrize("case", CASES, ids=lambda case: case.template)


def source(name: str) -> str:
    path = cache_folder() / "templates" / f"{name}.jinja"
    if not path.is_file():
        pytest.skip("needs the models' templates in the cache (python tools/fetch_templates.py)")
    return path.read_text(encoding="utf-8")


def tokenizer_for(build: Build, name: str) -> Tokenizer:
    """Every byte, and the format's own marks as single tokens."""
    kind = name.split("_")[0]
    bos, eos = BOS.get(kind, "<s>"), EOS.get(kind, "</s>")
    added = dict.fromkeys(sorted(all_formats()[name].markup | {bos, eos}), True)
    return build(added, names={"bos_token": bos, "eos_token": eos})


@everything
def test_the_template_tells_the_format(build: Build, case: Case) -> None:
    assert Chat(tokenizer_for(build, case.format), template=source(case.template)).format.name == case.format


@everything
def test_default_templates_write_what_the_models_own_do(build: Build, case: Case) -> None:
    if not case.plain:
        pytest.skip("the model's own template adds text of its own")
    tokenizer = tokenizer_for(build, case.format)
    own, default = Chat(tokenizer, template=source(case.template)), Chat(tokenizer, format_name=case.format)
    conversation = [QUESTION, ANSWER, replace(QUESTION, content="And now?")]
    if case.system:
        conversation = [SYSTEM, *conversation]
    assert default.rendered(conversation, now=NOW).text == own.rendered(conversation, now=NOW).text


@pytest.mark.parametrize(
    ("template", "name"),
    [("deepseek-ai-DeepSeek-V3.2", "deepseek_v32"), ("deepseek-ai-DeepSeek-V4", "deepseek_v4")],
)
@pytest.mark.parametrize("turns", [3, 5, 6, 7])
def test_dsml_conversations_with_tools(build: Build, template: str, name: str, turns: int) -> None:
    """Thoughts kept across calls and dropped at the next question, as the models' templates do it."""
    tokenizer = tokenizer_for(build, name)
    own, default = Chat(tokenizer, template=source(template)), Chat(tokenizer, format_name=name)
    calls = (CALL, replace(CALL, arguments='{"q": "1"}'))
    conversation = [
        SYSTEM,
        QUESTION,
        Message(role="assistant", content="Looking.", reasoning=THOUGHT, tool_calls=calls),
        Message(role="tool", content="<b>here</b>"),
        Message(role="tool", content="there"),
        replace(ANSWER, reasoning="Here it is."),
        replace(QUESTION, content="And now?"),
    ]
    options: dict[str, Any] = {"tools": TOOLS, "thinking": True, "add_generation_prompt": turns in (5, 7)}
    ours, theirs = (chat.rendered(conversation[:turns], **options).text for chat in (default, own))
    assert ours == theirs


@everything
@pytest.mark.parametrize("num_calls", [0, 1, 2])
def test_what_the_template_writes_is_read_back(build: Build, case: Case, num_calls: int) -> None:
    """An answer in the place where the model would write it, with thoughts, text and calls."""
    if (num_calls and not case.calls) or (num_calls > 1 and not case.several_calls):
        pytest.skip("the template has no place for that many calls")
    chat = Chat(tokenizer_for(build, case.format), template=source(case.template))
    thinks = case.thinks_before_calls if num_calls else case.thinks
    answer = replace(
        ANSWER,
        content=ANSWER.content if case.text_before_calls or not num_calls else "",
        reasoning=THOUGHT if thinks else None,
        tool_calls=(CALL, replace(CALL, arguments='{"q": "1"}', id="call_0002"[-9:]))[:num_calls],
    )
    messages = [SYSTEM, QUESTION, answer] if case.system else [QUESTION, answer]
    offered = TOOLS if case.calls and case.offers else None
    prompt, tokens = last_turn(chat, messages, tools=offered, thinking=True if thinks else None)
    read = chat.parse(tokens, prompt, tools=TOOLS)
    assert (read.content, read.reasoning) == (answer.content, answer.reasoning)
    assert [(c.name, json.loads(c.arguments)) for c in read.tool_calls] == [
        (c.name, json.loads(c.arguments)) for c in answer.tool_calls
    ]
