"""What looks like a key is refused where a recipe or a command line would be saved, unrepeated."""

import sys

import pytest
import yaml
from support.decode_run import decode

from recipes.schema.credentials import blotted, find_secret, looks_secret
from recipes.schema.recipe import RecipeError, load_recipe

HEX40 = "0123456789abcdef0123456789abcdef01234567"
DRAWN = "q7Rk2ZpX9vLm4TnB8sWc1YhD5gJf3KaE"
KEYS = {
    "OpenAI": "sk-proj-aB3dE6fG9hJ2kL5mN8pQ1rS4",
    "Anthropic": "sk-ant-api03-abcdefghij0123456789",
    "lower case": "sk-test-0123456789abcdef",
    "Stripe": "sk_live_0123456789abcdefABCDEFGH",
    "hub": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "GitHub": "ghp_0123456789abcdefghijABCDEFGHIJ012345",
    "GitHub, new": "github_pat_11ABCDEFG0123456789_abcdefghijklmnop",
    "GitLab": "glpat-0123456789abcdefghij",
    "Groq": "gsk_0123456789abcdefghijABCDEFGHIJ",
    "xAI": "xai-0123456789abcdefghijABCDEFGHIJ",
    "AWS": "AKIAIOSFODNN7EXAMPLE",
    "Google": "AIzaSyA0123456789abcdefghijklmnopqrstu",
    "Slack": "xoxb-0123456789-abcdefghij",
    "W&B": f"wandb_v1_{DRAWN}",
    "W&B, own server": f"local-{HEX40}",
    "JWT": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N",
    "header": "Bearer 0123456789abcdefghij",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE",
    "drawn": DRAWN,
    "user": "https://me:hunter22@example.org/models",
    "token as user": "https://0123abcd@example.org/rows.jsonl",
    "git": "git+https://oauth2:hunter22@example.org/x.git",
    "database": "postgres://me:hunter22@host/rows",
    "query": "https://example.org/v1?api_key=hunter22",
    "second in a query": "https://example.org/v1?model=a&token=hunter22",
    "signature": "https://account.blob.example.org/rows.jsonl?sv=2024&sig=aGVsbG8%3D",
    "signed": "s3://bucket/rows?X-Amz-Signature=0123abcd",
    "header in text": "Authorization: hunter22",
    "pair": "password=hunter22",
}
ORDINARY = [
    "meta-llama/Llama-2-13b-chat-hf", "Qwen/Qwen2.5-0.5B-Instruct", "models/hf_llama2_13b_chat_v2",
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "TheBloke/WizardCoder-Python-34B-V1.0-GPTQ",
    "gpt-4.1-2025-04-14", "claude-sonnet-4-20250514", "task-0123456789abcdef0123", "sk-learn",
    "ft:gpt-4o-mini-2024-07-18:my-org:custom_suffix:AbC1dEf2", HEX40, HEX40 * 2, HEX40.upper(),
    "d41d8cd98f00b204e9800998ecf8427e", "123e4567-e89b-12d3-a456-426614174000",
    f"~/.cache/huggingface/hub/models--a--b/snapshots/{HEX40}/config.json", "runs/2026-11-26_17-48",
    "/scratch/project_465000123/users/anna/checkpoints/step_000012000/model.safetensors",
    "Donaudampfschifffahrtselektrizitaetenhauptbetriebswerkbauunterbeamtengesellschaft",
    "AbstractSingletonProxyFactoryBeanForTransformersTrainer2", "per_device_train_batch_size",
    "Answer:", "### Question: what is the secret?", "the password is a word", "token: a word piece",
    "https://api.openai.com/v1", "http://localhost:8000/v1", "https://h/rows.jsonl?download=true",
    "ssh://git@github.com/a/b.git", "git@github.com:a/b.git", "hf://datasets/a/b@main/rows.parquet",
    "a@b.example", "<|im_end|>", "3e-4", "OPENAI_API_KEY", "MY_JUDGE_TOKEN", "api_key", "none",
    "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj", "{{ messages[0]['content'] }}",
    "sk-" + "a-word-" * 4, "x" * 500, "0" * 64, "ABC" * 20,
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS.values(), ids=KEYS)
def test_keys_look_like_keys(key):
    assert looks_secret(key)
    assert looks_secret(f"models/{key}/final")
    text = blotted(f"found '{key}', expected less")
    assert "[secret]" in text and "hunter22" not in text
    assert key.rpartition("@")[0].partition("://")[2] == "" or "0123abcd" not in text


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_values_do_not(text):
    assert not looks_secret(text)
    assert find_secret({"task": {"eval": text}, "wandb": {"tags": [text], "group": text}}) is None


@pytest.mark.parametrize(
    ("tree", "key"),
    [
        ({"a": {"b": ["x", {"c": KEYS["hub"]}]}}, "a.b.1.c"),
        ({"parameters": {"api_key": "hunter2"}}, "parameters.api_key"),
        ({"parameters": {"more": {"X-Api-Key": "x"}}}, "parameters.more.X-Api-Key"),
        ({"headers": {"Authorization": "Basic x"}}, "headers.Authorization"),
        ({"headers": ["Authorization: Basic x12"]}, "headers.0"),
        ({"apiKey": 12345}, "apiKey"),
        ({"headers": {"Ocp-Apim-Subscription-Key": "x"}}, "headers.Ocp-Apim-Subscription-Key"),
        ({"query": {"api-version": "2024-06-01", "sig": "x"}}, "query.sig"),
        ({"key_header": "api-key", "key_file": "~/keys/judge"}, None),
        ({"hf_token": "x"}, "hf_token"),
        ({"password": ["x"]}, "password.0"),
        ({"wandb": {"project": HEX40}}, "wandb.project"),
        ({"key_env": f"a{HEX40}"}, "key_env"),
        ({"judges": {KEYS["OpenAI"]: {}}}, "judges"),
        ({"task.judges.j.parameters.token": "x"}, "task.judges.j.parameters.token"),
        ({"sft": {"eos_token": "<|im_end|>", "pad_token": "</s>"}, "token": None}, None),
        ({"expert": {"revision": HEX40}, "key_env": "OPENAI_API_KEY_2"}, None),
        ({"parameters": {"max_tokens": 256, "prompt_cache_key": "a", "logprobs": True}}, None),
    ],
)  # fmt: skip
def test_names_and_places(tree, key):
    assert find_secret(tree) == key


def recipe_with(tmp_path, key, value):
    tree = {"name": "n", "seed": 0, "output_dir": str(tmp_path / "run"), "task": {"name": "gsm8k"}}
    *sections, last = key.split(".")
    node = tree
    for section in sections:
        node = node.setdefault(section, {})
    node[last] = value
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


ENDPOINT = "task.judges.judge.endpoint"
PLACES = ["expert.model", "name", "wandb.project", "wandb.tags", f"{ENDPOINT}.base_url", "no_key"]
PLACES += [f"{ENDPOINT}.key_env", f"{ENDPOINT}.model", f"{ENDPOINT}.parameters", "task.eval"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("key", [KEYS["lower case"], KEYS["hub"], KEYS["query"], DRAWN])
@pytest.mark.parametrize("is_override", [False, True])
def test_secrets_in_recipes_are_one_line_unrepeated(tmp_path, place, key, is_override):
    value = {"user": key} if place.endswith("parameters") else key
    written = recipe_with(tmp_path, "seed" if is_override else place, 1 if is_override else value)
    shown = f"{{user: '{key}'}}" if isinstance(value, dict) else key
    with pytest.raises(RecipeError, match="looks like a key") as raised:
        load_recipe(written, [f"{place}={shown}"] if is_override else [])
    text = str(raised.value)
    assert place in text and "\n" not in text
    assert key not in text and "hunter22" not in text


@pytest.mark.parametrize(
    "overrides",
    [
        [f"wandb.project={KEYS['hub']}", "wandb.project=p"],  # the command line is kept whole
        [f"{ENDPOINT}.parameters.api_key=hunter22"],
        [f"{ENDPOINT}.parameters={{api_key: hunter22}}"],
        [f"{KEYS['hub']}=1"],
        [KEYS["hub"]],
        ["api_key:hunter22"],
        [f"seed={{{KEYS['hub']}"],
        [f"seed.{KEYS['hub']}=1"],
    ],
)
def test_secrets_in_overrides_are_never_repeated(tmp_path, overrides):
    with pytest.raises(RecipeError) as raised:
        load_recipe(recipe_with(tmp_path, "seed", 1), overrides)
    assert KEYS["hub"] not in str(raised.value) and "hunter22" not in str(raised.value)


def test_key_env_and_base_url_are_never_repeated(tmp_path):
    """Not even where they look like no key."""
    for key in ("key_env", "base_url"):
        for value in ("hunt-er22", ["hunt-er22"], 5):
            with pytest.raises(RecipeError, match="endpoint") as raised:
                load_recipe(recipe_with(tmp_path, f"{ENDPOINT}.{key}", value))
            assert "hunt-er22" not in str(raised.value)


@pytest.mark.parametrize("argument", [f"--token={KEYS['hub']}", f"-{KEYS['OpenAI']}"])
def test_options_that_hold_a_key_are_not_repeated(recipe, capsys, monkeypatch, argument):
    message = decode(recipe(), argument)
    shown = str(message) + "".join(capsys.readouterr())
    assert "looks like a key" in shown
    assert all(key not in shown for key in KEYS.values())
    assert sys.argv[-1] != argument


def test_a_secret_path_is_not_repeated(tmp_path):
    with pytest.raises(RecipeError, match="looks like a key") as raised:
        load_recipe(tmp_path / KEYS["hub"] / "recipe.yaml")
    assert KEYS["hub"] not in str(raised.value)
