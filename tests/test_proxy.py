"""The public entry: folders in, completions out."""

import pytest
import torch
from support.models import byte_tokenizer, tiny_model
from transformers import AutoTokenizer

from decode import Alpha, ProxyTuned, Rule, WeightedExpert
from decode.engine.request import Chat, Request, RolePrompt
from decode.engine.row import Row
from decode.models.model_source import ModelSource
from decode.models.prompts import encode
from decode.models.sources import load_tokenizer

PROMPTS = ["Q: 1+1=", "hello", "a longer prompt, to be ragged"]


def test_generate_from_folders_equals_transformers_at_alpha_zero(save_model):
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    model = ProxyTuned.from_pretrained(*folders, alpha=0.0, device="cpu")
    found = model.generate(PROMPTS, max_new_tokens=16, batch_size=2)
    tokenizer, base = byte_tokenizer(), tiny_model(0)
    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        theirs = base.generate(ids, max_new_tokens=16, do_sample=False, pad_token_id=257)
        assert list(completion.token_ids) == theirs[0, ids.shape[1] :].tolist()
        assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)


def test_sampling_is_reproducible_and_seeded(save_model):
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    model = ProxyTuned.from_pretrained(*folders, device="cpu")
    settings = {"max_new_tokens": 16, "temperature": 1.5, "top_p": 0.95}
    first = model.generate(PROMPTS, seed=1, batch_size=1, **settings)
    assert model.generate(PROMPTS, seed=1, batch_size=3, **settings) == first
    assert model.generate(PROMPTS, seed=2, batch_size=3, **settings) != first


def test_a_chat_expert_reads_its_template_and_the_others_the_raw_prompt(save_model):
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    model = ProxyTuned.from_pretrained(*folders, device="cpu")
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<assistant>"
    model.tokenizers.expert.chat_template = template
    chat = model.generate(PROMPTS, max_new_tokens=12, chat_expert=True)
    written_out = [f"<user>{prompt}</><assistant>" for prompt in PROMPTS]
    assert chat == model.generate(PROMPTS, max_new_tokens=12, expert_prompts=written_out)
    assert chat != model.generate(PROMPTS, max_new_tokens=12)


def test_vocabularies_are_compared_before_weights_load(save_model, tmp_path):
    base, small = save_model("base", 0), save_model("small", 1)
    other = save_model("other", 2, extra=("<x>",), vocab_size=259)
    (tmp_path / "base" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="1 ids differ"):
        ProxyTuned.from_pretrained(base, other, small)


def test_a_shared_vocabulary_shifts_only_what_is_common(save_model):
    base = save_model("base", 0, extra=("<a>",), vocab_size=259)
    expert, small = save_model("expert", 1), save_model("small", 2)
    model = ProxyTuned.from_pretrained(base, expert, small, device="cpu", vocabulary="shared")
    prompt = model.tokenizers.encode(PROMPTS[0])
    assert isinstance(prompt, RolePrompt)
    row = Row(Request(0, prompt, 1))
    model.steered.reserve([row], 1, 0)
    ids = torch.tensor([prompt.base])
    own = [tiny_model(0, vocab_size=259), tiny_model(1), tiny_model(2)]
    with torch.inference_mode():
        found = model.steered.prefill([row], [0])[0]
        logits = [other(ids).logits[0, -1] for other in own]
    expected = logits[0].clone()
    expected[:258] += logits[1] - logits[2]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_drafts_keep_to_what_is_shared(save_model):
    """Ids that only the base has are never drafted, and may be emitted all the same."""
    base = save_model("base", 0, extra=("<a>", "<b>"), vocab_size=260)
    expert, small = save_model("expert", 1, extra=("<x>",), vocab_size=259), save_model("small", 2)
    model = ProxyTuned.from_pretrained(base, expert, small, device="cpu", vocabulary="shared")
    for temperature in (0.0, 3.0):
        plain, drafted = (
            model.generate(PROMPTS, 40, temperature=temperature, num_draft_tokens=k) for k in (0, 4)
        )
        assert drafted == plain
    emitted = {token for completion in plain for token in completion.token_ids}
    assert len(emitted) > 20


def test_one_alpha_and_one_limit_a_prompt(save_model):
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    model = ProxyTuned.from_pretrained(*folders, device="cpu")
    alphas, limits = [0.0, Alpha(1.0, Rule(warmup_tokens=3)), 1.5], [4, 9, 12]
    together = model.generate(PROMPTS, limits, alpha=alphas, batch_size=3)
    for i, found in enumerate(together):
        (alone,) = model.generate(PROMPTS[i : i + 1], limits[i], alpha=alphas[i])
        assert alone.token_ids == found.token_ids
        assert len(found.token_ids) <= limits[i]


def test_more_experts_change_what_is_said_and_weight_zero_does_not(save_model):
    folders = [save_model(name, seed) for seed, name in enumerate(("base", "expert", "small"))]
    other = save_model("other", 9)
    plain = ProxyTuned.from_pretrained(*folders, device="cpu").generate(PROMPTS, 12)
    for weight, is_same in ((0.0, True), (0.8, False)):
        more = [WeightedExpert(other, weight, folders[2])]
        model = ProxyTuned.from_pretrained(*folders, device="cpu", more_experts=more)
        assert (model.generate(PROMPTS, 12) == plain) == is_same


def test_an_expert_that_does_not_name_its_antiexpert_needs_one(save_model):
    with pytest.raises(ValueError, match="give antiexpert"):
        ProxyTuned.from_pretrained(save_model("base", 0), save_model("expert", 1))


def test_a_missing_model_is_one_clear_line(save_model):
    with pytest.raises(ValueError, match="model 'nowhere/at-all'") as caught:
        ProxyTuned.from_pretrained("nowhere/at-all", save_model("e", 1), save_model("s", 2))
    assert "\n" not in str(caught.value)


def test_prompts_that_cannot_be_encoded_are_refused():
    with pytest.raises(ValueError, match="no chat template"):
        encode(byte_tokenizer(), Chat("hello"))
    with pytest.raises(ValueError, match="empty prompt"):
        encode(byte_tokenizer(), "")


def test_a_tokenizer_is_read_once_as_long_as_its_files_stay(save_model, monkeypatch):
    base, small = save_model("base", 0), save_model("small", 1)
    reads, real = [], AutoTokenizer.from_pretrained
    monkeypatch.setattr(
        AutoTokenizer, "from_pretrained", lambda *a, **k: reads.append(a) or real(*a, **k)
    )
    sources = [ModelSource(base), ModelSource(base + "/."), ModelSource(base, dtype="float32")]
    assert len({id(load_tokenizer(source)) for source in sources}) == 1
    load_tokenizer(ModelSource(small))
    assert len(reads) == 2
    save_model("base", 0, extra=("<x>",), vocab_size=259)  # other files in the same place
    assert len(load_tokenizer(ModelSource(base))) == 259
    assert len(reads) == 3
