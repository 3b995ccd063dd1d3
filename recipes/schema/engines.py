"""What decodes a recipe, and what the other engine than the toolkit's own cannot do."""

from collections.abc import Iterator, Mapping

from .decoding import Decode
from .endpoint_base import EndpointBase
from .experts import Expert
from .keys import KeyProblem
from .steering import Rule

LOCAL = "set decode.engine: local"
ONE_PROMPT = "on vLLM all models read the same tokens"
NO_PLACE = "vLLM does not tell models a token's place"
OURS = {  # vLLM's names of what a recipe says elsewhere
    "model": "decode.bases",
    "tokenizer": "decode.bases",
    "revision": "decode.bases",
    "trust_remote_code": "decode.bases",
    "dtype": "decode.bases",
    "max_num_seqs": "decode.batch_size",
    "seed": "seed",
    "speculative_config": "decode.num_draft_tokens",
}
MADE_HERE = ("hf_overrides", "worker_extension_cls", "max_logprobs", "logprobs_mode", "runner")


def check_engine(expert: Expert, decode: Decode) -> None:
    """Raises KeyProblem for the first key that the recipe's engine cannot do, or ignores."""
    if decode.engine == "local":
        if decode.vllm is not None:
            raise KeyProblem(
                "decode.vllm", "has no effect: decode.engine is local; leave it out, or set vllm"
            )
        return
    for key, problem in _on_vllm(expert, decode):
        raise KeyProblem(key, problem)


def _on_vllm(expert: Expert, decode: Decode) -> Iterator[tuple[str, str]]:
    for index, base in enumerate(decode.bases):
        if isinstance(base, EndpointBase):
            yield f"decode.bases.{index}", f"is behind an endpoint: vLLM loads its bases; {LOCAL}"
    for key, problem in steering_problems(expert, decode, decode.rules):
        yield key, f"{problem}; {LOCAL}"
    if decode.device != "auto":
        yield (
            "decode.device",
            "vLLM has the devices that it was built for, and CUDA_VISIBLE_DEVICES chooses among "
            f"them; leave it out, or {LOCAL}",
        )
    for key in decode.vllm or ():
        if key in OURS:
            yield f"decode.vllm.{key}", f"is given by {OURS[key]}; leave it out"
        if key == "quantization":
            yield f"decode.vllm.{key}", "quantises small models as well; name a base stored so"
        if key in MADE_HERE:
            yield f"decode.vllm.{key}", "is how the models are put together; leave it out"


def steering_problems(
    expert: Expert, decode: Decode, rules: Mapping[str, Rule]
) -> Iterator[tuple[str, str]]:
    """Keys of steering that needs more than the logits of one place, and what vLLM lacks for it.

    Args:
        rules: those that are used, by key.
    """
    bases = [base for base in decode.bases if not isinstance(base, EndpointBase)]
    prompts = [expert.antiexpert_prompt, *(base.prompt for base in bases)]
    if any(prompt != expert.prompt for prompt in prompts):
        yield "expert.prompt", f"is not that of every base and anti-expert: {ONE_PROMPT}"
    if decode.vocabulary != "identical":
        yield "decode.vocabulary", f"found {decode.vocabulary}: {ONE_PROMPT}"
    for key, rule in rules.items():
        for name in rule.keys_by_place:
            yield f"{key}.{name}", NO_PLACE
