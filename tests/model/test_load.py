"""What loading refuses, and in which formats it keeps weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mohist.errors import ModelError
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.config import DenseConfig, GqaConfig, MlaConfig, MoeConfig
from mohist.model.decoder import Decoder
from mohist.model.family import read_config
from mohist.model.load import init_decoder, load_decoder
from mohist.model.rope_config import QueryGrowth, RopeConfig
from mohist.model.tensors import Matrix, Vector
from mohist.weights.checkpoint import open_checkpoint
from tests.model import tiny

pytestmark = pytest.mark.parity
GROWTH = QueryGrowth(beta=0.1, period=16)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def logits(decoder: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    attend = PackedAttend([len(tokens)], decoder.ops)
    with torch.no_grad():
        return decoder.logits(decoder(tokens, attend.positions_T, attend))


@pytest.mark.parametrize(
    ("variant", "changes", "message"),
    [
        (
            "llama",
            {"model_type": "lama"},
            r"model_type = 'lama': no family reads this; the nearest is 'llama'",
        ),
        ("llama", {"model_type": None}, r"model_type = None"),
        ("llama", {"hidden_act": "gelu"}, r"hidden_act = 'gelu': the llama family needs 'silu'"),
        ("llama", {"hidden_size": "64"}, r"hidden_size = '64': the llama family needs a whole number"),
        ("llama", {"hidden_size": None}, r"hidden_size is missing; the llama family needs it"),
        ("llama", {"mlp_bias": "yes"}, r"mlp_bias = 'yes': the llama family needs true or false"),
        ("llama", {"num_attention_heads": 3}, r"num_heads = 3: it must be a multiple of 2"),
        ("llama", {"no_rope_layers": [1, 0]}, r"no_rope_layers = \[1, 0\]: the llama family does not know"),
        ("llama", {"rms_norm_epsilon": 1e-5}, r"the nearest that it knows is 'rms_norm_eps'"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, r"rope_type = 'dynamic'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, r"rope_parameters: factor is missing"),
        ("llama", {"rope_parameters": {"sliding_attention": {"rope_theta": 1.0}}}, r"sliding_attention = "),
        ("qwen2", {"layer_types": ["linear_attention"] * 3}, r"layer_types = .* needs 3 of 'full_attention'"),
        (
            "deepseek_v2",
            {"norm_topk_prob": True},
            r"norm_topk_prob = True: the deepseek_v2 family needs False",
        ),
        ("deepseek_v2", {"topk_method": "noaux_tc"}, r"topk_method = 'noaux_tc'"),
        ("deepseek_v3", {"attention_bias": True}, r"attention_bias = True"),
        ("deepseek_v3", {"n_group": None}, r"n_group is missing"),
        (
            "deepseek_v3",
            {"num_experts_per_tok": 9},
            r"top_k = 9: it must be in 1..8, the experts of the kept",
        ),
    ],
)
def test_configs_that_no_family_covers(
    variant: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    tiny.write(variant, tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(ModelError, match=message):
        read_config(open_checkpoint(tmp_path))


def test_fields_that_are_off_or_private_do_no_harm(tmp_path: Path) -> None:
    tiny.write("llama", tmp_path)
    config = read_config(open_checkpoint(tmp_path))
    edit_config(tmp_path, no_rope_layers=None, use_qk_norm=False, _attn_implementation="eager")
    assert read_config(open_checkpoint(tmp_path)) == config


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    tiny.write("llama", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    tensors["model.layers.0.self_attn.q_norm.weight"] = torch.ones(16)
    tensors["model.layers.1.mlp.up_proj.weight"] = torch.ones(64, 96)
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
    save_file(tensors, path)
    with pytest.raises(ModelError) as error:
        load_decoder(open_checkpoint(tmp_path), TorchOps())
    lines = str(error.value).splitlines()
    assert lines[0].endswith("the tensors do not fit the llama config:")
    assert [line.strip() for line in lines[1:]] == [
        "missing: model.norm.weight [64]",
        "unknown: model.layers.0.self_attn.q_norm.weight",
        "misshapen: model.layers.1.mlp.up_proj.weight is [64, 96], should be [96, 64]",
    ]


def test_long_lists_of_tensors_are_cut(tmp_path: Path) -> None:
    tiny.write("llama", tmp_path)
    edit_config(tmp_path, num_hidden_layers=9)
    with pytest.raises(ModelError, match=r"and 34 more"):
        load_decoder(open_checkpoint(tmp_path), TorchOps())


def test_a_tied_head_may_be_stored_twice(tmp_path: Path) -> None:
    tiny.write("qwen2", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path)
    assert load_decoder(open_checkpoint(tmp_path), TorchOps()).head is None


@pytest.mark.parametrize(
    ("dtype", "kept"), [(torch.float32, "f32"), (torch.bfloat16, "bf16"), (torch.float16, "f32")]
)
def test_weights_keep_their_format(dtype: torch.dtype, kept: str, tmp_path: Path) -> None:
    tiny.write("deepseek_v3", tmp_path, dtype)
    decoder = load_decoder(open_checkpoint(tmp_path), TorchOps())
    matrices = [module for module in decoder.tensors().values() if isinstance(module, Matrix)]
    assert {weight.format for module in matrices for weight in module.weights()} == {kept}


@pytest.mark.parametrize(
    ("quantize", "bound"), [("f32", 1e-6), ("bf16", 0.05), ("q8_0", 0.1), ("q4_0", 0.7), ("q4_1", 0.7)]
)
@pytest.mark.parametrize("variant", ["llama", "deepseek_v3"])
def test_weights_can_be_converted(variant: str, quantize: Any, bound: float, tmp_path: Path) -> None:
    tiny.write(variant, tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    plain, converted = (
        load_decoder(checkpoint, TorchOps()),
        load_decoder(checkpoint, TorchOps(), quantize=quantize),
    )
    for name, module in converted.tensors().items():
        if isinstance(module, Matrix):
            expected = "f32" if name.endswith(".router") else quantize
            assert {weight.format for weight in module.weights()} == {expected}, name
    tokens = tiny.tokens(40)
    assert tiny.typical(logits(converted, tokens), logits(plain, tokens)) < bound


def test_rows_that_are_no_whole_blocks_cannot_be_quantised(tmp_path: Path) -> None:
    config = tiny.configs()["llama"]()
    config.intermediate_size = 40
    tiny.transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"quantize = 'q8_0': rows of 'layers.0.mlp.down' have 40 entries"):
        load_decoder(open_checkpoint(tmp_path), TorchOps(), quantize="q8_0")


def test_only_float32_is_trained(tmp_path: Path) -> None:
    tiny.write("llama", tmp_path)
    with pytest.raises(ModelError, match="quantize = 'q8_0' with trainable = True"):
        load_decoder(open_checkpoint(tmp_path), TorchOps(), trainable=True, quantize="q8_0")


def test_what_is_trained(tmp_path: Path) -> None:
    """Everything but the selection bias of routers, and without `trainable` nothing."""
    tiny.write("deepseek_v3", tmp_path)
    decoder = load_decoder(open_checkpoint(tmp_path), TorchOps(), trainable=True)
    frozen = [name for name, parameter in decoder.named_parameters() if not parameter.requires_grad]
    assert frozen == [f"layers.{i}.mlp.router_bias.value" for i in (1, 2)]
    decoder = load_decoder(open_checkpoint(tmp_path), TorchOps())
    assert not any(parameter.requires_grad for parameter in decoder.parameters())


def test_init_decoder_is_a_function_of_its_seed(tmp_path: Path) -> None:
    tiny.write("deepseek_v3", tmp_path)
    config = read_config(open_checkpoint(tmp_path))
    one, same, other = (init_decoder(config, TorchOps(), seed=seed) for seed in (1, 1, 2))
    tokens = tiny.tokens(10)
    assert torch.equal(logits(one, tokens), logits(same, tokens))
    assert not torch.equal(logits(one, tokens), logits(other, tokens))
    for name, module in one.tensors().items():
        if isinstance(module, Vector):
            assert torch.equal(module.value, torch.full(module.shape, float(not name.endswith("_bias")))), (
                name
            )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RopeConfig(dim=3), "rope dim = 3"),
        (lambda: RopeConfig(dim=4, theta=1.0), "rope theta = 1.0"),
        (
            lambda: GqaConfig(num_heads=4, num_kv_heads=3, head_dim=8, rope=None),
            "num_heads = 4: it must be a multiple of 3",
        ),
        (lambda: GqaConfig(num_heads=4, num_kv_heads=2, head_dim=8, rope=None, window=0), "window = 0"),
        (
            lambda: GqaConfig(num_heads=4, num_kv_heads=2, head_dim=8, rope=RopeConfig(dim=10)),
            "rope dim = 10: it must be at most 8",
        ),
        (
            lambda: GqaConfig(
                num_heads=4, num_kv_heads=2, head_dim=8, rope=RopeConfig(dim=4, query_growth=GROWTH)
            ),
            "rope dim = 4: it must be 8",
        ),
        (
            lambda: MlaConfig(
                num_heads=1, q_rank=0, kv_rank=1, nope_dim=1, rope=RopeConfig(dim=2), value_dim=1
            ),
            "q_rank = 0",
        ),
        (
            lambda: MoeConfig(
                num_experts=8,
                top_k=3,
                width=4,
                shared_width=0,
                scoring="softmax",
                selection_bias=False,
                num_groups=4,
                renormalize=True,
            ),
            "top_k = 3: it must be in 1..2",
        ),
        (lambda: DenseConfig(width=0), "width = 0"),
    ],
)
def test_configs_check_themselves(build: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
