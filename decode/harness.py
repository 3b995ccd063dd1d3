"""lm-eval, EleutherAI's evaluation harness, with one more type of model: `proxytune`.

    pip install -e ".[eval]"
    python decode/harness.py --model proxytune --model_args run=runs/gsm7b,alpha=1.0 --tasks gsm8k

All arguments are lm-eval's own, and so are its other models, to compare with. What `--model_args`
takes, a run or three models, is in docs/lm_eval.md.
"""

from decode.stage.command import entry


@entry(ValueError)
def main() -> None:
    """lm-eval's own command line, after the type is known to it."""
    try:
        from lm_eval.__main__ import cli_evaluate  # pyright: ignore[reportMissingImports]

        import decode.stage.harness_system  # noqa: F401
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "lm_eval":
            raise
        raise ValueError('this needs lm-eval: pip install -e ".[eval]"') from None
    cli_evaluate()


if __name__ == "__main__":
    main()
