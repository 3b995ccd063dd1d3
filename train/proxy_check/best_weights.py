"""The best weights of a training so far, kept beside its checkpoints until it is complete."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn


@dataclass
class BestWeights:
    """The trained weights of the best check so far, and of the best at the last checkpoint.

    A killed training continues from that checkpoint, so it needs the best weights as of then.
    """

    folder: Path
    protected: int | None = field(default=None)

    def save(self, model: nn.Module, step: int) -> None:
        """Keep the weights of this step, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {
            name: parameter.detach().contiguous()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        path = self._path(step)
        partial = path.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(path)
        for other in self.folder.glob("best-*"):
            if other not in (path, None if self.protected is None else self._path(self.protected)):
                other.unlink()

    @torch.no_grad()
    def restore(self, model: nn.Module, step: int) -> None:
        """Put the weights of this step into the model."""
        parameters = dict(model.named_parameters())
        for name, tensor in load_file(self._path(step)).items():
            parameters[name].copy_(tensor)

    def _path(self, step: int) -> Path:
        return self.folder / f"best-{step}.safetensors"
