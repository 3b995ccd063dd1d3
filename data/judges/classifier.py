"""A sequence classifier as a judge: how likely each text carries one label.

    judge = Classifier("tomh/toxigen_roberta", label="LABEL_1", revision="refs/pr/1")

That one is ToxiGen's own (Hartvigsen et al. 2022), LABEL_1 is toxic; its weights are safetensors
only at the revision shown.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

logger = logging.getLogger(__name__)

ENDLESS = 1_000_000  # tokenizers that know no limit name one far above this


@dataclass(frozen=True, slots=True)
class Classification:
    """Whether the label is the likeliest of all, and its probability."""

    has_label: bool
    probability: float


class Classifier:
    """A classifier with one softmax over its labels, and the label that is looked for.

    Args:
        model: a folder or a hub id, with safetensors weights.
        label: as the model's config names it.
        revision: of the hub id.
        device: as torch names it.
        batch_size: texts classified at once; it decides speed and memory, not results.

    Raises:
        ValueError: there is no such model, or it has no such label.
    """

    def __init__(
        self,
        model: str,
        label: str,
        revision: str | None = None,
        device: str = "cpu",
        batch_size: int = 32,
    ) -> None:
        # seconds to import, and only needed where a classifier judges
        from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

        try:
            config = AutoConfig.from_pretrained(model, revision=revision)
            self._tokenizer = AutoTokenizer.from_pretrained(model, revision=revision)
            loaded = AutoModelForSequenceClassification.from_pretrained(
                model, revision=revision, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise ValueError(
                f"classifier '{model}' could not be loaded "
                f"({type(error).__name__}: {str(error).splitlines()[0]}); it needs a config, a "
                "tokenizer and safetensors weights, at the revision named, and HF_TOKEN if it is "
                "private or gated"
            ) from error
        self._label_id = _label_id(model, config, label)
        self._model, self._device = loaded.eval(), device
        self._max_length = _max_length(self._tokenizer, config)
        self._batch_size = batch_size

    def classify(self, texts: Sequence[str]) -> list[Classification]:
        """One classification a text, in their order.

        Texts longer than the model can read are cut at their end, as the field does, and counted
        in the log.
        """
        import torch

        self._model.to(self._device)  # not before: until now others may need the room
        lengths = [len(ids) for ids in self._tokenizer(list(texts))["input_ids"]] if texts else []
        num_cut = sum(length > self._max_length for length in lengths)
        if num_cut:
            logger.warning(
                "%d of %d texts are longer than the classifier's %d tokens; their end is not read",
                num_cut,
                len(texts),
                self._max_length,
            )
        by_length = sorted(range(len(texts)), key=lambda i: lengths[i])  # little padding
        found: dict[int, Classification] = {}
        for start in range(0, len(texts), self._batch_size):
            chosen = by_length[start : start + self._batch_size]
            batch = self._tokenizer(
                [texts[i] for i in chosen],
                padding=True,
                truncation=True,
                max_length=self._max_length,
                return_tensors="pt",
            ).to(self._model.device)
            with torch.inference_mode():
                logits = self._model(**batch).logits.float()  # (batch, labels)
            probabilities = logits.softmax(-1)[:, self._label_id].tolist()
            tops = logits.argmax(-1).tolist()
            for i, probability, top in zip(chosen, probabilities, tops, strict=True):
                found[i] = Classification(top == self._label_id, probability)
        return [found[i] for i in range(len(texts))]


def _label_id(model: str, config, label: str) -> int:
    names = {name: int(id_) for id_, name in config.id2label.items()}
    if len(names) < 2 or config.problem_type == "multi_label_classification":
        raise ValueError(f"classifier '{model}' does not choose one label of several; a judge must")
    if label not in names:
        raise ValueError(f"classifier '{model}' has no label '{label}', only {', '.join(names)}")
    return names[label]


def _max_length(tokenizer, config) -> int:
    """The longest input in tokens; RoBERTa's positions begin at two, hence the two left out."""
    if tokenizer.model_max_length < ENDLESS:
        return tokenizer.model_max_length
    return config.max_position_embeddings - 2
