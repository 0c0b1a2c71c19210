"""Every family against transformers on tiny random weights: prompt, decode, gradients, files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mohist.kernels.autograd import TrainingOps
from mohist.kernels.ops import Ops
from mohist.kernels.twin import TorchOps
from mohist.model import family
from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder
from mohist.model.load import load_decoder
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix
from mohist.weights.checkpoint import open_checkpoint
from tests.exact.models import CONFIGS
from tests.model import tiny

pytestmark = pytest.mark.parity
VARIANTS = list(tiny.configs())
LIMIT = 1e-5
"""Of differences to transformers, relative to the range of the logits; the bar is 1e-4."""


def score(decoder: Decoder, *sequences: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of whole sequences, packed."""
    attend = PackedAttend([len(sequence) for sequence in sequences], decoder.ops)
    return decoder.logits(decoder(torch.cat(sequences), attend.positions_T, attend))


def test_every_family_is_covered() -> None:
    families = set(family.all_families())
    assert {variant.split("-")[0] for variant in VARIANTS} == families
    assert set(CONFIGS) == families


@pytest.mark.parametrize("variant", VARIANTS)
def test_prompt_and_decode_match_transformers(
    variant: str, ops: Ops, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    model = tiny.write(variant, tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), ops)
    first, second = tiny.tokens(90), tiny.tokens(33, seed=1)
    with torch.no_grad():
        expected = [model(tokens[None].long()).logits[0] for tokens in (first, second)]
        packed = score(decoder, first, second)
        differences = [tiny.relative(packed, torch.cat(expected))]

        attend = tiny.Paged(decoder, len(first))
        steps = [(0, 40), (40, 57), *((i, i + 1) for i in range(57, 90))]
        for start, end in steps:
            positions = torch.arange(start, end).int()
            hidden = decoder(first[start:end], positions, attend.at(positions))
            paged = decoder.logits(hidden)
            differences.append(tiny.relative(paged, expected[0][start:end]))
            assert torch.equal(paged, packed[start:end]) or not ops.exact
    record_property("difference", max(differences))
    assert max(differences) < LIMIT


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_match_transformers(variant: str, ops: Ops, tmp_path: Path) -> None:
    model = tiny.write(variant, tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), TrainingOps(ops), trainable=True)
    tokens = tiny.tokens(50)
    attend = PackedAttend([50], decoder.ops)
    hidden = decoder(tokens, attend.positions_T, attend)
    loss = -decoder.logprobs(hidden[:-1], tokens[1:], chunk=16).mean()
    loss.backward()
    expected = model(tokens[None].long(), labels=tokens[None].long()).loss
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    # Gradients go through transformers' own conversion of names and shapes to be compared.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        for buffer in model.buffers():
            buffer.zero_()
    model.save_pretrained(tmp_path / "gradients")
    theirs = load_decoder(open_checkpoint(tmp_path / "gradients"), TorchOps(), quantize="f32")
    for name, module in decoder.tensors().items():
        other = theirs.tensors()[name]
        if isinstance(module, Matrix) and isinstance(other, Matrix):
            assert module.parameter is not None
            mine, reference = module.parameter.grad, other.dense()
        elif not isinstance(module, Matrix) and not isinstance(other, Matrix):
            mine, reference = module.value.grad, other.value
        if mine is None:
            assert not reference.any(), name
        else:
            # Softmax routers without groups leave many experts without tokens, and Gemma's gradients are
            # large: an absolute floor.
            torch.testing.assert_close(
                mine,
                reference,
                rtol=1e-3,
                atol=max(2e-6, 1e-5 * float(reference.abs().max())),
                msg=lambda m, n=name: f"{n}: {m}",
            )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_saving_and_loading_keeps_every_byte(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny.write(variant, tmp_path / "theirs", dtype)
    ours = load_decoder(open_checkpoint(tmp_path / "theirs"), TorchOps())
    for folder, decoder in (("once", ours), ("twice", None)):
        again = decoder or load_decoder(open_checkpoint(tmp_path / "once"), TorchOps())
        save_decoder(again, tmp_path / folder)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "twice" / file).read_bytes()

    theirs, saved = open_checkpoint(tmp_path / "theirs"), open_checkpoint(tmp_path / "once")
    assert tiny.weights(theirs.tensors) == set(saved.tensors)
    for name, info in saved.tensors.items():
        raw = theirs.read(name)
        assert torch.equal(saved.read(name).data, raw.data.to(info.format.dtype)), name
    assert family.read_config(saved) == ours.config

    with torch.no_grad():
        tokens = tiny.tokens(20)[None].long()
        logits = [tiny.read(tmp_path / folder)(tokens).logits for folder in ("theirs", "once")]
        if tiny.weights(theirs.tensors) == set(theirs.tensors):
            assert torch.equal(*logits)
        else:  # what transformers stored of its derived numbers was rounded with the weights
            assert tiny.relative(*logits) < 0.02


@pytest.mark.parametrize("variant", VARIANTS)
def test_training_saves_what_it_changed(variant: str, ops: Ops, tmp_path: Path) -> None:
    tiny.write(variant, tmp_path / "start")
    decoder = load_decoder(open_checkpoint(tmp_path / "start"), TrainingOps(ops), trainable=True)
    tokens = tiny.tokens(12)
    before = score(decoder, tokens)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(0.01)
    after = score(decoder, tokens)
    assert not torch.allclose(before, after, atol=1e-3)
    with torch.no_grad():
        # Without gradients the packed weights are read: they must have followed their parameters.
        again = score(decoder, tokens)
        save_decoder(decoder, tmp_path / "end")
        restored = score(load_decoder(open_checkpoint(tmp_path / "end"), ops), tokens)
    for logits in (again, restored):
        torch.testing.assert_close(logits, after, rtol=1e-4, atol=1e-4)
        assert torch.equal(logits, after) or not ops.exact


def test_old_and_new_spelling_of_rope_are_one(tmp_path: Path) -> None:
    """Hub configs from before transformers 5 have `rope_theta` and `rope_scaling`."""
    tiny.write("llama-tied-llama3", tmp_path)
    new = family.read_config(open_checkpoint(tmp_path))
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    scaling = config.pop("rope_parameters")
    config["rope_theta"] = scaling.pop("rope_theta")
    config["rope_scaling"] = scaling
    path.write_text(json.dumps(config))
    assert family.read_config(open_checkpoint(tmp_path)) == new
