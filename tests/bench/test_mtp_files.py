"""A model that was made large, so that its steps take time, computes what it did."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from bench.mtp_files import enlarged  # noqa: E402
from mohist.kernels import load_ops  # noqa: E402
from mohist.model.attend import PackedAttend  # noqa: E402
from mohist.model.count import active_parameters  # noqa: E402
from mohist.model.decoder import Decoder  # noqa: E402
from mohist.model.load import init_decoder  # noqa: E402
from mohist.recipes.start import ShapeConfig, decoder_config  # noqa: E402


def outputs(decoder: Decoder) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of the model and of its module, for a few tokens."""
    tokens = torch.arange(1, 13, dtype=torch.int32)
    attend = PackedAttend([12], decoder.ops)
    with torch.no_grad():
        hidden = decoder(tokens, attend.positions_T, attend)
        drafted = decoder.draft(hidden, tokens.roll(-1), attend.positions_T, attend)
        return decoder.logits(hidden), decoder.logits(drafted)


def test_what_was_made_large_computes_the_same() -> None:
    shape = ShapeConfig(hidden_size=32, num_heads=2, kv_rank=16, head_dim=16, rope_dim=8, expert_width=32)
    small = init_decoder(decoder_config(shape, 40), load_ops(threads=1), seed=3, std=0.2)
    large = enlarged(small, layers=5, dense=512, expert=96)
    assert active_parameters(large.config) > 3 * active_parameters(small.config)
    for ours, theirs in zip(outputs(large), outputs(small), strict=True):
        assert torch.equal(ours, theirs)
