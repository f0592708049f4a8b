"""Models wrapped by `DistributedDataParallel`: the same steps, in one process and in two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.optim import SGD

from mgrad import LessForgetting

SCRIPT = """
import os
import sys
import torch
from torch import nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.parallel import DistributedDataParallel
from mgrad import LessForgetting

file, rank, count, form, views = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5] == "views"
init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=count)


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return model, LessForgetting(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5), strength=0.3)


def loss(model, batch, sign):
    return (model(batch) - sign).square().mean()


alone, opt = build()
wrapped, own = build()
parallel = DistributedDataParallel(wrapped, gradient_as_bucket_view=views)
for step in range(4):
    batches = {sign: torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step + sign)) for sign in (-1, 1)}
    old = torch.randn(4, 3, generator=torch.Generator().manual_seed(10 * step))
    opt.zero_grad()
    losses = {str(sign): loss(alone, batch, sign) for sign, batch in batches.items()}
    report = opt.backward(losses, objective=loss(alone, old, 0))
    opt.step()
    own.zero_grad()
    mine = {sign: batch[rank::count] for sign, batch in batches.items()}
    if form == "blocks":
        loss(parallel, old[rank::count], 0).backward()
        for sign, batch in mine.items():
            for part in batch.split(1):
                with own.constraint(str(sign)):
                    (loss(parallel, part, sign) / len(batch)).backward()
    else:
        losses = {str(sign): loss(parallel, batch, sign) for sign, batch in mine.items()}
        own.backward(losses, objective=loss(parallel, old[rank::count], 0))
    own.step()
    torch.testing.assert_close(torch.tensor(own.report.gramian), torch.tensor(report.gramian), rtol=1e-5, atol=1e-7)
for first, second in zip(alone.parameters(), wrapped.parameters()):
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
del parallel, losses  # they hold the group, whose threads end with it
destroy_process_group()
os._exit(0)  # while an interpreter shuts down, a thread of torch that asks for it aborts the process
"""


def run(directory: Path, count: int, form: str, views: str) -> list[subprocess.CompletedProcess[str]]:
    """Run the script in so many processes at a time."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    script = [sys.executable, "-c", SCRIPT, str(directory / "meeting")]
    commands = [[*script, str(rank), str(count), form, views] for rank in range(count)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) for command in commands]
    ends = [process.communicate(timeout=120)[1] for process in processes]
    return [subprocess.CompletedProcess(p.args, p.returncode, "", end) for p, end in zip(processes, ends, strict=True)]


@pytest.mark.parametrize("views", ["views", "copies"])
@pytest.mark.parametrize("form", ["blocks", "backward"])
def test_one_process_steps_as_without_ddp(tmp_path: Path, form: str, views: str) -> None:
    """With `gradient_as_bucket_view` the next backward pass writes to where the last has left its gradients."""
    (end,) = run(tmp_path, 1, form, views)
    assert end.returncode == 0, end.stderr
    assert "UserWarning" not in end.stderr


@pytest.mark.parametrize("views", ["views", "copies"])
def test_two_processes_with_blocks_step_as_one_on_the_whole_batch(tmp_path: Path, views: str) -> None:
    for end in run(tmp_path, 2, "blocks", views):
        assert end.returncode == 0, end.stderr


def test_backward_among_several_processes_warns(tmp_path: Path) -> None:
    for end in run(tmp_path, 2, "backward", "copies"):
        assert "must have gradients that all processes share. Found 2 processes" in end.stderr


def test_sharded_parameters_are_refused_when_wrapping(tmp_path: Path) -> None:
    """Inner products of a process's own parts would differ from process to process."""
    init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        model = nn.Linear(3, 2)
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(TypeError, match=r"must have whole parameters. Found a DTensor of shape \[2, 3\], of which"):
            LessForgetting(SGD(model.parameters(), lr=0.1))
    finally:
        destroy_process_group()
