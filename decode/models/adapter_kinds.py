"""Which adapters decode: those that say of a token what PEFT's own forward says of it.

Decoding reads a prompt in pieces and batches rows. That is exact for adapters that live in the
layers and treat each token by itself. The kinds below were compared with PEFT's forward, one by
one (tests/test_adapter_kinds.py); a kind that is not among them is refused.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

KINDS = frozenset(
    "ADALORA ADAPTION_PROMPT BEFT BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA "
    "HRA IA3 LN_TUNING LOHA LOKR LORA MISS OFT OSF PEANUT PSOFT PVERA RANDLORA ROAD SHIRA "
    "SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT".split()
)
# Keys of LoraConfig that make what a token gets depend on more than the token.
DEPENDS_ON_OTHERS = {
    "alora_invocation_tokens": "the adapter would begin to apply in the middle of a prompt",
    "arrow_config": "the adapter chooses among further adapters, which are not in its folder",
}
# What others write into the file: PEFT drops the first itself, ms-swift's say how it was trained.
OF_TRAINING = frozenset(
    "runtime_config lora_dtype lorap_lr_ratio lorap_emb_lr merge_weights".split()
)


def check_adapter_kind(config: Mapping[str, Any], where: str) -> None:
    """Check that an adapter can be decoded exactly.

    Args:
        config: an `adapter_config.json`, or LoraConfig's keys.
        where: the file or section of the recipe that holds it.

    Raises:
        ValueError: in one line which key has a value that cannot be decoded.
    """
    kind = config.get("peft_type", "LORA")
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(
            f"{where}: peft_type: found {kind}, which is not known to decode token by token as "
            f"PEFT trains it; train a LORA adapter, or one of {', '.join(sorted(KINDS - {'LORA'}))}"
        )
    known = inspect.signature(PEFT_TYPE_TO_CONFIG_MAPPING[peft.PeftType(kind)]).parameters
    for key, value in config.items():
        if value and key not in known and key not in OF_TRAINING:
            raise ValueError(
                f"{where}: {key}: found {value!r:.80}; PEFT {peft.__version__} knows no such key "
                f"of {kind} adapters and would leave it out; install the PEFT that wrote it, or "
                "take it away if it only says how it was trained"
            )
    for key, reason in DEPENDS_ON_OTHERS.items():
        if value := config.get(key):
            raise ValueError(f"{where}: {key}: found {value!r:.80}; {reason}; leave it out")
