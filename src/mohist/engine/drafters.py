"""Drafters by name, as options and configs ask for them."""

from __future__ import annotations

from mohist.engine.draft_model import DraftModel
from mohist.engine.lookup import PromptLookup
from mohist.engine.mtp import MtpDrafter
from mohist.engine.runner import DecoderRunner
from mohist.engine.speculation import Drafter, Speculator
from mohist.errors import ConfigError
from mohist.model.load import load_decoder
from mohist.weights.checkpoint import open_checkpoint
from mohist.weights.source import resolve

__all__ = ["make_drafter", "make_speculator"]


def make_drafter(speculate: str, runner: DecoderRunner, *, offline: bool = False) -> Drafter | None:
    """What guesses tokens for the model of `runner`: nothing for "off", else see docs/speculation.md.

    "lookup" reads the text so far, "mtp" runs the model's own multi-token module, "draft:SOURCE" a smaller
    model in a cache of the same size. Raises MohistError.
    """
    if speculate == "off":
        return None
    if speculate == "lookup":
        return PromptLookup()
    if speculate == "mtp":
        return MtpDrafter(runner)
    how, _, source = speculate.partition(":")
    if how != "draft" or not source:
        raise ConfigError(f"speculate = {speculate!r}: it must be lookup, mtp, draft:MODEL or off")
    decoder = load_decoder(open_checkpoint(resolve(source, offline=offline)), runner.ops)
    blocks, size = runner.num_blocks, runner.block_size
    drafting = DecoderRunner(decoder, runner.ops, num_blocks=blocks, block_size=size)
    return DraftModel(drafting, vocab_size=runner.vocab_size)


def make_speculator(speculate: str, runner: DecoderRunner, *, offline: bool = False) -> Speculator | None:
    """What decides about the guesses of `make_drafter`; None for "off"."""
    drafter = make_drafter(speculate, runner, offline=offline)
    return None if drafter is None else Speculator(drafter)
