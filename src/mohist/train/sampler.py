"""The engine that samples what the trainer learns from: on the trainer's tensors, or on quantised copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mohist.engine.drafters import make_speculator
from mohist.engine.engine import Engine, EngineConfig
from mohist.engine.runner import DecoderRunner, block_size
from mohist.errors import ConfigError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.weight import BLOCK, Weight
from mohist.llm import LLM
from mohist.model.decoder import Decoder
from mohist.model.tensors import Matrix, Vector
from mohist.train.models import TrainedModel
from mohist.types import SamplingParams
from mohist.weights.formats import Format
from mohist.weights.quants import quantize

__all__ = ["Sampler", "SamplingConfig"]

QuantizedFormat = Literal["q8_0", "q4_0", "q4_1"]

ROOM_TOKENS = 512
"""Cache for the prompt of every running answer. More is no loss: memory is taken when it is used."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How answers are sampled. There are no penalties: the trainer could not score what they sample."""

    temperature: float = 1.0
    """Divides the logits; over 0. The trainer scores the same distribution."""
    top_k: int = 0
    """Sample from so many most likely tokens; 0 from all."""
    top_p: float = 1.0
    """Sample from the most likely tokens with this much probability; in (0, 1]."""
    max_tokens: int = 512
    """Most tokens of an answer, thinking included."""
    thinking: bool | None = None
    """Ask for thinking or for none, where the chat template has a switch; none leaves it to the template."""
    max_running: int = 64
    """Answers sampled at once; changes no answer."""
    speculate: str = "off"
    """How tokens are guessed ahead, which changes no answer: lookup, mtp, draft:MODEL or off."""
    quantize: QuantizedFormat | None = None
    """Sample from weights in this format, made anew after every step: faster, and no longer exact."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(
                f"temperature = {self.temperature}: it must be over 0, since equal answers teach nothing"
            )
        self.params()

    def params(self) -> SamplingParams:
        """For the engine. Raises RequestError for numbers out of range."""
        return SamplingParams(
            max_tokens=self.max_tokens, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )


class Sampler:
    """An `LLM` that samples from a model in training; `update` makes new weights count."""

    def __init__(self, model: TrainedModel, config: SamplingConfig) -> None:
        assert isinstance(model.decoder.ops, TrainingOps)
        ops = model.decoder.ops.ops
        self._trained = model.decoder
        self._copy = None if config.quantize is None else Decoder(model.decoder.config, ops)
        self._format = config.quantize
        decoder = self._copy or model.decoder
        context = min(decoder.config.max_positions, config.max_tokens + ROOM_TOKENS)
        size = block_size(decoder)
        num_blocks = config.max_running * -(-context // size)
        runner = DecoderRunner(decoder, ops, num_blocks=num_blocks, block_size=size)
        speculation = make_speculator(config.speculate, runner)
        engine = EngineConfig(max_running=config.max_running, max_step_tokens=max(512, config.max_running))
        self.llm = LLM(
            source=model.source,
            decoder=decoder,
            chat=model.chat,
            engine=Engine(runner, engine, speculation),
            defaults=config.params(),
        )
        self.exact = ops.exact and self._copy is None
        """Whether the trainer's logprobs equal the sampler's, bit for bit."""
        self.update()

    def update(self) -> None:
        """Sample from the trainer's weights as they are now. No answer may be unfinished."""
        if self._copy is not None and self._format is not None:
            _copy_quantized(self._trained, self._copy, self._format)
        self.llm.engine.update_weights()


def _copy_quantized(trained: Decoder, copy: Decoder, format: QuantizedFormat) -> None:
    """Fill `copy` with the values of `trained`; routers and matrices with odd rows stay float32."""
    mine = copy.tensors()
    for name, module in trained.tensors().items():
        target = mine[name]
        if isinstance(module, Vector):
            assert isinstance(target, Vector)
            target.fill(module.value.detach().clone())
            continue
        assert isinstance(target, Matrix)
        matrices_GNK = module.dense().view(-1, *module.shape[-2:])
        if name.endswith(".router") or module.shape[-1] % BLOCK:
            target.fill(Weight.from_dense(matrix_NK) for matrix_NK in matrices_GNK)
        else:
            target.fill(
                Weight.from_rows(format, quantize(matrix_NK.contiguous(), Format(format)).data)
                for matrix_NK in matrices_GNK
            )
