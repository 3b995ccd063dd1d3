"""Models of real sizes with random weights, and drafts of theirs that a coin accepts."""

import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from decode.models.fast_path import fast_path
from decode.models.steered import Steered

# hidden, MLP, layers, heads, key-value heads: those of Llama-2/3 and Qwen2.5 of about that size
SIZES = {
    "32b": (5120, 27648, 64, 40, 8),
    "13b": (5120, 13824, 40, 40, 40),
    "8b": (4096, 14336, 32, 32, 8),
    "1.5b": (1536, 8960, 28, 12, 2),
    "1b": (2048, 8192, 16, 32, 8),
    "0.5b": (896, 4864, 24, 14, 2),
    "tiny": (256, 512, 4, 4, 2),
    "tinier": (64, 128, 2, 4, 2),
}
# Base and small models by name, and the size of the vocabulary they share.
PAIRS = {
    "32b/1.5b": 152_064,
    "13b/1b": 32_000,
    "8b/0.5b": 128_256,
    "tiny/tinier": 256,
    "tinier/tinier": 64,
}


class CoinSteered(Steered):
    """Steered, but whether a draft is right is decided by a coin, thrown once for a round.

    Attributes:
        acceptance: the chance that a draft is accepted.
        generator: of the coins, on the models' device.
        num_rounds: rounds so far; what the guard reads again is none.
    """

    acceptance = 0.0
    generator: torch.Generator
    num_rounds = 0
    _round: tuple[torch.Size, list[int]] | None = None  # of the coins

    def read(self, rows, drafts: Tensor) -> Tensor:
        logits = super().read(rows, drafts)
        round_ = drafts.shape, [len(row.token_ids) for row in rows]
        if fast_path.is_on and round_ != self._round:  # else the guard reads again
            self._round = round_
            self._coins = torch.rand(drafts.shape, device=logits.device, generator=self.generator)
            self.num_rounds += 1
        judged = logits[:, : drafts.shape[1]]
        is_right = self._coins < self.acceptance
        sides = torch.where(is_right, judged.amax(-1) + 1, judged.amin(-1) - 1)
        judged.scatter_(-1, drafts[..., None], sides[..., None])
        return logits


def random_model(
    size: str, vocab: int, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """A Llama of a size by name, in evaluation mode.

    As in a trained one, a layer adds little to what it is given: tokens' embeddings are of size 1
    and the layers' outputs are scaled down with their number. Else rounding would grow from layer
    to layer as it does in no trained model.
    """
    hidden, mlp, layers, heads, kv_heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=False,
    )
    with device:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():
        model.get_input_embeddings().weight.normal_()
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.div_(layers)
    return model.eval()


def numbered_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """A tokenizer that is never asked for text, of the right size."""
    words = {str(number): number for number in range(vocab)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, "0")))


def weight_bytes(model: PreTrainedModel) -> int:
    """Bytes of the weights that one step reads: all but the embedding table."""
    total = sum(p.numel() * p.element_size() for p in model.parameters())
    table = model.get_input_embeddings().weight
    return total - table.numel() * table.element_size()
