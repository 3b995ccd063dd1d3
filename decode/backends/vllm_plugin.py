"""What vLLM asks of an installed plugin when it starts: which models it brings."""

# pyright: reportMissingImports=false

ARCHITECTURE = "ProxyTunedForCausalLM"
SECTION = "proxy_tuning"  # of a config: what steers the base


def register() -> None:
    """Tell vLLM where the class of a steered base is."""
    from vllm import ModelRegistry

    ModelRegistry.register_model(ARCHITECTURE, f"{__package__}.vllm_model:{ARCHITECTURE}")
