"""Models from one kind of file to the other and back: the same bytes where nothing is rounded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mohist.errors import ModelError, WeightsError
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.convert import Conversion, requantized
from mohist.model.family import family_named
from mohist.model.load import load_decoder
from mohist.model.loss import CLEAR_NATS, measure_loss
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix
from mohist.weights.checkpoint import Checkpoint, open_checkpoint, save_safetensors
from mohist.weights.closest import closest_q8_0
from mohist.weights.formats import Format
from mohist.weights.gguf_writer import write_gguf_stream
from mohist.weights.quants import dequantize, quantize
from tests.model import tiny

pytestmark = pytest.mark.parity

VARIANTS = [
    *("llama", "llama-linear-bias", "qwen2", "qwen3", "deepseek_v2", "deepseek_v2-lite", "deepseek_v3"),
    *("qwen3_moe", "minimax_m2", "glm4_moe", "smollm3", "deepseek", "glm4", "ministral3", "seed_oss"),
    *("gpt_oss", "deepseek_v32", "minimax"),
]


def folder(variant: str, path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> Checkpoint:
    """A model as Mohist itself saves it, whose two mscales are equal, as they are in every release."""
    monkeypatch.setitem(tiny.YARN_ROPE, "mscale", tiny.YARN_ROPE["mscale_all_dim"])
    tiny.write(variant, path / "theirs", dtype, **tiny.GGUF.get(variant, {}))
    save_decoder(load_decoder(open_checkpoint(path / "theirs"), TorchOps()), path / "hf")
    return open_checkpoint(path / "hf")


def to_gguf(checkpoint: Checkpoint, path: Path, format: Format | None = None) -> Checkpoint:
    conversion = Conversion(checkpoint, kind="gguf", format=format)
    config = conversion.config
    tokens: dict[str, Any] = {"tokenizer.ggml.tokens": [f"t{i}" for i in range(config.vocab_size)]}
    if config.bos_token is not None:
        tokens["tokenizer.ggml.bos_token_id"] = config.bos_token
    if config.eos_tokens:
        tokens["tokenizer.ggml.eos_token_id"] = config.eos_tokens[0]
    metadata = conversion.gguf_metadata() | tokens
    write_gguf_stream(path, metadata, conversion.infos, conversion.tensors())
    return open_checkpoint(path)


def to_folder(checkpoint: Checkpoint, path: Path, format: Format | None = None) -> Checkpoint:
    conversion = Conversion(checkpoint, kind="safetensors", format=format)
    pairs = [(raw.info.name, raw.data) for raw in conversion.tensors()]
    assert [name for name, _ in pairs] == [info.name for info in conversion.infos]
    save_safetensors(path, pairs, config=conversion.hf_config())
    return open_checkpoint(path)


@pytest.mark.parametrize(
    ("variant", "dtype"),
    [(v, dtype) for v in VARIANTS for dtype in (torch.float32, torch.bfloat16)]
    + [("gemma3_text", torch.bfloat16)],
)
def test_there_and_back_is_the_same_bytes(
    variant: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(variant, tmp_path, monkeypatch, dtype)
    gguf = to_gguf(source, tmp_path / "model.gguf")
    to_folder(gguf, tmp_path / "back")
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (tmp_path / "hf" / name).read_bytes(), name
    again = to_gguf(open_checkpoint(tmp_path / "back"), tmp_path / "again.gguf")
    assert again.path.read_bytes() == gguf.path.read_bytes()


def test_norms_of_gemma_are_rounded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("gemma3_text", tmp_path, monkeypatch, torch.float32)
    gguf = to_gguf(source, tmp_path / "model.gguf")
    back = to_folder(gguf, tmp_path / "back")
    assert back.config == source.config
    again = to_gguf(back, tmp_path / "again.gguf")
    assert again.path.read_bytes() == gguf.path.read_bytes()
    decoders = [load_decoder(checkpoint, TorchOps()) for checkpoint in (source, gguf, back)]
    attend = PackedAttend([40], TorchOps())
    first, *others = (d.logits(d(tiny.tokens(40), attend.positions_T, attend)) for d in decoders)
    assert all(torch.equal(logits, first) for logits in others)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("gpt_oss", "swiglu_limit = 0.2: a GGUF file of gpt-oss always has 7.0"),
        ("gpt_oss-plain", "attention_bias = False: a GGUF file of gpt-oss always has True"),
        ("gemma3_text", "query_pre_attn_scalar = 24: llama.cpp always has 32 in this gemma3"),
        ("deepseek_v32", "index_head_dim = 24: llama.cpp needs a power of two, from 64 on"),
        ("minimax", "llama.cpp has one alpha for all"),
        ("mistral-sliding", "window = 7: llama.cpp has no sliding attention"),
    ],
)
def test_what_llama_cpp_does_not_compute_is_not_written(variant: str, message: str, tmp_path: Path) -> None:
    tiny.write(variant, tmp_path / "hf")
    with pytest.raises(ModelError, match=message):
        to_gguf(open_checkpoint(tmp_path / "hf"), tmp_path / "model.gguf")


@pytest.mark.parametrize(("variant", "family"), [("mistral", "llama"), ("glm4_moe_lite", "deepseek_v3")])
def test_a_family_that_gguf_calls_by_another_name(
    variant: str, family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(variant, tmp_path, monkeypatch, torch.float32)
    gguf = to_gguf(source, tmp_path / "model.gguf")
    back = to_folder(gguf, tmp_path / "back")
    assert back.config["model_type"] == family
    assert (back.path / "model.safetensors").read_bytes() == (source.path / "model.safetensors").read_bytes()
    again = to_gguf(back, tmp_path / "again.gguf")
    assert again.path.read_bytes() == gguf.path.read_bytes()


def test_a_table_of_frequencies_holds_llama3s_rope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("llama-tied-llama3", tmp_path, monkeypatch, torch.float32)
    gguf = to_gguf(source, tmp_path / "model.gguf")
    ours, theirs = (load_decoder(checkpoint, TorchOps()) for checkpoint in (gguf, source))
    loss = measure_loss(theirs, ours, tiny.tokens(80).tolist())
    assert loss.agreement == 1
    assert loss.perplexity == pytest.approx(loss.reference_perplexity, rel=1e-5)
    with pytest.raises(ModelError, match="a table of divisors"):
        Conversion(gguf, kind="safetensors", format=None).hf_config()


@pytest.mark.parametrize("format", [Format.Q8_0, Format.Q4_0, Format.Q4_1, Format.F16])
def test_matrices_are_quantised_and_nothing_else(
    format: Format, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder("deepseek_v3", tmp_path, monkeypatch, torch.float32)
    gguf = to_gguf(source, tmp_path / "model.gguf", format)
    found = {name: info.format for name, info in gguf.tensors.items()}
    edge = Format.Q8_0 if format in (Format.Q4_0, Format.Q4_1) else format
    assert found["token_embd.weight"] == found["output.weight"] == edge
    assert found["blk.1.ffn_gate_inp.weight"] == found["blk.1.exp_probs_b.bias"] == Format.F32
    assert found["blk.0.attn_norm.weight"] == Format.F32
    assert found["blk.0.attn_q_b.weight"] == found["blk.1.ffn_up_exps.weight"] == format
    plain = to_gguf(source, tmp_path / "plain.gguf")
    values = dequantize(plain.read("blk.1.ffn_up_exps.weight"))
    stored = gguf.read("blk.1.ffn_up_exps.weight")
    if format.is_block:
        encode = closest_q8_0 if format is Format.Q8_0 else partial(quantize, format=format)
        assert torch.equal(stored.data, encode(values.reshape(-1, values.shape[-1])).data)
    else:
        assert torch.equal(stored.data, values.half())
    infos, tensors = requantized(plain, format)
    assert {info.name: info.format for info in infos} == found
    assert all(torch.equal(raw.data, gguf.read(raw.info.name).data) for raw in tensors)


def test_biases_of_experts_are_no_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = to_gguf(folder("gpt_oss", tmp_path, monkeypatch, torch.float32), tmp_path / "model.gguf")
    found = {info.name: info.format for info in requantized(gguf, Format.Q8_0)[0]}
    assert found["blk.0.ffn_up_exps.weight"] == Format.Q8_0
    assert found["blk.0.ffn_up_exps.bias"] == found["blk.0.attn_sinks.weight"] == Format.F32


def test_mxfp4_stays_mxfp4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As gpt-oss is published: experts in blocks, the rest in bf16."""
    source = folder("gpt_oss", tmp_path, monkeypatch, torch.bfloat16)
    tensors = {name: source.read(name).data for name in source.tensors}
    generator = torch.Generator().manual_seed(3)
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, columns, rows = tensors.pop(name).shape
        shape = (experts, rows, columns // 32)
        tensors[f"{name}_blocks"] = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator)
        tensors[f"{name}_scales"] = torch.randint(118, 124, shape, dtype=torch.uint8, generator=generator)
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    gguf = to_gguf(open_checkpoint(tmp_path / "hf"), tmp_path / "model.gguf")
    assert gguf.tensors["blk.0.ffn_down_exps.weight"].format == Format.MXFP4
    assert gguf.tensors["blk.0.attn_q.weight"].format == Format.BF16
    ours, theirs = (load_decoder(c, TorchOps()) for c in (gguf, open_checkpoint(tmp_path / "hf")))
    for name, module in theirs.tensors().items():
        pair = [m.dense() if isinstance(m, Matrix) else m.value for m in (module, ours.tensors()[name])]
        assert torch.equal(*pair), name


def test_rows_that_are_no_whole_blocks_keep_their_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(tiny._DENSE, "intermediate_size", 80)
    source = folder("llama", tmp_path, monkeypatch, torch.bfloat16)
    found = to_gguf(source, tmp_path / "model.gguf", Format.Q8_0).tensors
    assert found["blk.0.ffn_down.weight"].format == Format.BF16
    assert found["blk.0.ffn_up.weight"].format == Format.Q8_0


def test_a_folder_gets_the_dtype_that_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("qwen3", tmp_path, monkeypatch, torch.float32)
    half = to_folder(source, tmp_path / "half", Format.F16)
    assert half.config["dtype"] == "float16"
    assert {info.format for info in half.tensors.values()} == {Format.F16}
    assert to_folder(half, tmp_path / "kept").config["dtype"] == "float16"
    with pytest.raises(WeightsError, match="format = q8_0: safetensors folders hold f32, f16, bf16"):
        Conversion(source, kind="safetensors", format=Format.Q8_0)


def test_what_gguf_cannot_say_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("qwen2-sliding", tmp_path, monkeypatch, torch.float32)
    with pytest.raises(ModelError, match=r"layers differ in mixer"):
        to_gguf(source, tmp_path / "model.gguf")
    tiny.write("deepseek_v3-halves", tmp_path / "halves")
    with pytest.raises(ModelError, match="rope_interleave = False"):
        to_gguf(open_checkpoint(tmp_path / "halves"), tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_a_family_that_has_no_gguf_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("glm4", tmp_path, monkeypatch, torch.float32)
    monkeypatch.delattr(family_named("glm4"), "config_to_gguf")
    with pytest.raises(ModelError, match=r"the glm4 family cannot be written as GGUF: keep its Hugging Face"):
        Conversion(source, kind="gguf", format=None)


def test_loss_of_a_model_against_itself_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("llama", tmp_path, monkeypatch, torch.float32)
    decoder = load_decoder(source, TorchOps())
    loss = measure_loss(decoder, decoder, tiny.tokens(300).tolist())
    assert loss.num_tokens == 255  # the model's context
    assert loss.perplexity == loss.reference_perplexity
    assert (loss.divergence, loss.agreement) == (0, 1)
    assert "same likeliest token at 100.00% of 255 places" in loss.line()


def test_what_is_measured_on_a_coarser_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder("llama", tmp_path, monkeypatch, torch.float32)
    decoder, coarse = (load_decoder(source, TorchOps(), quantize=format) for format in ("f32", "q4_0"))
    loss = measure_loss(decoder, coarse, tiny.tokens(200).tolist())
    attend = PackedAttend([200], decoder.ops)
    expected, found = (
        one.logits(one(tiny.tokens(200), attend.positions_T, attend))[:-1].detach().double().log_softmax(1)
        for one in (decoder, coarse)
    )
    targets = tiny.tokens(200)[1:].long()
    top = expected.topk(2, dim=1).values
    same, clear = expected.argmax(1) == found.argmax(1), top[:, 0] - top[:, 1] > CLEAR_NATS
    divergence = torch.nn.functional.kl_div(found, expected, reduction="batchmean", log_target=True)
    assert loss.divergence == pytest.approx(divergence.item(), rel=1e-4)
    assert loss.perplexity == pytest.approx(torch.nn.functional.nll_loss(found, targets).exp().item())
    assert loss.agreement == pytest.approx(same.double().mean().item())
    assert loss.clear == pytest.approx(clear.double().mean().item())
    assert loss.agreement < 1
    assert 0 < loss.clear < 1
    assert loss.clear_agreement == pytest.approx(same[clear].double().mean().item())
