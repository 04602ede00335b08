"""docs/cluster.md: its scripts run or are parsed, and what they rely on holds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from groovy_parser.parser import parse_groovy_content
from made_balls import make_dataset
from made_work import ball_plan, make_work

import seg_transfer
from seg_transfer.cli.app import main
from seg_transfer.data.dataset import Dataset
from seg_transfer.planning.plan import Plan
from seg_transfer.preprocessing.store import Store
from seg_transfer.workflow import validate

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "cluster.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)[^\n]*\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def block(start: str) -> str:
    """The only block with a line that starts so."""
    (found,) = [text for _, text in BLOCKS if re.search(rf"^{re.escape(start)}", text, flags=re.MULTILINE)]
    return found


def commands() -> list[str]:
    """Every command of segtl on the page, in scripts and in the table; placeholders become 0."""
    texts = [text for _, text in BLOCKS] + re.findall(r"`(segtl [^`]+)`", PAGE)
    found = [part for text in texts for part in re.findall(r"segtl [a-z][^\n`]*", text)]
    single = [one.strip(' "') for text in found for one in text.split("&&")]
    return [re.sub(r"\$\{[^}]*\}|\$\w+|\{[\w.]+\}", "0", one).replace('"', "") for one in single]


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_is_one_of_segtl(command: str) -> None:
    _, name, *rest = command.split()
    assert main([name, *rest, "--help"]) == 0


@pytest.mark.parametrize(("code", "queued"), [(0, ""), (130, "requeue 77_3"), (2, "")])
def test_a_job_that_is_not_finished_is_queued_again(code: int, queued: str, tmp_path: Path) -> None:
    for name, text in {
        "srun": 'exec "$@"',
        "segtl": f'echo "$@" > {tmp_path}/called; exit {code}',
        "scontrol": f'echo "$@" > {tmp_path}/queued',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_JOB_ID": "77", "TMPDIR": "/fast"}
    environment = {**os.environ, **job, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash"], input=block("#SBATCH --array"), text=True, env=environment)
    assert done.returncode == code
    assert (tmp_path / "called").read_text() == "train 3 -w segtl-work --scratch /fast/segtl\n"
    found = tmp_path / "queued"
    assert (found.read_text().strip() if found.is_file() else "") == queued


def test_snakemake_plans_the_rules(tmp_path: Path) -> None:
    snakemake = shutil.which("snakemake")
    if snakemake is None:
        pytest.skip("snakemake is not installed")
    (tmp_path / "Snakefile").write_text(block("rule summary"))
    done = subprocess.run([snakemake, "-n", "-c", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout and "summary" in done.stdout


def test_the_nextflow_script_is_well_formed() -> None:
    script = block("process train")
    called = [
        found.scan_values(lambda token: True) for found in parse_groovy_content(script).find_data("command_expression")
    ]
    assert {"process", "cpus", "tuple", "workflow"} <= {next(names).value[1] for names in called}
    used, (given,) = re.findall(r"\$\{(\w+)\}", script), re.findall(r"tuple (.+)", script)
    assert used == re.findall(r"val\((\w+)\)", given)


def test_a_training_reads_the_copy_on_the_fast_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work(tmp_path / "work", make_dataset(tmp_path / "balls", cases=4))
    ball_plan(Dataset.load(work.dataset), "2d").save(work.plan)
    read: list[Path] = []

    def noted(plan: Plan, store: Store, *_: object, **__: object) -> None:
        read.append(store.folder)
        assert sorted(store.cases()) == sorted(plan.data.cases)
        raise KeyboardInterrupt

    monkeypatch.setattr(validate, "train_fold", noted)
    for scratch in (None, tmp_path / "fast"):
        with pytest.raises(KeyboardInterrupt):
            seg_transfer.train(0, work=work.path, scratch=scratch, device="cpu", workers=0)
    assert read[0].parent == work.path / "preprocessed"
    assert read[1] == tmp_path / "fast" / read[0].name
