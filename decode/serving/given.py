"""What a client asked, as the models take it."""

from dataclasses import dataclass, replace
from typing import cast

from ..backends.thinker import Thinker
from ..engine.request import Request, RolePrompt
from ..engine.rule import Alpha
from .loop import Ticket
from .prompts import PromptReader
from .protocol import BadRequest, Body, ChatBody, CompletionBody
from .systems import Served


@dataclass(frozen=True, slots=True)
class Given:
    """Prompts as ids, and all that decides their completions.

    Attributes:
        prompts: one a choice, choices of one prompt together; as ids.
        num_tokens: of each completion at most; 0 is only for an echo.
        num_prompt_tokens: each prompt counted once, as the base reads it.
        num_likeliest: tokens a place whose scores are wanted; None if none are.
        thinker: keeps thinking apart; None leaves completions whole.
    """

    served: Served
    reader: PromptReader
    body: Body
    prompts: list[RolePrompt]
    alpha: Alpha | None
    num_tokens: int
    num_prompt_tokens: int
    num_likeliest: int | None
    echoes: bool
    thinker: Thinker | None

    @property
    def num_choices(self) -> int:
        return len(self.prompts)

    def prompt_ids(self, choice: int) -> list[int]:
        """The prompt as the base reads it."""
        return cast(list[int], self.prompts[choice].base)

    def requests(self) -> list[Request]:
        """A request a choice, named by tickets that are the choices' numbers."""
        body, sampling = self.body, self.body.sampling()
        return [
            Request(Ticket(choice), prompt, self.num_tokens, body.stops, sampling, self.alpha)
            for choice, prompt in enumerate(self.prompts)
        ]


def read_given(served: Served, reader: PromptReader, body: Body) -> Given:
    """A body's prompts as ids, its alpha and what is to be scored. Takes a while for long prompts.

    Raises:
        BadRequest: in one line what is wrong.
    """
    alpha = served.alpha
    for key, value in (("alpha", body.alpha), ("rule", body.rule)):
        if value is not None and alpha is None:
            raise BadRequest(f"{key}: '{served.name}' has none; ask proxy", key)
    if alpha is not None and body.alpha is not None:
        alpha = replace(alpha, value=body.alpha)
    if alpha is not None and body.rule is not None:
        alpha = replace(alpha, rule=body.rule.rule())
    thinker, num_thinking = None, 0
    if isinstance(body, CompletionBody):
        prompts = [reader.text(prompt) for prompt in body.prompts]
        num_likeliest, echoes = body.logprobs, bool(body.echo)
    else:
        assert isinstance(body, ChatBody)
        prompts = [reader.chat(body)]
        thinker, num_thinking = reader.thinker(body)
        num_likeliest = (body.top_logprobs or 0) if body.logprobs else None
        echoes = False
    if body.by_role:
        if alpha is None:
            raise BadRequest(f"by_role: '{served.name}' is one model; ask proxy", "by_role")
        if num_likeliest is None:
            raise BadRequest("by_role: only with logprobs", "by_role")
    num_tokens = reader.num_tokens(prompts, body.limit, body.usual_tokens, num_thinking)
    if echoes and num_likeliest is not None:
        for prompt in prompts:
            _check_prompt_scores(prompt, alpha)
    num_prompt_tokens = sum(len(cast(list[int], prompt.base)) for prompt in prompts)
    each = [prompt for prompt in prompts for _ in range(body.num_choices)]
    return Given(
        served,
        reader,
        body,
        each,
        alpha,
        num_tokens,
        num_prompt_tokens,
        num_likeliest,
        echoes,
        thinker,
    )


def _check_prompt_scores(prompt: RolePrompt, alpha: Alpha | None) -> None:
    if not prompt.base == prompt.expert == prompt.antiexpert:
        raise BadRequest(
            "echo: the models read different prompts, so a prompt has no logprobs; "
            "leave out echo or logprobs",
            "echo",
        )
    if alpha is not None and not alpha.rule.is_even:
        raise BadRequest(
            f"echo: by the rule {alpha.rule.name} alpha depends on a token's place in a "
            "completion, so a prompt has no logprobs; leave out echo or logprobs",
            "echo",
        )
