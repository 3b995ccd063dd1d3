"""The script a user would write from TRL's documentation; nothing of ours but the clock.

    python benchmarks/bare_trl.py SETTINGS.json CLOCK.json

`train.py` writes the settings and starts it.
"""

import json
import sys
from pathlib import Path

# A script's own folder comes first on the path, where train.py would be taken for the package.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from datasets import load_dataset
from peft import LoraConfig
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from benchmarks.step_clock import StepClock


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    set_seed(settings["seed"])  # an adapter's first weights are drawn before the trainer seeds
    adapter = settings["adapter"]
    trainer = SFTTrainer(
        model=settings["model"],
        args=SFTConfig(**settings["sft"]),
        train_dataset=load_dataset("json", data_files=settings["rows"], split="train"),
        peft_config=None if adapter is None else LoraConfig(**adapter),
        callbacks=[StepClock(sys.argv[2])],
    )
    trainer.train()
    trainer.save_model(settings["target"])


if __name__ == "__main__":
    main()
