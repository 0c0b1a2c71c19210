"""GGUF files of every architecture against the Hugging Face folder that they were converted from."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mohist.errors import ModelError
from mohist.kernels.ops import Ops
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder
from mohist.model.family import read_config
from mohist.model.fields import Fields
from mohist.model.gguf import GgufFile, windows_from_gguf
from mohist.model.load import load_decoder
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix
from mohist.weights.checkpoint import open_checkpoint
from tests.model import tiny, tiny_gguf

pytestmark = pytest.mark.parity


KNOWN_AS = {"mistral": "llama", "glm4_moe_lite": "deepseek_v3"}
"""Families whose files say that they are another one."""


def logits(decoder: Decoder) -> torch.Tensor:
    attend = PackedAttend([80], decoder.ops)
    with torch.no_grad():
        return decoder.logits(decoder(tiny.tokens(80), attend.positions_T, attend))


@pytest.mark.parametrize(
    ("variant", "split_kv_b"),
    [
        ("llama", False),
        ("llama-tied-llama3", False),
        ("llama-linear-bias", False),
        ("qwen2", False),
        ("qwen3", False),
        ("deepseek_v2", False),
        ("deepseek_v2", True),
        ("deepseek_v2-lite", False),
        ("deepseek_v2-lite", True),
        ("deepseek_v3", False),
        ("deepseek_v3", True),
        ("qwen3_moe", False),
        ("deepseek", False),
        ("glm4", False),
        ("glm4_moe", False),
        ("glm4_moe-air", False),
        ("minimax_m2", False),
        ("smollm3", False),
        ("ministral3", False),
        ("seed_oss", False),
        ("gpt_oss", False),
        ("gemma3_text", False),
        ("deepseek_v32", True),
        ("mistral", False),
        ("glm4_moe_lite", True),
        ("minimax", False),
    ],
)
def test_the_same_model_from_both_files(
    variant: str, split_kv_b: bool, ops: Ops, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # GGUF keeps one of the two mscales: it takes them to be equal, as they are in every release.
    monkeypatch.setitem(tiny.YARN_ROPE, "mscale", tiny.YARN_ROPE["mscale_all_dim"])
    # Norms of Gemma lose bits in GGUF, which adds 1; but not if they have few.
    dtype = torch.bfloat16 if variant == "gemma3_text" else torch.float32
    model = tiny.write(variant, tmp_path / "hf", dtype, **tiny.GGUF.get(variant, {}))
    tiny_gguf.convert(model, tmp_path / "hf", tmp_path / "model.gguf", split_kv_b=split_kv_b)
    theirs = load_decoder(open_checkpoint(tmp_path / "hf"), TorchOps())
    ours = load_decoder(open_checkpoint(tmp_path / "model.gguf"), ops)
    assert ours.config.family == KNOWN_AS.get(variant, theirs.config.family)
    assert ours.config.layers == theirs.config.layers or variant == "llama-tied-llama3"
    for field in ("norm_eps", "norm_shift", "embed_scale", "tie_embeddings", "max_positions"):
        assert getattr(ours.config, field) == getattr(theirs.config, field), field
    for name, module in theirs.tensors().items():
        other = ours.tensors()[name]
        mine, reference = (m.dense() if isinstance(m, Matrix) else m.value for m in (other, module))
        assert torch.equal(mine, reference), name
    assert tiny.relative(logits(ours), logits(theirs)) < 1e-5


@pytest.mark.parametrize("quantized", ["Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("variant", ["llama", "deepseek_v3", "deepseek_v2-lite"])
def test_quantised_rows_are_unpermuted_as_they_are(variant: str, quantized: str, tmp_path: Path) -> None:
    model = tiny.write(variant, tmp_path / "hf")
    tiny_gguf.convert(model, tmp_path / "hf", tmp_path / "model.gguf", quantized=quantized)
    decoder = load_decoder(open_checkpoint(tmp_path / "model.gguf"), TorchOps())
    full = load_decoder(open_checkpoint(tmp_path / "hf"), TorchOps())
    for name, module in decoder.tensors().items():
        if isinstance(module, Matrix):
            assert module.weights()[0].format == quantized.lower(), name
            reference = full.tensors()[name]
            assert isinstance(reference, Matrix)
            dense = reference.dense().reshape(-1, module.shape[-1]).numpy()
            kind = tiny_gguf.gguf.GGMLQuantizationType[quantized]
            expected = tiny_gguf.gguf.quants.dequantize(tiny_gguf.gguf.quants.quantize(dense, kind), kind)
            assert torch.equal(module.dense().reshape(-1, module.shape[-1]), torch.from_numpy(expected)), name
    bound = 0.1 if quantized == "Q8_0" else 0.7
    assert tiny.typical(logits(decoder), logits(full)) < bound


def test_fused_keys_in_blocks_are_dequantised(tmp_path: Path) -> None:
    model = tiny.write("deepseek_v2-lite", tmp_path / "hf")
    path = tmp_path / "model.gguf"
    tiny_gguf.convert(model, tmp_path / "hf", path, quantized="Q8_0", split_kv_b=False)
    tensors = load_decoder(open_checkpoint(path), TorchOps()).tensors()
    for name, expected in (("key_up", "f32"), ("value_up", "q8_0")):
        module = tensors[f"layers.0.mixer.{name}"]
        assert isinstance(module, Matrix)
        assert {weight.format for weight in module.weights()} == {expected}


def test_a_gguf_model_becomes_a_folder(tmp_path: Path) -> None:
    model = tiny.write("llama", tmp_path / "hf")
    tiny_gguf.convert(model, tmp_path / "hf", tmp_path / "model.gguf")
    save_decoder(load_decoder(open_checkpoint(tmp_path / "model.gguf"), TorchOps()), tmp_path / "saved")
    tokens = tiny.tokens(20)[None].long()
    with torch.no_grad():
        assert torch.equal(tiny.read(tmp_path / "saved")(tokens).logits, model(tokens).logits)


def test_a_table_of_divisors_cannot_be_saved(tmp_path: Path) -> None:
    model = tiny.write("llama-tied-llama3", tmp_path / "hf")
    tiny_gguf.convert(model, tmp_path / "hf", tmp_path / "model.gguf")
    decoder = load_decoder(open_checkpoint(tmp_path / "model.gguf"), TorchOps())
    with pytest.raises(ModelError, match="table of divisors"):
        save_decoder(decoder, tmp_path / "saved")


def test_layers_slide_as_a_list_or_an_interval_says() -> None:
    def windows(**pattern: object) -> list[int | None]:
        keys = {"block_count": 4, "attention.sliding_window": 7, **pattern}
        file = GgufFile(
            Fields(keys, family="gpt_oss", where="a test"), Fields({}, family="", where=""), (), None
        )
        return windows_from_gguf(file, interval=2)

    assert windows() == [7, None, 7, None]
    key = "attention.sliding_window_pattern"
    assert windows(**{key: [True, True, False, False]}) == [7, 7, None, None]
    with pytest.raises(ModelError, match=r"sliding_window_pattern.*4 of true or false"):
        windows(**{key: [True]})


def test_expert_groups_are_not_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.write("deepseek_v3", tmp_path / "hf")
    monkeypatch.setattr(tiny_gguf.gguf.GGUFWriter, "add_expert_group_count", lambda *_: None)
    tiny_gguf.convert(model, tmp_path / "hf", tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="expert_group_count is missing"):
        read_config(open_checkpoint(tmp_path / "model.gguf"))


def test_an_unknown_architecture(tmp_path: Path) -> None:
    writer = tiny_gguf.gguf.GGUFWriter(tmp_path / "model.gguf", "llamma")
    writer.add_tensor("token_embd.weight", torch.zeros(4, 4).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"general.architecture = 'llamma'.*nearest is 'llama'"):
        read_config(open_checkpoint(tmp_path / "model.gguf"))
