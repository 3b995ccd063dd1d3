"""Write a finished run's steered base as one folder that vLLM serves.

    python decode/export.py runs/mini-facts out/facts

vLLM finds the model's class where this toolkit is installed beside it (docs/vllm.md). The base's
weights are linked, and an adapter is merged; --copy makes a folder that can be moved elsewhere.
"""

import argparse
import shlex
from pathlib import Path

from decode.stage.command import HelpFormatter, entry, start_logging, user_errors
from decode.stage.steered_folder import server_command, write_steered


@entry()
def main() -> None:
    """Arguments, folder, what serves it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("run", help="the folder of a run, such as runs/mini-facts")
    parser.add_argument("folder", help="what to write; it is not there yet, or empty")
    parser.add_argument("--system", default="proxy", help="of a run with several bases, one's")
    parser.add_argument("--alpha", type=float, help="the strength (default: the run's)")
    parser.add_argument("--copy", action="store_true", help="copy weights, rather than link them")
    arguments = parser.parse_args()
    start_logging()
    folder = Path(arguments.folder)
    with user_errors(ValueError):
        system = write_steered(
            Path(arguments.run), arguments.system, arguments.alpha, folder, arguments.copy
        )
    command = shlex.join(["python", *server_command(folder, system)[1:]])
    print(f"{folder} is {system.name}; serve it with\n  {command}")


if __name__ == "__main__":
    main()
