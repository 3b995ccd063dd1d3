"""What a recipe cannot ask of models that are combined byte by byte."""

from collections.abc import Iterator, Sequence

from .decoding import Decode
from .endpoint_base import EndpointBase
from .experts import ProxyCheck
from .keys import KeyProblem
from .tasks import Evaluation, HarnessTask

OTHER = "decode.vocabulary is bytes; set it to mapped"


def check_bytes(
    evaluations: Sequence[Evaluation | HarnessTask], decode: Decode, check: ProxyCheck | None
) -> None:
    """Raises KeyProblem for the first key that asks for tokens where bytes are emitted."""
    if decode.vocabulary == "bytes":
        for key, problem in _of_tokens(evaluations, decode, check):
            raise KeyProblem(key, f"{problem}, and {OTHER}, or leave this out")


def _of_tokens(
    evaluations: Sequence[Evaluation | HarnessTask], decode: Decode, check: ProxyCheck | None
) -> Iterator[tuple[str, str]]:
    for index, base in enumerate(decode.bases):
        if isinstance(base, EndpointBase):
            yield f"decode.bases.{index}", "an endpoint shows its likeliest tokens"
    for key, rule in decode.rules.items():
        for name in rule.keys_by_place:
            yield f"{key}.{name}", "counts tokens"
    if decode.thinking is not None:
        yield "decode.thinking", "counts tokens"
    if check is not None:
        yield "proxy_check", "scores tokens"
    for index, evaluation in enumerate(evaluations):
        if isinstance(evaluation, HarnessTask):
            yield f"also.{index - 1}", "lm-eval may ask for scores of tokens"
