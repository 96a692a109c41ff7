"""One runner and one finished tree of the tiny study for all tests of faults."""

import itertools
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.robustness.identity import plant
from tests.robustness.stages import Runner, Stage, chain, snapshot, write_study
from tests.workflow.conftest import phantoms, priors  # noqa: F401

_trials = itertools.count()


@dataclass(frozen=True)
class Tree:
    """A finished results tree: the study, each stage, its undisturbed reply, and the output it then had."""

    study: Path
    results: Path
    stages: dict[str, Stage]
    replies: dict[str, dict]
    outputs: dict[str, dict[str, str]]
    planted: set[bytes]

    def trial(self, name: str) -> Path:
        """Where the stage is to write next: in a new folder, as far from the tree as its undisturbed output is."""
        out = self.results.parent / "trials" / str(next(_trials)) / self.stages[name].out.name
        out.parent.mkdir(parents=True)
        return out


@pytest.fixture(scope="session")
def runner(tmp_path_factory):
    """Its working directory is a folder of its own, where export keeps its key."""
    started = Runner(folder=tmp_path_factory.mktemp("runner"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def tree(runner, priors, tmp_path_factory) -> Tree:  # noqa: F811
    """Every stage run once without a fault, in the tree and into a folder of its own."""
    home = tmp_path_factory.mktemp("tree")
    study, results = home / "study", home / "results"
    planted = plant(write_study(study))
    replies, outputs = {}, {}
    stages = chain(study, results, priors["ct"])
    done = runner(stages["ingest"].request())
    assert done["rc"] == 0, done["err"]
    stages = chain(study, results, priors["ct"])
    for name, stage in stages.items():
        done = runner(stage.request()) if name != "ingest" else {"rc": 0}
        assert done["rc"] == 0, (name, done["err"])
        alone = home / "alone" / name / stage.out.name
        alone.parent.mkdir(parents=True)
        replies[name] = runner(stage.request(alone))
        assert replies[name]["rc"] == 0, (name, replies[name]["err"])
        outputs[name] = snapshot(alone.parent)
    return Tree(study, results, stages, replies, outputs, planted)


def pytest_collection_modifyitems(items):
    """The tree that the tests share is every stage twice: on a busy machine that alone takes minutes."""
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(1500))
