from typing import Any

import pytest

from federation.comparison.mlflow_upload import PARENT_TAG, mirror_comparison
from federation.comparison.summary import write_comparison
from incremental.model_store import open_store


@pytest.mark.slow
def test_a_comparison_is_one_parent_with_a_child_per_run_and_registers_no_model(
    compared: tuple[Any, ...],
) -> None:
    suite, _runs, blocks, out = compared
    write_comparison(suite, blocks, (1, 2), out, ["fedka", "compare", "tiny.yaml"])
    parent = mirror_comparison(suite, blocks, out)
    assert mirror_comparison(suite, blocks, out) == parent  # again: nothing is doubled
    client = open_store(f"sqlite:///{out / 'mlflow.db'}")
    found = client.search_runs([client.get_run(parent).info.experiment_id])
    children = [run for run in found if run.data.tags.get(PARENT_TAG) == parent]
    assert len(found) == 5 and len(children) == 4
    assert {run.data.tags["method_label"] for run in children} == {"finetune", "FedKA"}
    assert (
        client.get_run(parent).data.metrics["average/phantom_tiny/finetune"]
        == blocks[0].row("finetune").average.mean
    )
    assert {"summary.md", "table.csv"} <= {each.path for each in client.list_artifacts(parent)}
    assert not client.search_registered_models()
