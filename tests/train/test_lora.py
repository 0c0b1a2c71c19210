"""LoRA: what is sampled, what is trained, and PEFT's files in both directions."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mohist.engine.engine import Engine
from mohist.engine.runner import DecoderRunner
from mohist.errors import ConfigError, WeightsError
from mohist.kernels.autograd import TrainingOps
from mohist.kernels.twin import TorchOps
from mohist.model.attend import PackedAttend
from mohist.model.decoder import Decoder
from mohist.model.load import load_decoder
from mohist.model.save import save_decoder
from mohist.model.tensors import Matrix
from mohist.train.learner import Learner, score
from mohist.train.lora import LoraConfig, add_lora, has_lora, load_adapter, save_adapter
from mohist.train.losses import cross_entropy
from mohist.train.optim import OptimConfig
from mohist.train.weights import weigh
from mohist.types import SamplingParams
from mohist.weights.checkpoint import open_checkpoint
from tests.exact.models import CONFIGS, Model, load, ops
from tests.train import made

CONFIG = LoraConfig(rank=4, alpha=6.0)


def adapted(name: str = "qwen2", storage: Any = "f32", *, noise: float = 0.2) -> Decoder:
    """A frozen decoder with LoRA, B filled with noise."""
    decoder = load(Model(name, storage), TrainingOps(ops(1)))
    add_lora(decoder, CONFIG, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in (p for n, p in decoder.named_parameters() if n.endswith("low_rank.b")):
            parameter.copy_(noise * torch.randn(parameter.shape, generator=generator))
    return decoder


def logits(decoder: Decoder) -> Tensor:
    tokens = torch.arange(40, dtype=torch.int32) % 90
    attend = PackedAttend([40], decoder.ops)
    with torch.no_grad():
        return decoder.logits(decoder(tokens, attend.positions_T, attend))


@pytest.mark.parametrize("storage", ["f32", "bf16"])
def test_it_begins_as_the_model_that_it_adapts(storage: Any) -> None:
    plain = load(Model("qwen3", storage), TrainingOps(ops(1)))
    expected = logits(plain)
    add_lora(plain, CONFIG, seed=0)
    assert has_lora(plain)
    assert torch.equal(logits(plain), expected)


def test_merged_matrices_are_the_sum() -> None:
    plain, with_lora = load(Model("qwen2", "f32"), ops(1)), adapted()
    count = 0
    for name, module in with_lora.tensors().items():
        if isinstance(module, Matrix) and module.low_rank is not None:
            before, low_rank = plain.get_submodule(name), module.low_rank
            assert isinstance(before, Matrix)
            expected = before.dense() + CONFIG.alpha / CONFIG.rank * low_rank.b @ low_rank.a
            torch.testing.assert_close(module.dense(), expected.detach())
            count += 1
    assert count == 2 * 7


def test_only_differences_learn_and_as_full_gradients_say() -> None:
    """The chain rule by hand: dA = s B^T dW and dB = s dW A^T, with dW from a trainable copy of the sum."""
    one = Learner(adapted(), OptimConfig(lr=1e-2), total_steps=1)
    assert all(name.rpartition(".")[2] in ("a", "b") for name in one.optimizer.parameters)
    full = load(Model("qwen2", "f32"), TrainingOps(ops(1)), trainable=True)
    for name, module in one.decoder.tensors().items():
        if isinstance(module, Matrix):
            twin = full.get_submodule(name)
            assert isinstance(twin, Matrix)
            twin.train_from(module.dense().clone())
    other = Learner(full, OptimConfig(), total_steps=1)
    batches = one.pack(weigh(made.texts(4), "token"), max_tokens=1000)
    found, expected = (learner.forward_backward(batches, cross_entropy) for learner in (one, other))
    assert found == pytest.approx(expected, rel=1e-4)
    scale = CONFIG.alpha / CONFIG.rank
    for name, module in one.decoder.tensors().items():
        if isinstance(module, Matrix) and module.low_rank is not None:
            dw_NK = other.optimizer.parameters[f"{name}.parameter"].grad
            low_rank = module.low_rank
            assert dw_NK is not None
            assert low_rank.a.grad is not None
            assert low_rank.b.grad is not None
            torch.testing.assert_close(
                low_rank.a.grad, scale * low_rank.b.detach().T @ dw_NK, rtol=1e-3, atol=1e-5
            )
            torch.testing.assert_close(
                low_rank.b.grad, scale * dw_NK @ low_rank.a.detach().T, rtol=1e-3, atol=1e-5
            )
    before = logits(one.decoder)
    one.optim_step()
    assert not torch.equal(logits(one.decoder), before)


@pytest.mark.parametrize("storage", ["f32", "bf16"])
def test_the_sampler_sees_what_the_trainer_does(storage: Any) -> None:
    one = Learner(adapted(storage=storage), OptimConfig(lr=1e-2), total_steps=2)
    engine = Engine(DecoderRunner(one.decoder, ops(1), num_blocks=24))
    prompt = tuple(range(5, 30))
    for seed in range(2):
        (answer,) = engine.generate([prompt], SamplingParams(max_tokens=9, seed=seed))
        sample = made.texts(1)[0]
        whole = type(sample)(tokens=prompt + answer.tokens, weights=(0.0,) * len(prompt) + (0.1,) * 9)
        batches = one.pack([whole], max_tokens=100)
        with torch.no_grad():
            assert tuple(score(one.decoder, batches[0]).tolist()) == answer.logprobs
        one.forward_backward(batches, cross_entropy)
        one.optim_step()
        engine.update_weights()


def test_round_trip_and_merged(tmp_path: Path) -> None:
    decoder = adapted("deepseek_v3")
    expected = logits(decoder)
    save_adapter(decoder, tmp_path / "adapter", base="base")
    again = load(Model("deepseek_v3", "f32"), TrainingOps(ops(1)))
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(logits(again), expected)
    save_decoder(decoder, tmp_path / "merged")
    merged = load_decoder(open_checkpoint(tmp_path / "merged"), ops(1))
    torch.testing.assert_close(logits(merged), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def peft() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("peft", reason="PEFT is not installed")


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_peft_opens_ours(peft: Any, tmp_path: Path) -> None:
    import transformers

    decoder = adapted()
    save_decoder(load(Model("qwen2", "f32"), ops(1)), tmp_path / "base")
    save_adapter(decoder, tmp_path / "adapter", base=str(tmp_path / "base"))
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    with torch.no_grad():
        expected = theirs(torch.arange(40)[None] % 90).logits[0]
    torch.testing.assert_close(logits(decoder), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}], ids=["lora", "rslora"])
def test_we_open_pefts(peft: Any, options: dict[str, Any], tmp_path: Path) -> None:
    import transformers

    save_decoder(load(Model("qwen2", "f32"), ops(1)), tmp_path / "base")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32)
    asked = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], **options)
    theirs = peft.get_peft_model(base, asked)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
        expected = theirs(torch.arange(40)[None] % 90).logits[0]
    theirs.save_pretrained(tmp_path / "adapter")
    decoder = load_decoder(open_checkpoint(tmp_path / "base"), ops(1))
    load_adapter(decoder, tmp_path / "adapter")
    torch.testing.assert_close(logits(decoder), expected, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_adapted_is_refused(tmp_path: Path) -> None:
    decoder = load(Model("deepseek_v3", "f32"), TorchOps())
    with pytest.raises(ConfigError, match="'key_up' is no matrix that LoRA can adapt here; there are q_down"):
        add_lora(decoder, LoraConfig(targets=("o", "key_up")), seed=0)
    with pytest.raises(ConfigError, match="rank = 0"):
        LoraConfig(rank=0)


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_adapter(adapted("qwen2"), tmp_path, base="base")
    with pytest.raises(WeightsError, match="adapts nothing that this model lets be adapted"):
        load_adapter(load(Model("deepseek_v3", "f32"), TorchOps()), tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    for change, fault in (
        ({"use_dora": True}, "use_dora = True"),
        ({"peft_type": "IA3"}, "only LORA is read"),
        ({"bias": "all"}, "without biases"),
        ({"r": "4"}, "a positive rank"),
    ):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | change))
        with pytest.raises(WeightsError, match=fault):
            load_adapter(load(Model("qwen2", "f32"), TorchOps()), tmp_path)


def test_configs_of_all_families_can_be_adapted() -> None:
    for name in CONFIGS:
        decoder = load(Model(name, "f32"), TorchOps())
        add_lora(decoder, LoraConfig(targets=("o",)), seed=0)
        assert has_lora(decoder)
