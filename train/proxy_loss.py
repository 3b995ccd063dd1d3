"""Proxy-aware training: the loss of the steered base (consistent proxy tuning, 2407.01155).

Plain fine-tuning takes the loss on the expert's own softmax; decoding then samples from another.
Here the loss is taken on what decoding samples from, with base and anti-expert frozen:

    -log softmax( s_base + alpha * (s_expert - s_antiexpert) )[label]

Its gradient in s_expert is alpha * (p_proxy - onehot): it vanishes where the base already predicts
the label.

Shape letters: B rows, T tokens, P positions before a label, N labels, V vocabulary.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

from decode.engine.logits import proxy_logits
from decode.models.model_source import ModelSource
from decode.models.sources import check_weights, load_frozen, load_tokenizer
from decode.models.vocab import align
from decode.stage.recipe_models import untuned_model
from recipes.schema.recipe import Base, Recipe

from . import zero

Scores = tuple[Tensor, Tensor, Tensor]

CHUNK_LABELS = 1024  # labels whose (V,) float32 temporaries are held at once


@dataclass(frozen=True, slots=True)
class ProxyTarget:
    """The base that an expert is trained to steer.

    Attributes:
        base: stays frozen.
        alpha: scale of the expert's shift in the loss.
    """

    base: ModelSource
    alpha: float


def proxy_target(recipe: Recipe) -> ProxyTarget | None:
    """The recipe's `expert.proxy_aware`, with the base it leaves to `decode.bases` filled in."""
    chosen, first = recipe.expert.proxy_aware, recipe.decode.bases[0]
    if chosen is None:
        return None
    if chosen.base is not None:
        base = ModelSource(
            chosen.base, chosen.revision, chosen.dtype or "auto", key="expert.proxy_aware.base"
        )
    else:
        assert isinstance(first, Base), "a recipe names a base here where that one is not loaded"
        base = untuned_model(first, "decode.bases.0.model")
    return ProxyTarget(base, chosen.alpha)


def check_proxy_loss(target: ProxyTarget, small: ModelSource, config: SFTConfig) -> None:
    """Check that a training can be proxy-aware, before weights load.

    Raises:
        ValueError: the base is missing or has another vocabulary, or a setting of the trainer or of
            the launch would make the loss another one.
    """
    tokenizer = load_tokenizer(small)
    try:
        align(load_tokenizer(target.base), tokenizer, tokenizer)
    except ValueError as error:
        found = str(error).partition(" Use models")[0]
        raise ValueError(
            f"expert.proxy_aware: {found} Base and expert read the same ids in training: choose a "
            "base of the expert's family"
        ) from None
    check_weights(target.base)
    plugin = config.deepspeed_plugin
    refused = {
        "sft.label_smoothing_factor": config.label_smoothing_factor > 0,
        "ZeRO-3 (take ZeRO-2: the base is a whole copy on each rank)": plugin is not None
        and plugin.zero_stage == 3,
        "FSDP": zero.uses_fsdp(config),
        "context, sequence or tensor parallelism": config.parallelism_config is not None
        or zero.is_on("ACCELERATE_USE_PARALLELISM_CONFIG"),
    }
    for what, is_asked_for in refused.items():
        if is_asked_for:
            raise ValueError(f"expert.proxy_aware does not go together with {what}")


def score_labels(
    base: Tensor, expert: Tensor, antiexpert: Tensor, labels: Tensor, alpha: float
) -> Scores:
    """Log-probability, entropy and top-1 agreement of the proxy-tuned distribution at each label.

    Args:
        base, expert, antiexpert: (N, V), any float dtype.
        labels: (N,) int64.

    Returns:
        (N,) each: log-probability of the label in float32; entropy of the distribution, without
        gradient; whether the label is its likeliest token.
    """
    log_probs = proxy_logits(base, expert, antiexpert, alpha).log_softmax(-1)
    of_label = log_probs.gather(-1, labels[:, None])[:, 0]
    with torch.no_grad():
        entropy = torch.special.entr(log_probs.exp()).sum(-1)
        is_top1 = log_probs.argmax(-1) == labels
    return of_label, entropy, is_top1


def trainer_class(target: ProxyTarget | None) -> Callable[..., SFTTrainer]:
    """The class of a training's trainer: TRL's own, or the proxy-aware one."""
    return SFTTrainer if target is None else partial(ProxyAwareTrainer, target=target)


class ProxyAwareTrainer(SFTTrainer):
    """TRL's trainer of the expert, with the proxy-tuned distribution in place of the expert's own.

    Everything else (how the loss is averaged over accumulated batches and processes, packing, what
    is logged) is TRL's: it is given the scores of the labels where it asks the model for them.
    `entropy` and `mean_token_accuracy` in its log are those of the proxy-tuned base.
    """

    def __init__(self, *, target: ProxyTarget, model: str, args: SFTConfig, **kwargs: Any) -> None:
        super().__init__(model=model, args=args, **kwargs)
        tokenizer = kwargs["processing_class"]
        self._alpha = target.alpha
        self._vocabulary = align(load_tokenizer(target.base), tokenizer, tokenizer)
        self._base = load_frozen(target.base, str(args.device))
        self._antiexpert = None  # the expert without its adapter
        if not _keeps_its_antiexpert(self.model):
            assert isinstance(args.model_init_kwargs, dict)
            options = {**args.model_init_kwargs, "device_map": None}
            copy = AutoModelForCausalLM.from_pretrained(model, **options)
            self._antiexpert = nn.Module.to(copy, args.device).eval().requires_grad_(False)

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """As SFTTrainer's, of the three models together."""
        together = cast(nn.Module, partial(self._score, model))
        return super().compute_loss(together, inputs, *args, **kwargs)

    def _score(
        self, expert: Any, labels: Tensor | None = None, fused_lm_head: bool = False, **inputs: Any
    ) -> Any:
        """The fields of TRL's fused head, of the proxy-tuned base: (B, T - 1), 0 if ignored."""
        if not fused_lm_head:
            return expert(**inputs)
        assert labels is not None
        mask = labels[:, 1:] != -100  # (B, T - 1)
        before_labels = mask.any(0).nonzero()[:, 0]  # (P,): of no other position are logits made
        chosen = mask[:, before_labels]  # (B, P)
        inputs["logits_to_keep"] = before_labels

        def pick(outputs: Any) -> Tensor:
            return self._vocabulary.fit(outputs.logits[chosen])  # (N, V)

        outputs = expert(**inputs)
        inputs.pop("output_router_logits", None)
        with torch.no_grad():
            base = pick(self._base(**inputs))
            antiexpert = pick(self._untrained(**inputs))
        wanted = (base, pick(outputs), antiexpert, labels[:, 1:][mask])
        scores = [
            cast(Scores, checkpoint(score_labels, *chunk, self._alpha, use_reentrant=False))
            for chunk in zip(*(rows.split(CHUNK_LABELS) for rows in wanted), strict=True)
        ]
        log_probs, entropy, is_top1 = (
            values[0].new_zeros(mask.shape).masked_scatter(mask, torch.cat(values))
            for values in zip(*scores, strict=True)
        )
        return SimpleNamespace(
            log_probs=log_probs,
            entropy=entropy,
            is_top1=is_top1,
            label_mask=mask,
            aux_loss=getattr(outputs, "aux_loss", None),
        )

    def _untrained(self, **inputs: Any) -> Any:
        """The anti-expert's outputs, in the expert's precision and without its dropout."""
        with ExitStack() as stack:
            if self._antiexpert is not None:
                stack.enter_context(self.accelerator.autocast())
                return self._antiexpert(**inputs)
            expert = cast(PeftModel, self.model)
            stack.callback(expert.train, expert.training)
            stack.enter_context(expert.disable_adapter())
            return expert.eval()(**inputs)


def _keeps_its_antiexpert(expert: Any) -> bool:
    """Whether switching the adapter off leaves the very weights that the expert started from."""
    if not isinstance(expert, PeftModel):
        return False
    config = expert.peft_config["default"]
    has_own_biases = getattr(config, "bias", "none") != "none"
    return not has_own_biases and not getattr(config, "layer_replication", None)
