"""Any completer as a model of lm-eval, EleutherAI's evaluation harness (`pip install lm-eval`).

Texts become tokens, and too long contexts are cut from the left, as lm-eval's own `hf` model does
it. Each role reads a context by its own tokenizer; continuations are the base's tokens.
"""

# pyright: reportMissingImports=false

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from jinja2 import TemplateError
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..engine.request import Prompt, Request, RolePrompt
from ..engine.sampling import Sampling
from ..models.chat_date import dated_template
from ..models.prompts import RoleTokenizers, encode, reads_chats
from .completer import Completer, Continuation
from .harness_tokens import Ids, prefix_id, text_ids

logger = logging.getLogger(__name__)

Asked = tuple[tuple[str, str] | None, Ids, Ids]  # the texts or None, context and continuation ids
SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")
NO_EFFECT = {"num_beams": 1}  # settings of transformers' generate that ask for what happens anyway


class HarnessModel(TemplateLM):
    """A completer that answers lm-eval's requests.

    Args:
        completer: scores and completes.
        tokenizers: those of the completer.
        max_length: tokens that every model can hold.
        as_asked: a context's text -> the prompt that each role reads, text or a chat turn.
        seed: of draws; None is torch's own, which lm-eval's `--seed` sets.
    """

    def __init__(
        self,
        completer: Completer,
        tokenizers: RoleTokenizers,
        max_length: int,
        as_asked: Callable[[str], RolePrompt | Prompt] = RolePrompt.same,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.completer, self.tokenizers, self.max_length = completer, tokenizers, max_length
        self.tokenizer = tokenizers.base
        self._as_asked, self._seed = as_asked, seed
        self._has_cut = False

    @property
    def eot_token_id(self) -> int:
        eos = self.tokenizer.eos_token_id
        return self.prefix_token_id if eos is None else cast(int, eos)

    @property
    def prefix_token_id(self) -> int:
        return prefix_id(self.tokenizer)

    @property
    def max_gen_toks(self) -> int:
        """Tokens of a completion where the task does not say."""
        return 256

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keeps requests in a chat template under."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        return text_ids(self.tokenizer, string, add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as the base's chat template writes them; without a system one if it takes none.

        Raises:
            ValueError: there is no template, or a role's prompts are put in its own already.
        """
        if reads_chats(self._as_asked("")):
            raise ValueError(
                "--apply_chat_template: this system's models read each question in a chat template "
                "of their own already, by the recipe's prompts; leave it out"
            )
        if self.tokenizer.chat_template is None:
            raise ValueError(
                f"--apply_chat_template: '{self.tokenizer.name_or_path}' has no chat template; "
                "leave it out"
            )

        def written(messages: list[dict[str, str]]) -> str:
            text = self.tokenizer.apply_chat_template(
                messages,
                chat_template=dated_template(self.tokenizer),
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
            return str(text)

        try:
            return written(chat_history)
        except TemplateError:
            logger.warning("the chat template refuses these messages; the system's is left out")
            return written([one for one in chat_history if one["role"] != "system"])

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        asked: list[Asked] = []
        owners: list[int] = []
        for owner, request in enumerate(requests):
            (text,) = request.args
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1
            )
            for window in windows:
                asked.append((None, *make_disjoint_window(window)))
                owners.append(owner)
        totals = [0.0] * len(requests)
        scores = self._loglikelihood_tokens(asked, disable_tqdm)
        for owner, (logprob, _) in zip(owners, scores, strict=True):
            totals[owner] += logprob
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[Asked], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        given: list[Continuation] = []
        for number, (texts, context, ids) in enumerate(requests):
            where = "a text" if texts is None else f"the continuation {texts[1]!r:.60}"
            if not 0 < len(ids) <= self.max_length:
                raise ValueError(
                    f"{where} has {len(ids)} tokens; 1 to {self.max_length} can be scored"
                )
            room = self.max_length + 1 - len(ids)  # nothing is read after the last token
            if texts is None:
                prompt: RolePrompt | Prompt = context[-room:]
            else:
                prompt = self._prompt(texts[0].rstrip(), room, context)
            given.append(Continuation(number, prompt, ids))
        given.sort(key=lambda one: -_num_ids(one.prompt) - len(one.token_ids))
        found: dict[Any, tuple[float, bool]] = {}
        scored = self.completer.score(given)
        for one in tqdm(scored, "log-likelihoods", len(given), disable=disable_tqdm):
            found[one.name] = sum(one.logprobs), all(one.is_greedy)
            texts = requests[int(one.name)][0]
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, found[one.name])
        return [found[number] for number in range(len(requests))]

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        asked: list[Request] = []
        arguments = dict(zip(_names(requests), (one.args for one in requests), strict=True))
        for name, (text, given) in arguments.items():
            settings: dict[str, Any] = normalize_gen_kwargs(given, self.max_gen_toks)
            num_new = settings["max_gen_toks"]
            if num_new >= self.max_length:
                raise ValueError(
                    f"max_gen_toks: found {num_new}; the models hold {self.max_length} tokens, "
                    "the context included"
                )
            asked.append(
                Request(
                    name,
                    self._prompt(text, self.max_length - num_new),
                    num_new,
                    tuple(filter(None, settings["until"])),
                    _sampling(settings, self._seed),
                )
            )
        asked.sort(key=lambda one: -_num_ids(one.prompt))
        found: dict[Any, str] = {}
        done = self.completer.complete(asked)
        for one in tqdm(done, "completions", len(asked), disable=disable_tqdm):
            asked_for = arguments[str(one.name)]
            until = normalize_gen_kwargs(asked_for[1], self.max_gen_toks)["until"]
            found[one.name] = self._text(one.token_ids, until)
            self.cache_hook.add_partial("generate_until", asked_for, found[one.name])
        return [found[name] for name in arguments]

    def _text(self, ids: Sequence[int], until: Sequence[str]) -> str:
        """The text of a completion before its end: a stop string, or a token that is one."""
        added = cast(PreTrainedTokenizerFast, self.tokenizer).get_added_vocab()
        ends = {self.eot_token_id, *(added[stop] for stop in until if stop in added)}
        num_before = next((n for n, id_ in enumerate(ids) if id_ in ends), len(ids))
        text = self.tokenizer.decode(list(ids[:num_before]), skip_special_tokens=True)
        eos = self.tokenizer.decode(self.eot_token_id)
        return postprocess_generated_text(text, [*until, eos], None)

    def _prompt(self, text: str, room: int, base_ids: Ids | None = None) -> RolePrompt:
        """A context as each role's ids, at most `room`; `base_ids` are the base's if known."""
        asked, roles = self._as_asked(text), self.tokenizers
        if not isinstance(asked, RolePrompt):
            return RolePrompt.same(self._ids(roles.base, asked, room, base_ids))
        return RolePrompt(
            self._ids(roles.base, asked.base, room, base_ids),
            self._ids(roles.expert, asked.expert, room),
            self._ids(roles.antiexpert, asked.antiexpert, room),
        )

    def _ids(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Prompt,
        room: int,
        known: Ids | None = None,
    ) -> Ids:
        if not isinstance(prompt, str):
            ids = encode(tokenizer, prompt)
            if len(ids) > room:
                raise ValueError(
                    f"a context has {len(ids)} tokens in its chat template, which is not cut, and "
                    f"there is room for {room}; leave the task out"
                )
            return ids
        ids = known or text_ids(tokenizer, prompt)
        if len(ids) > room and not self._has_cut:
            self._has_cut = True
            logger.warning(
                "a context of %d tokens is cut to its last %d; further ones without a warning",
                len(ids),
                room,
            )
        return ids[-room:] or [prefix_id(tokenizer)]


def _names(requests: Sequence[Instance]) -> list[str]:
    """A name for each request, by its task and row; with the seed it fixes the draws."""
    times: Counter[str] = Counter()
    names = []
    for one in requests:
        row = f"{one.task_name}/{one.doc_id}/{one.idx}"
        names.append(f"{row}/{times[row]}")  # a task may ask several times
        times[row] += 1
    return names


def _num_ids(prompt: RolePrompt | Prompt) -> int:
    return len(cast(Ids, prompt.base if isinstance(prompt, RolePrompt) else prompt))


def _sampling(settings: dict[str, Any], seed: int | None) -> Sampling:
    """From a task's `generation_kwargs`."""
    known = {"until", "max_gen_toks", "do_sample", "temperature", *SAMPLING}
    for key, value in settings.items():
        if key not in known and NO_EFFECT.get(key) != value:
            raise ValueError(
                f"generation_kwargs: {key}: found {value!r:.60}; this model takes "
                f"{', '.join(sorted(known))}"
            )
    is_sampled = bool(settings["do_sample"])
    given = {key: settings[key] for key in SAMPLING if settings.get(key) is not None}
    if not is_sampled:
        given = {key: given[key] for key in given if key == "repetition_penalty"}
    return Sampling(
        temperature=float(settings.get("temperature", 1.0)) if is_sampled else 0.0,
        seed=torch.initial_seed() if seed is None else seed,
        **{**given, "top_k": given.get("top_k") or None},
    )
