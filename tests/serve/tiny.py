"""Models for servers under test: one that babbles, and one that says what it is told to."""

from __future__ import annotations

import threading
import time
from functools import cache
from pathlib import Path

from mohist.chat.chat import Chat
from mohist.chat.tokenizer import Tokenizer
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner
from mohist.engine.sequence import Chunk, Draw, Outcome, Sequence
from mohist.kernels import load_ops
from mohist.llm import LLM
from mohist.model.config import DecoderConfig, DenseConfig, GqaConfig, LayerConfig
from mohist.model.decoder import Decoder
from mohist.model.load import init_decoder
from mohist.model.rope_config import RopeConfig
from mohist.model.save import save_decoder
from mohist.types import SamplingParams
from tests.byte_level import byte_level, save_tokenizer

CONTEXT = 1024
SPECIAL = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<think>": False,
    "</think>": False,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": True,
    "<|fim_suffix|>": True,
    "<|fim_middle|>": True,
}
TEMPLATE = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking %}<think>
{% endif %}{% endif %}"""
MERGES = [("t", "h"), ("h", "e"), ("i", "n"), ("l", "l"), ("Ġ", "t")]


@cache
def tiny_chat() -> Chat:
    """Bytes, a few words, ChatML, thinking that can be switched, tools, and filling in the middle."""
    backend = byte_level(SPECIAL, merges=MERGES)
    names = {"eos_token": "<|im_end|>"}
    return Chat(Tokenizer(backend, names=names, templates={"default": TEMPLATE}))


@cache
def tiny_decoder() -> Decoder:
    mixer = GqaConfig(num_heads=2, num_kv_heads=1, head_dim=16, rope=RopeConfig(dim=16))
    layer = LayerConfig(mixer=mixer, mlp=DenseConfig(width=64))
    config = DecoderConfig(
        family="llama",
        vocab_size=tiny_chat().tokenizer.vocab_size,
        hidden_size=32,
        layers=(layer, layer),
        norm_eps=1e-5,
        tie_embeddings=True,
        max_positions=CONTEXT,
        eos_tokens=(),
    )
    return init_decoder(config, load_ops(threads=1), seed=5, std=0.3)


def babbler(*, max_running: int = 64, num_blocks: int = 1024) -> LLM:
    """A model with random weights."""
    decoder = tiny_decoder()
    runner = DecoderRunner(decoder, decoder.ops, num_blocks=num_blocks, block_size=16)
    return LLM(
        source="babbler",
        decoder=decoder,
        chat=tiny_chat(),
        engine=Engine(runner, EngineConfig(max_running=max_running)),
        defaults=SamplingParams(temperature=0.8),
    )


class ScriptRunner(DecoderRunner):
    """Draws what the last user message asks for after `say `, whatever the decoder would say."""

    def __init__(self) -> None:
        decoder = tiny_decoder()
        super().__init__(decoder, decoder.ops, num_blocks=4096, block_size=16)
        self.gate = threading.Event()
        self.gate.set()
        """No step goes on while it is not set."""
        self.step_s = 0.0
        """How long a step takes."""
        self.fails = 0
        """How many of the next steps fail."""
        self.num_drawn = 0

    def run(self, chunks: list[Chunk]) -> list[Outcome]:
        self.gate.wait(30)
        time.sleep(self.step_s)
        if self.fails:
            self.fails -= 1
            raise RuntimeError("a scripted failure")
        return [self._outcome(chunk) for chunk in chunks]

    def _outcome(self, chunk: Chunk) -> Outcome:
        if chunk.scores:
            return Outcome(logprobs=(-1.0,) * (chunk.end - chunk.start))
        if not chunk.draws:
            return Outcome()
        self.num_drawn += 1
        script = script_of(chunk.sequence)
        token = script[min(chunk.sequence.num_generated, len(script) - 1)]
        top = tuple((token, -0.5) for _ in range(chunk.sequence.params.top_logprobs))
        return Outcome(draws=(Draw(token, -0.5, -0.5, top),))


def script_of(sequence: Sequence) -> list[int]:
    """What a prompt asks for, as tokens, and the end of the turn."""
    tokenizer = tiny_chat().tokenizer
    prompt = tokenizer.decode(sequence.prompt)
    wanted = prompt.rpartition("say ")[2].partition("<|im_end|>\n<|im_start|>assistant")[0]
    end = tokenizer.token("<|im_end|>")
    assert end is not None
    return [*tokenizer.encode(wanted), end]


def script_llm(*, max_running: int = 64) -> LLM:
    """The model that says what it is told to; its runner is `llm.engine._runner`."""
    return LLM(
        source="script",
        decoder=tiny_decoder(),
        chat=tiny_chat(),
        engine=Engine(ScriptRunner(), EngineConfig(max_running=max_running)),
        defaults=SamplingParams(),
    )


def save_babbler(folder: Path) -> Path:
    """The babbler as a Hugging Face folder."""
    save_decoder(tiny_decoder(), folder)
    save_tokenizer(tiny_chat().tokenizer.backend, folder, template=TEMPLATE, eos="<|im_end|>")
    return folder
