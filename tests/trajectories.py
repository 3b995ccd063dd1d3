"""Golden trajectories: twenty steps of each mini recipe, and what twenty questions are answered.

    python tests/trajectories.py

records both anew in `tests/golden/`, with the environment they were made in. Do it when a change is
meant to alter them, or when requirements.lock moves, and say in the commit why they changed.
"""

import json
import os
import tempfile
from pathlib import Path

from support import fork_server

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
RECIPES = {"mini-facts": "recipes/mini/facts.yaml", "mini-gsm": "recipes/mini/gsm.yaml"}
NUM_STEPS, NUM_ROWS = 20, 20
OVERRIDES = [
    f"sft.max_steps={NUM_STEPS}",
    "sft.logging_steps=1",
    f"task.eval_limit={NUM_ROWS}",
    "decode.bases.0.tune_reference=false",
    "decode.choose=null",
    "wandb.mode=disabled",
]
SYSTEM = "proxy-large-alpha1"
PACKAGES = ("torch", "transformers", "trl", "peft")


def trajectory(recipe: str, folder: Path) -> dict:
    """The losses of a short run of the recipe, the tokens it decodes, and its environment."""
    arguments = ["train/sft.py", recipe, f"output_dir={folder}", *OVERRIDES]
    done = fork_server.run(arguments, {**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 0, done.stderr[-3000:]
    made = json.loads((folder / "environment.json").read_text("utf-8"))
    log = json.loads((folder / "expert" / "training_log.json").read_text("utf-8"))
    lines = (folder / "predictions" / f"{SYSTEM}.jsonl").read_text("utf-8").splitlines()
    return {
        "command": ["train/sft.py", recipe, *OVERRIDES],
        "environment": {
            "python": made["python"],
            "packages": {name: made["packages"][name] for name in PACKAGES},
            "processor": made["processor"],
            "num_threads": made["num_threads"],
        },
        "losses": [entry["loss"] for entry in log if "loss" in entry],
        "tokens": {row["id"]: row["token_ids"] for row in map(json.loads, lines)},
    }


def main() -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, recipe in RECIPES.items():
        with tempfile.TemporaryDirectory() as folder:
            found = trajectory(recipe, Path(folder) / "run")
        tokens = found.pop("tokens")
        # A row a line, so that a diff shows the rows that changed.
        rows = ",\n".join(f"  {json.dumps(row)}: {json.dumps(ids)}" for row, ids in tokens.items())
        text = json.dumps(found, indent=1).removesuffix("\n}")
        path = GOLDEN / f"{name}.json"
        path.write_text(f'{text},\n "tokens": {{\n{rows}\n }}\n}}\n', "utf-8")
        print(path)


if __name__ == "__main__":
    main()
