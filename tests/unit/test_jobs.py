"""Jobs of the server: whose fault a failure is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seg_transfer.errors import UserError
from seg_transfer.serving.jobs import Jobs
from seg_transfer.serving.segment import Result, Task
from seg_transfer.util.disk_space import DiskFull


class FailingWorker:
    """Segments nothing."""

    def __init__(self, error: UserError) -> None:
        self.error = error

    def run(self, task: Task) -> Result:
        raise self.error

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("error", "refused"), [(UserError("no image"), True), (DiskFull("the disk is full"), False)])
def test_a_full_disk_is_no_fault_of_the_client(error: UserError, refused: bool, tmp_path: Path) -> None:
    worker: Any = FailingWorker(error)
    jobs = Jobs(worker, tmp_path, most=1, keep=60)
    try:
        job = jobs.submit(Task((), jobs.new_folder()))
        assert job.ended.wait(30)
        assert (job.status, job.refused) == ("failed", refused) and str(error) in job.error
    finally:
        jobs.close()
