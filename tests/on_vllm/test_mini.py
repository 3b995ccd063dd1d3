"""The mini family on vLLM, beside the toolkit's own engine, on questions that it was made for."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from support.decode_run import decode
from support.wide_heads import widen_model
from torch import Tensor
from vllm import LLM, SamplingParams

from decode.backends.completer import Continuation
from decode.backends.vllm_engine import VllmModels
from decode.engine.request import Request
from decode.engine.rule import Alpha
from decode.evaluation.engines import check_engine
from decode.evaluation.lineup import Contender, Lineup
from decode.jobs.files import read_rows
from decode.jobs.folder import RunFolder
from decode.models.loaded import ExpertSource, align_models
from decode.models.merged import save_merged
from decode.models.model_source import ModelSource
from decode.models.sources import load_weights

MINI = Path(__file__).resolve().parents[2] / "data" / "mini"


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """The small model with heads that vLLM has a kernel for, and a LoRA on it."""
    folder = tmp_path_factory.mktemp("mini")
    widen_model(MINI / "small", folder / "small")
    small = load_weights(ModelSource(str(folder / "small")), "cpu")
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(small, config).save_pretrained(folder / "expert")
    return folder


def write_recipe(models: Path, folder: Path, engine: str) -> Path:
    recipe = {
        "name": engine,
        "seed": 0,
        "output_dir": str(folder / engine),
        "task": {"name": "facts", "eval_limit": 60},
        "expert": {
            "model": str(models / "small"),
            "trained": str(models / "expert"),
            "dtype": "float32",
        },
        "decode": {
            "bases": [{"model": str(MINI / "large"), "dtype": "float32"}],
            "alpha": [0.5, 1.0],
            "batch_size": 8,
            "engine": engine,
        },
    }
    if engine == "vllm":
        recipe["decode"] |= {"vllm": {"enforce_eager": True}, "num_draft_tokens": 2}
    path = folder / f"{engine}.yaml"
    path.write_text(json.dumps(recipe))
    return path


def test_a_run_has_the_same_predictions_on_both_engines(models, tmp_path):
    files = {engine: write_recipe(models, tmp_path, engine) for engine in ("local", "vllm")}
    assert [decode(path) for path in files.values()] == [None, None]
    ours, theirs = (tmp_path / engine for engine in files)
    systems = {file.stem for file in (ours / "predictions").glob("*.jsonl")}
    assert {"antiexpert", "expert", "base-large", "proxy-large-alpha0.5"} < systems
    for system in systems:
        own, found = (read_rows(run / "predictions" / f"{system}.jsonl") for run in (ours, theirs))
        keys = "id", "completion", "token_ids", "finish_reason", "score"
        assert [[row[k] for k in keys] for row in own] == [[row[k] for k in keys] for row in found]
    folder = RunFolder(theirs)
    settings = json.loads(folder.settings(folder.predictions("base-large")).read_text())
    assert settings["engine"]["name"] == "vllm" and settings["engine"]["version"]
    counts = json.loads((theirs / "metrics.json").read_text())["decoding"]
    assert counts["expert"]["num_rows"] == 60 and counts["expert"]["tokens_per_verify"] == 1
    assert 1 < counts["proxy-large-alpha1"]["tokens_per_verify"] <= 3  # two are drafted

    predictions = theirs / "predictions" / "proxy-large-alpha1.jsonl"
    whole = predictions.read_text()
    predictions.write_text("".join(whole.splitlines(keepends=True)[:41]))  # killed at row 41
    assert decode(files["vllm"]) is None
    assert predictions.read_text() == whole
    found = decode(files["vllm"], "decode.engine=local", "decode.vllm=null")
    assert found is not None and "engine" in found


def quantise(source: Path, target: Path) -> Path:
    """Copy a model with its linear layers but one in 8 bits, as compressed-tensors stores them."""
    kept = "model.layers.1.mlp.down_proj"
    shutil.copytree(source, target, copy_function=shutil.copyfile)
    weights = load_file(target / "model.safetensors")
    for name in [name for name in weights if "_proj" in name and kept not in name]:
        weight = weights[name].float()
        scale = weight.abs().amax(1, keepdim=True) / 127
        weights[name] = (weight / scale).round().to(torch.int8)
        weights[f"{name}_scale"] = scale
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    bits = {"num_bits": 8, "type": "int", "symmetric": True}
    own = {
        "targets": ["Linear"],
        "weights": bits | {"strategy": "channel"},
        "input_activations": bits | {"strategy": "token", "dynamic": True},
    }
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head", kept],
        "config_groups": {"all": own},
    }
    (target / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    return target


def table(likeliest: Iterable[Iterable[tuple[int, float]]]) -> Tensor:
    """(places, V) log-probabilities of all tokens."""
    return torch.tensor([[logprob for _, logprob in sorted(place)] for place in likeliest])


class Alone:
    """A model as vLLM itself has it, without any of this toolkit's code."""

    def __init__(self, folder: Path) -> None:
        options = {"enforce_eager": True, "max_num_seqs": 4, "dtype": "bfloat16"}
        self._llm = LLM(str(folder), skip_tokenizer_init=True, max_logprobs=-1, **options)

    def complete(self, prompts: list[list[int]], num_tokens: int) -> list[list[int]]:
        done = self._asked(prompts, max_tokens=num_tokens)
        return [list(one.outputs[0].token_ids) for one in done]

    def tables(self, texts: list[list[int]], num_tokens: int) -> list[Tensor]:
        """Of the last `num_tokens` places of each."""
        done = self._asked(texts, max_tokens=1, prompt_logprobs=-1)
        places = [one.prompt_logprobs[-num_tokens:] for one in done]
        return [
            table([(id_, said.logprob) for id_, said in place.items()] for place in own)
            for own in places
        ]

    def _asked(self, texts: list[list[int]], **options) -> list[Any]:
        params = SamplingParams(temperature=0, ignore_eos=True, detokenize=False, **options)
        return self._llm.generate(
            [{"prompt_token_ids": ids} for ids in texts], params, use_tqdm=False
        )

    def close(self) -> None:
        self._llm.llm_engine.engine_core.shutdown()


def test_a_quantised_base_is_vllms_own_and_steered_by_the_formula(models, tmp_path):
    base = ModelSource(str(quantise(MINI / "large", tmp_path / "base")), dtype="bfloat16")
    small = ModelSource(str(models / "small"), dtype="bfloat16")
    expert = ModelSource(str(models / "expert"), dtype="bfloat16", untuned=small)
    experts = (ExpertSource(expert, small),)
    check_engine(Lineup(experts, (Contender("base", base, None),), (Alpha(1.0),), engine="vllm"))
    tokenizers, vocabulary = align_models(base, experts, "identical")
    texts = [f"Question: What is the capital of {x}?\nAnswer:" for x in ("France", "Peru", "Chad")]
    prompts = [tokenizers.encode(text).base for text in texts]

    alone = Alone(tmp_path / "base")
    completions = alone.complete(prompts, 12)
    whole = [[*prompt, *own] for prompt, own in zip(prompts, completions, strict=True)]
    said = [alone.tables(whole, 12)]
    alone.close()
    save_merged(expert, tmp_path / "merged")
    for folder in (tmp_path / "merged", models / "small"):
        alone = Alone(folder)
        said.append(alone.tables(whole, 12))
        alone.close()

    engine = VllmModels(4, {"enforce_eager": True})
    steered = engine.completer(base, experts, tokenizers, vocabulary.size, Alpha(0.5))
    given = [Continuation(n, text, completions[n], None, 1536) for n, text in enumerate(texts)]
    scored = {one.name: table(one.likeliest) for one in steered.score(given)}
    plain = [Request(n, text, 12, alpha=Alpha(0.0)) for n, text in enumerate(texts)]
    completed = {one.name: list(one.token_ids) for one in steered.complete(plain)}
    engine.unload()
    for n, (large, tuned, untuned) in enumerate(zip(*said, strict=True)):
        assert completed[n] == completions[n][: len(completed[n])] and len(completed[n]) > 1
        expected = (large + 0.5 * (tuned - untuned)).log_softmax(-1)
        assert (scored[n] - expected).abs().max() < 1e-3
        assert (scored[n] - large).abs().max() > 0.1


def test_quantised_weights_that_vllm_has_no_layers_for_are_refused(models, tmp_path):
    base = quantise(MINI / "large", tmp_path / "base")
    small = ModelSource(str(models / "small"), dtype="bfloat16")
    contender = Contender("base", ModelSource(str(base)), None)
    lineup = Lineup((ExpertSource(small, small),), (contender,), (Alpha(1.0),), engine="vllm")
    tuned = ModelSource(str(models / "expert"), untuned=small)
    with pytest.raises(ValueError, match="an adapter on quantised weights cannot be merged"):
        check_engine(replace(lineup, contenders=(replace(contender, tuned=tuned),)))
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"its weights are quantised \(bitsandbytes\): .*Unknown"):
        check_engine(lineup)
