"""What was launched is what was asked for; processes that decode together know of each other."""

import json
import multiprocessing
import os
import socket
import time
from pathlib import Path

import pytest
import torch.distributed as dist
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_simple_launcher_cmd_env

from decode.evaluation import shares
from decode.jobs.files import read_rows
from decode.jobs.processes import Replica, ReplicaLost, check_devices, check_group, check_launch
from decode.models.sources import load_weights
from decode.stage.planning import plan
from recipes.schema.recipe import load_recipe
from train import zero

ROOT = Path(__file__).resolve().parents[1]
FORK = multiprocessing.get_context("fork")


def launched(*options: str):
    """What accelerate makes of a command line."""
    arguments = launch_command_parser().parse_args([*options, "train/sft.py", "recipe.yaml"])
    return _validate_launch_command(arguments)[0]


def test_one_process_of_several_asked_for(environment):
    arguments = launched("--cpu", "--num_processes", "2", "--num_machines", "1")
    assert not arguments.multi_gpu  # the launcher that starts one process, whatever the number
    _, started = prepare_simple_launcher_cmd_env(arguments)
    assert "WORLD_SIZE" not in started
    environment(**{k: v for k, v in started.items() if k.startswith(("ACCELERATE", "MASTER"))})
    with pytest.raises(ValueError, match=r"started only this one; pass --multi_gpu --num_proc"):
        check_launch()


def test_one_process_that_was_asked_for(environment):
    check_launch()
    _, started = prepare_simple_launcher_cmd_env(launched("--cpu", "--num_processes", "1"))
    environment(**{k: v for k, v in started.items() if k.startswith(("ACCELERATE", "MASTER"))})
    check_launch()
    check_group()


def test_processes_that_do_not_know_each_other(environment):
    environment(SLURM_STEP_NUM_TASKS="4")
    with pytest.raises(ValueError, match=r"one of 4 processes \(SLURM_STEP_NUM_TASKS\) that do"):
        check_launch()
    environment(WORLD_SIZE="4", LOCAL_WORLD_SIZE="4")
    check_launch()
    check_devices(uses_cpu=True)
    with pytest.raises(ValueError, match=r"4 processes here, and 0 GPUs; pass sft.use_cpu=true"):
        check_devices(uses_cpu=False)
    with pytest.raises(ValueError, match="4 processes were started, and each sees 1 of them"):
        check_group()


def test_the_command_line_goes_before_the_file():
    four = launched("--config_file", "recipes/accelerate/8gpu.yaml", "--num_processes", "4")
    assert (four.multi_gpu, four.num_processes, four.num_machines) == (True, 4, 1)
    rank = ("--num_machines", "3", "--num_processes", "24", "--machine_rank", "2")
    address = ("--main_process_ip", "10.0.0.1", "--main_process_port", "29501")
    node = launched("--config_file", "recipes/accelerate/multinode.yaml", *rank, *address)
    assert (node.multi_gpu, node.num_processes, node.num_machines) == (True, 24, 3)
    assert (node.machine_rank, node.main_process_ip) == (2, "10.0.0.1")
    offload = "recipes/deepspeed/zero3_offload.json"
    zero3 = ("--config_file", "recipes/accelerate/8gpu_zero3.yaml", "--num_processes", "4")
    found = launched(*zero3, "--deepspeed_config_file", offload)
    assert (found.use_deepspeed, found.num_processes) == (True, 4)
    assert found.deepspeed_config_file == offload


@pytest.fixture
def experiments(overrides, tmp_path, save_model):
    """A finished expert of whole weights, to be decoded."""
    save_model("run/expert", 3)
    settings = [*overrides, "decode.bases.0.tune_reference=false"]
    return plan(load_recipe(ROOT / "recipes" / "gsm7b.yaml", settings))


def test_weights_are_counted_as_they_load(experiments):
    experiment, _ = experiments[0]
    counted = {
        system.name: shares.weight_bytes(experiment.lineup, system)
        for system in experiment.lineup.systems
    }
    loaded = {
        source: sum(p.numel() * p.element_size() for p in load_weights(source, "cpu").parameters())
        for source in (
            experiment.lineup.antiexpert,
            experiment.lineup.expert,
            experiment.lineup.contenders[0].base,
        )
    }
    small = loaded[experiment.lineup.antiexpert] + loaded[experiment.lineup.expert]
    assert counted["expert"] == counted["antiexpert"] == small
    base = loaded[experiment.lineup.contenders[0].base]
    assert counted["base-large"] == counted["proxy-large-alpha1"] == small + base


def together(job, *arguments) -> list[int]:
    """Runs `job` as two processes that know each other; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def start(rank: int) -> None:
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": str(rank)}
        os.environ |= {"WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
        job(rank, *arguments)

    processes = [FORK.Process(target=start, args=(rank,)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert not any(process.is_alive() for process in processes)
    return [process.exitcode or 0 for process in processes]


def _decode(rank, experiments, room):
    shares.memory_bytes = lambda device: 1.01 * room / shares.LARGEST_SHARE
    assert shares.decode_shares(experiments) == (rank == 0)


@pytest.mark.long
@pytest.mark.parametrize("is_base_small", [True, False])
def test_systems_that_fit_are_shared(is_base_small, experiments, environment):
    experiment, folder = experiments[0]
    room = shares.weight_bytes(
        experiment.lineup, experiment.lineup.systems[-1 if is_base_small else 0]
    )
    assert together(_decode, experiments, room) == [0, 0]
    shared = ["antiexpert", "expert"] + ["base-large", "proxy-large-alpha1"] * is_base_small
    found = {path.name for path in folder.path.glob("predictions/*")}
    assert found == {f"{name}.early{rank}.jsonl" for name in shared for rank in (0, 1)}
    ids = [
        [row["id"] for row in read_rows(folder.path / "predictions" / f"expert.early{rank}.jsonl")]
        for rank in (0, 1)
    ]
    assert [sorted(own) for own in ids] == [experiment.row_ids[0::2], experiment.row_ids[1::2]]
    settings = json.loads((folder.path / "settings/predictions/base-large.json").read_text())
    assert settings["task"] == "gsm8k"


def _train_and_meet(rank, late):
    dist.init_process_group("gloo")
    if rank == late:
        time.sleep(1)  # the other is back by then
    zero.leave()
    for _ in range(2):
        Replica.of_this_process().barrier()


@pytest.mark.parametrize("late", [0, 1])
def test_processes_that_trained_together_meet_again(late, environment):
    assert together(_train_and_meet, late) == [0, 0]


def _fail(rank):
    replica = Replica.of_this_process()
    replica.barrier()
    if rank == 1:
        os._exit(3)
    with pytest.raises(ReplicaLost, match="another process ended before its share was decoded"):
        replica.barrier()


def test_nobody_waits_for_a_process_that_failed(environment):
    assert together(_fail) == [0, 3]
