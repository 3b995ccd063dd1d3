"""Laws of the proxy-aware loss: it is decoding's equation, TRL's averaging, and one that learns."""

import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file
from support import tiny_run
from support.models import byte_tokenizer, tiny_model
from support.tiny_run import ROOT
from test_bad_input import start  # noqa: F401  (a fixture)
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

import train.proxy_loss
from decode.jobs.folder import SettingsChanged
from decode.models.model_source import ModelSource
from recipes.schema.recipe import load_recipe
from train.claims import claim
from train.proxy_loss import ProxyTarget, score_labels, trainer_class
from train.training import trainings

ROWS = [
    {"prompt": "What is 6 x 7?", "completion": " 42"},
    {"prompt": "And 2?", "completion": " The answer is 2."},
    {"prompt": "A longer question, is it not?", "completion": " yes"},
    {"prompt": "Ok?", "completion": " no, it is not ok at all"},
]
LORA = {"task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 16, "target_modules": "all-linear"}


@pytest.fixture
def family(save_model) -> tuple[str, str]:
    """Folders of a small model and of a base, whose logits are padded beyond the tokenizer."""
    return save_model("small", 1), save_model("large", 0, width=64, vocab_size=264)


@pytest.fixture
def build(family, tmp_path):
    """Builds the trainer of the small model, or of the small model as the shift of a base."""

    def build(base: str | None, alpha=1.0, lora=None, rows=ROWS, **sft) -> SFTTrainer:
        options = {
            "output_dir": str(tmp_path / "checkpoints"),
            "use_cpu": True,
            "bf16": False,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 4,
            "model_init_kwargs": {"dtype": "float32"},
        }
        target = None if base is None else ProxyTarget(ModelSource(base), alpha)
        return trainer_class(target)(
            model=family[0],
            args=SFTConfig(**{**options, **sft}),
            train_dataset=Dataset.from_list(rows),
            processing_class=byte_tokenizer(),
            peft_config=None if lora is None else LoraConfig(**LORA, **lora),
        )

    return build


def disturb(model: torch.nn.Module) -> None:
    """Move what is trained away from where it starts, the same way every time."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def loss_and_gradients(trainer: SFTTrainer) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Of the first batch, in the order of the rows."""
    loader = torch.utils.data.DataLoader(
        trainer.train_dataset, batch_size=4, collate_fn=trainer.data_collator
    )
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(next(iter(loader))))
    loss.backward()
    gradients = {n: p.grad for n, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


def reference(base, expert, antiexpert, alpha: float) -> torch.Tensor:
    """The mean loss of ROWS written from the equation: row by row, no padding, no mask."""
    tokenizer, losses = byte_tokenizer(), []
    for row in ROWS:
        prompt = tokenizer(row["prompt"])["input_ids"]
        completion = tokenizer(row["completion"])["input_ids"] + [tokenizer.eos_token_id]
        ids = torch.tensor([prompt + completion])
        with torch.no_grad():
            frozen = [model(ids).logits[0, :, :258].float() for model in (base, antiexpert)]
        logits = frozen[0] + alpha * (expert(ids).logits[0, :, :258].float() - frozen[1])
        losses.append(
            cross_entropy(logits[len(prompt) - 1 : -1], ids[0, len(prompt) :], reduction="none")
        )
    return torch.cat(losses).mean()


@pytest.mark.parametrize("loss_type", ["nll", "dft"])
@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_a_base_that_is_the_antiexpert_gives_plain_fine_tuning(build, family, lora, loss_type):
    found = []
    for base in (None, family[0]):
        trainer = build(base, lora=lora, loss_type=loss_type)
        disturb(trainer.model)
        found.append(loss_and_gradients(trainer))
    (plain, plain_gradients), (aware, aware_gradients) = found
    torch.testing.assert_close(aware, plain, rtol=1e-6, atol=0)
    assert plain_gradients.keys() == aware_gradients.keys() != set()
    for name, gradient in plain_gradients.items():
        torch.testing.assert_close(aware_gradients[name], gradient, rtol=1e-4, atol=2e-6, msg=name)


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_loss_and_gradient_are_the_equation(build, family, lora, monkeypatch):
    monkeypatch.setattr(train.proxy_loss, "CHUNK_LABELS", 5)
    trainer = build(family[1], alpha=1.7, lora=lora)
    disturb(trainer.model)
    loss, gradients = loss_and_gradients(trainer)
    trainer.model.zero_grad()
    small, large = (AutoModelForCausalLM.from_pretrained(path).eval() for path in family)
    expected = reference(large, trainer.model, small, 1.7)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), rtol=1e-5, atol=0)
    parameters = dict(trainer.model.named_parameters())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, parameters[name].grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("lora", [None, {"lora_dropout": 0.5}, {"init_lora_weights": "gaussian"}])
def test_the_first_loss_is_the_bases_own(build, family, lora):
    trainer = build(family[1], alpha=3.0, lora=lora)
    loss, _ = loss_and_gradients(trainer)
    small, large = (AutoModelForCausalLM.from_pretrained(path).eval() for path in family)
    with torch.no_grad():
        expected = reference(large, small, small, 3.0)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    assert all(module.training for module in trainer.model.modules())  # dropout is back on


def test_equal_small_models_leave_the_base_exactly():
    generator = torch.Generator().manual_seed(0)
    base, small = (torch.randn(7, 11, generator=generator) for _ in range(2))
    labels = torch.arange(7)
    log_probs, entropy, is_top1 = score_labels(base, small, small, labels, 0.7)
    expected = base.log_softmax(-1)
    assert torch.equal(log_probs, expected.gather(-1, labels[:, None])[:, 0])
    torch.testing.assert_close(entropy, -(expected.exp() * expected).sum(-1))
    assert torch.equal(is_top1, base.argmax(-1) == labels)


def test_a_token_one_model_rules_out_costs_no_gradient():
    base, antiexpert = torch.zeros(1, 4), torch.zeros(1, 4)
    base[0, 3] = -torch.inf
    expert = torch.tensor([[1.0, 0.0, -torch.inf, 0.0]], requires_grad=True)
    log_probs, _, _ = score_labels(base, expert, antiexpert, torch.tensor([1]), 2.0)
    log_probs.sum().backward()
    assert expert.grad is not None
    torch.testing.assert_close(log_probs, torch.tensor([0.0, 2.0]).log_softmax(0)[:1])
    share = torch.tensor(2.0).sigmoid()
    torch.testing.assert_close(
        expert.grad, torch.stack([-2 * share, 2 * share, *[0 * share] * 2])[None]
    )


def test_a_batch_without_labels_is_zero(build, family):
    trainer = build(family[1])
    ids = torch.tensor([[65, 66, 67]])
    batch = {"input_ids": ids, "attention_mask": ids > 0, "labels": torch.full_like(ids, -100)}
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


def test_accumulated_batches_are_one_batch(build, family):
    weights = []
    for rows, steps in ((4, 1), (1, 4)):
        sizes = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": steps}
        trainer = build(family[1], max_steps=3, optim="sgd", learning_rate=0.05, **sizes)
        trainer.train()
        weights.append(trainer.model.state_dict())
    small = tiny_model(1).state_dict()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-6, msg=name)
    assert not torch.equal(weights[0]["lm_head.weight"], small["lm_head.weight"])


def test_packed_rows_are_rows(build, family):
    (plain, _), (packed, _) = (
        loss_and_gradients(build(family[1], packing=packing, max_length=128))
        for packing in (False, True)
    )
    torch.testing.assert_close(packed, plain, rtol=1e-5, atol=0)


@pytest.mark.parametrize("lora", [None, {}], ids=["full", "lora"])
def test_only_the_expert_learns_and_only_it_is_saved(build, family, lora, tmp_path):
    trainer = build(family[1], lora=lora, max_steps=3, learning_rate=1e-2)
    trainer.train()
    trainer.save_model(str(tmp_path / "expert"))
    losses = [entry["train_loss"] for entry in trainer.state.log_history if "train_loss" in entry]
    assert len(losses) == 1
    small, large = (AutoModelForCausalLM.from_pretrained(path) for path in family)
    assert_same(trainer._base, large)
    if lora is None:
        assert_same(trainer._antiexpert, small)
        expert = AutoModelForCausalLM.from_pretrained(tmp_path / "expert")
        assert_same(expert, trainer.model)
    else:
        assert trainer._antiexpert is None
        expert = PeftModel.from_pretrained(small, str(tmp_path / "expert"))
        saved = {path.name for path in (tmp_path / "expert").glob("*.safetensors")}
        assert saved == {"adapter_model.safetensors"}
        ids = torch.tensor([[65, 66, 67]])
        with torch.no_grad(), expert.disable_adapter():
            assert torch.equal(trainer._untrained(input_ids=ids).logits, expert(ids).logits)


def assert_same(found, expected) -> None:
    for name, weight in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], weight), name


def recipe_of(overrides: list[str], *extra: str):
    return load_recipe(ROOT / "recipes/gsm7b.yaml", [*overrides, *extra])


def claim_of(recipe) -> None:
    claim(recipe, trainings(recipe), "d1")


def test_the_expert_alone_is_trained_so(overrides):
    expert, tuned = trainings(recipe_of(overrides, "expert.proxy_aware={}"))
    assert expert.proxy_aware is not None
    assert Path(expert.proxy_aware.base.name).name == "large"
    assert (expert.proxy_aware.base.dtype, expert.proxy_aware.alpha) == ("float32", 1.0)
    assert tuned.proxy_aware is None


def test_another_loss_refuses_to_go_on(overrides, save_model, tmp_path):
    begun = recipe_of(overrides, "expert.proxy_aware.alpha=1.0")
    claim_of(begun)
    (tmp_path / "run" / "expert").mkdir(parents=True)
    claim_of(begun)
    for change in ("expert.proxy_aware.alpha=0.5", f"expert.proxy_aware.base={tmp_path / 'small'}"):
        with pytest.raises(SettingsChanged, match="proxy_aware"):
            claim_of(recipe_of(overrides, "expert.proxy_aware.alpha=1.0", change))
    with pytest.raises(SettingsChanged, match="proxy_aware"):
        claim_of(recipe_of(overrides))
    save_model("large", 7, width=64)  # other weights in the same place
    with pytest.raises(SettingsChanged, match="proxy_aware"):
        claim_of(begun)


def test_what_does_not_fit_is_one_line(start, save_model, monkeypatch):  # noqa: F811
    stranger = save_model("stranger", 3, extra=("<x>",), vocab_size=259)
    line = start(f"expert.proxy_aware.base={stranger}")
    assert "expert.proxy_aware: base and expert have different vocabularies: 1 ids differ" in line
    assert "choose a base of the expert's family" in line
    assert "no such folder" in start("expert.proxy_aware.base=./no/such/base")
    assert "expert.proxy_aware.alpha" in start("expert.proxy_aware.alpha=0")
    assert "give base as well" in start("expert.proxy_aware.revision=main")
    line = start("expert.proxy_aware={}", "sft.label_smoothing_factor=0.1")
    assert "expert.proxy_aware does not go together with sft.label_smoothing_factor" in line
    for own in ("expert.prompt=chat", f"expert.trained={stranger}"):
        assert "trained here and reads raw prompts" in start("expert.proxy_aware={}", own)
    assert "did you mean expert.proxy_aware.alpha?" in start("expert.proxy_aware.alpa=1.0")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert "does not go together with FSDP" in start("expert.proxy_aware={}")


@pytest.mark.long
def test_two_processes_train_the_same_expert(overrides, tmp_path):
    settings = ["expert.proxy_aware.alpha=1.5", "sft.optim=sgd", "sft.learning_rate=0.1"]
    settings.append("sft.warmup_steps=0")  # or else the only step has no learning rate
    settings.append("expert.adapter.lora_dropout=0")  # every process draws its own
    settings += ["sft.max_steps=1", "decode.bases.0.tune_reference=false", "wandb.project=null"]
    runs = tmp_path / "one", tmp_path / "two"
    for run, rows, processes in zip(runs, (16, 8), (1, 2), strict=True):  # all rows in one step
        changed = [f"output_dir={run}", *overrides[1:], *settings]
        changed.append(f"sft.per_device_train_batch_size={rows}")
        result = tiny_run.forked("gsm7b_lora.yaml", changed, processes)
        assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads((runs[1] / "environment.json").read_text())["world_size"] == 2
    one, two = (load_file(run / "expert" / "adapter_model.safetensors") for run in runs)
    assert any(weight.abs().max() > 1e-4 for name, weight in one.items() if "lora_B" in name)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=1e-4, atol=1e-6, msg=name)
