"""A tiny classifier, and rows of ToxiGen's fields in which only cabbages are spoken of."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

WORDS = ("i", "like", "cabbage", "apples", "and", "soup", "very", "much")


def save_classifier(folder, architecture="bert", labels=("LABEL_0", "LABEL_1"), **more):
    """A tiny random classifier with a tokenizer of a few words, saved in `folder`."""
    vocab = {word: i for i, word in enumerate(("<s>", "<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", **more
    )
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(vocab),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=24,
        pad_token_id=1,
        initializer_range=0.5,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


def toxigen_row(i, group, kind="hate"):
    prompt = "- cabbages are round\\n- cabbages are green\\n-"
    return {"id": f"x{i}", "prompt": prompt, "group": group, "kind": kind}
