"""Direct preference optimization (2305.18290) with TRL: its configuration and its trainer.

The reference is the model that the training starts from: a LoRA expert with its adapter switched
off, else a second copy.
"""

from typing import Any

from trl import DPOConfig, DPOTrainer, SFTConfig


class PreferenceConfig(DPOConfig):
    """TRL's configuration, with what it does not let anyone choose under the names of SFTConfig."""

    packing = False
    packing_strategy = "bfd"
    completion_only_loss = None
    eos_token = None
    chat_template_path = None


TrainerConfig = SFTConfig | PreferenceConfig


class PreferenceTrainer(DPOTrainer):
    """TRL's trainer, of pairs that are tokens already (train/rows/pairs.py)."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset
