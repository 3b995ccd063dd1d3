"""Chat templates in the documented formats of four families, and byte tokenizers with their tokens.

They are written for the tests, and say what the models' own ones say of plain turns.
"""

from tokenizers import processors
from transformers import AddedToken, PreTrainedTokenizerFast

from .models import byte_tokenizer

LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}"
    "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>Reasoning: {{ reasoning_effort | default('medium') }}<|end|>"
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.thinking %}"
    "<|start|>assistant<|channel|>analysis<|message|>{{ m.thinking }}<|end|>{% endif %}"
    "<|start|>assistant<|channel|>final<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}<|start|>{{ 'developer' if m.role == 'system' else m.role }}<|message|>"
    "{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# By family: the template, its tokens (the first begins texts where it is <bos>), the end of a turn.
FAMILIES = {
    "llama3": (LLAMA3, "<bos> <|start_header_id|> <|end_header_id|> <|eot_id|>", "<|eot_id|>"),
    "qwen3": (QWEN3, "<|im_start|> <|im_end|>", "<|im_end|>"),
    "gemma": (GEMMA, "<bos> <start_of_turn> <end_of_turn>", "<end_of_turn>"),
    "gpt_oss": (
        GPT_OSS,
        "<|start|> <|message|> <|channel|> <|end|> <|return|>",
        "<|return|>",
    ),
}
WORDS = {"qwen3": ("<think>", "</think>")}  # tokens that are part of the text


def family_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """A byte tokenizer with the family's tokens and template, which puts <bos> before texts."""
    template, tokens, _ = FAMILIES[family]
    tokenizer = byte_tokenizer()
    special = [AddedToken(token, special=True) for token in tokens.split()]
    words = [AddedToken(token, special=False) for token in WORDS.get(family, ())]
    tokenizer.add_tokens([*special, *words], special_tokens=False)
    tokenizer.chat_template = template
    if tokens.startswith("<bos>"):
        tokenizer.add_special_tokens({"bos_token": "<bos>"})
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
        )
    return tokenizer
