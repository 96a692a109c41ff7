"""A wrong config is one sentence that names the key and the nearest right one; a right one is merged as told."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import yaml

from data.errors import InputError
from pipeline import config as plan_of
from pipeline import settings as stage_settings
from pipeline.config_check import SCHEMA

ROOT = Path(__file__).parents[2]


@pytest.fixture
def place(tmp_path):
    """A repository-like folder with one prior and a folder of two studies."""
    for modality in ("ct", "mr"):
        prior = tmp_path / "models" / "weights" / modality
        prior.mkdir(parents=True)
        (prior / "prior.json").write_text("{}")
    for study in ("first", "second"):
        (tmp_path / "studies" / study).mkdir(parents=True)
        (tmp_path / "studies" / study / "IM0").write_bytes(b"x")
    return tmp_path


def cohort(place: Path, **sections) -> dict:
    return {"cohorts": {"chest": {"modality": "ct", "studies": str(place / "studies"), **sections}}}


def ct(**sections) -> dict:
    return {"cohorts": {"a": {"modality": "ct", **sections}}}


WRONG = [
    ({"studis": "/x"}, "unknown key 'studis'; did you mean 'studies'?"),
    (ct(mesure={}), "unknown key 'mesure' in cohorts.a; did you mean 'measure'?"),
    (ct(measure={"veiws": 3}), "'veiws' in cohorts.a.measure; did you mean 'views'?"),
    (ct(measure={"coils": 8}), "unknown key 'coils' in cohorts.a.measure; known are"),
    ({"cohorts": {"a": {"modality": "mr", "measure": {"views": 3}}}}, "unknown key 'views' in cohorts.a.measure"),
    (ct(measure={"views": "many"}), "measure.views must be a whole number or a mapping of keys to values, not 'many'"),
    (ct(measure={"views": 0}), "measure.views must be at least 1, not 0"),
    (ct(solvers=["pamm"]), "solvers[0] is 'pamm', which is not known; did you mean 'pam'?"),
    (ct(solvers=[]), "cohorts.a.solvers must not be empty"),
    (ct(solvers=["pam", "pam"]), "cohorts.a.solvers names something twice"),
    (ct(baselines=["wavelet"]), "baselines[0] is 'wavelet', which is not known"),
    ({"cohorts": {"a": {"modality": "pet"}}}, "cohorts.a.modality is 'pet', which is not known; known are ct, mr"),
    ({"cohorts": {"a": {"studies": "/x"}}}, "cohorts.a lacks the key 'modality'; give it as ct or mr"),
    ({"cohorts": {"a": None}}, "cohorts.a must be a mapping of keys to values, not None"),
    ({"cohorts": {"a b": {"modality": "ct"}}}, "'a b' cannot be a name here"),
    ({"cohorts": {"logs": {"modality": "ct"}}}, "'logs' cannot be a name here"),
    ({"cohorts": {"../x": {"modality": "ct"}}}, "'../x' cannot be a name here"),
    (ct(ingest={"slices": [1]}), "slices must be null or two whole numbers"),
    (ct(reconstruct={"device": "gpu"}), "device must be auto, cpu, cuda or cuda:N"),
    (ct(reconstruct={"samples": 1}), "samples must be at least 2, not 1"),
    (ct(reconstruct={"overrides": {"ddss": {}}}), "'ddss'"),
    ({"defaults": {"ct": {"report": {"max_mp": 4}}}}, "key 'max_mp' in defaults.ct.report; did you mean 'max_mb'?"),
    ({"train": {"modality": "ct", "minuets": 3}}, "unknown key 'minuets' in train; did you mean 'minutes'?"),
    ({"train": {"modality": "ct"}}, "train names no volumes; add --config volumes=/path/to/folder"),
]


@pytest.mark.parametrize(("config", "words"), WRONG, ids=[words[:40] for _, words in WRONG])
def test_wrong_config_is_one_sentence(config, words):
    with pytest.raises(InputError) as caught:
        plan_of.load(config, ROOT, "mine.yaml")
    sentence = caught.value.user_message
    assert words in sentence
    assert sentence.startswith("mine.yaml: ")
    assert "\n" not in str(caught.value)
    assert sentence[-1] in ".?"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: None, "names no studies; add --config studies=/path/to/folder"),
        (lambda p: p / "nowhere", "nowhere does not exist"),
        (lambda p: p / "studies" / "first" / "IM0", "is a file; give the folder"),
        (lambda p: (p / "empty").mkdir() or p / "empty", "is empty; put one folder a study into it"),
    ],
)
def test_wrong_studies_folder(place, make, words):
    folder = make(place)
    config = {"cohorts": {"chest": {"modality": "ct"}}, "studies": folder and str(folder)}
    with pytest.raises(InputError, match=words):
        plan_of.load(config, place, "mine.yaml")


def test_missing_prior_names_the_shipped_one(place):
    with pytest.raises(InputError, match=r"models/weights/cc holds no prior.json; did you mean 'models/weights/ct'\?"):
        plan_of.load(cohort(place, reconstruct={"prior": "models/weights/cc"}), place)


def test_cohort_wins_over_own_defaults_over_shipped_defaults(place):
    config = cohort(place, measure={"views": 7}) | {"defaults": {"ct": {"measure": {"views": 5, "range_deg": 90}}}}
    measure = json.loads(plan_of.load(config, place).settings("measure", "chest"))
    shipped = yaml.safe_load(plan_of.DEFAULTS.read_text())["defaults"]["ct"]["measure"]
    assert measure == shipped | {"views": 7, "range_deg": 90, "modality": "ct"}


def test_lists_are_replaced_not_joined(place):
    assert plan_of.load(cohort(place, baselines=["fbp"]), place).cohorts["chest"].baselines == ["fbp"]


def test_numbers_that_yaml_reads_as_text(place):
    config = cohort(place, measure=yaml.safe_load("{photons: 1e5}"))
    assert isinstance(config["cohorts"]["chest"]["measure"]["photons"], str)
    assert json.loads(plan_of.load(config, place).settings("measure", "chest"))["photons"] == 1e5


def test_values_on_the_command_line_are_text_to_snakemake(place):
    words = {"measure": {"views": "31", "bins": "null"}, "ingest": {"slices": ["1", "4"]}}
    config = cohort(place, reconstruct={"point": "false"}, **words)
    plan = plan_of.load(config, place)
    measure = json.loads(plan.settings("measure", "chest"))
    assert (measure["views"], measure["bins"]) == (31, None)
    assert json.loads(plan.settings("reconstruct", "chest", "pam"))["point"] is False
    assert json.loads(plan.settings("ingest", "chest"))["slices"] == [1, 4]


def test_global_studies_fill_only_cohorts_that_name_none(place):
    (place / "other" / "third").mkdir(parents=True)
    config = cohort(place)
    config["cohorts"]["abdomen"] = {"modality": "ct"}
    config["studies"] = str(place / "other")
    assert plan_of.load(config, place).studies == [("chest", "first"), ("chest", "second"), ("abdomen", "third")]


def test_relative_folders_are_found_from_the_repository(place, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    plan = plan_of.load({"cohorts": {"chest": {"modality": "ct", "studies": "studies"}}}, place)
    assert Path(plan.cohorts["chest"].studies["first"]).is_dir()


def test_a_folder_that_holds_scans_is_one_study(place):
    assert list(plan_of.find_studies(place / "studies" / "first")) == ["first"]


def test_papers_beside_studies_do_not_make_a_study(place):
    for name in ("README.md", "LICENSE", "participants.tsv", ".DS_Store"):
        (place / "studies" / name).write_text("x")
    assert list(plan_of.find_studies(place / "studies")) == ["first", "second"]


def test_every_stage_depends_on_its_own_section_alone(place):
    """Change one setting of one section: the JSON of that stage changes, that of no other does, but for the hash of
    the config by which an export names all that it depends on."""
    stages = dict.fromkeys(("ingest", "measure", "uncertainty", "export", "report")) | {"reconstruct": "pam"}
    changes = {
        "ingest": {"slices": [2, 9]},
        "measure": {"views": 31},
        "reconstruct": {"seed": 1},
        "uncertainty": {"interval": 0.8},
        "export": {"dicom": False},
        "report": {"max_mb": 39},
    }

    def all_settings(config):
        plan = plan_of.load(config, place)
        found = {stage: json.loads(plan.settings(stage, "chest", method)) for stage, method in stages.items()}
        return found, found["export"].pop("config_hash")

    before, hashed = all_settings(cohort(place))
    for section, change in changes.items():
        after, hashed_after = all_settings(cohort(place, **{section: change}))
        assert (hashed_after == hashed) is (section == "report")
        assert [stage for stage in stages if before[stage] != after[stage]] == [section]


def test_overrides_of_one_solver_reach_that_solver_alone(place):
    config = cohort(place, solvers=["pam", "dds"], reconstruct={"overrides": {"dds": {"gamma": 30}}})
    plan = plan_of.load(config, place)
    assert "gamma" not in plan.settings("reconstruct", "chest", "pam")
    assert json.loads(plan.settings("reconstruct", "chest", "dds"))["overrides"] == {"dds": {"gamma": 30}}


def test_fingerprint_sees_files_not_hidden_ones(place):
    folder = place / "studies" / "first"
    before = plan_of.fingerprint(folder)
    (folder / ".DS_Store").write_text("x")
    assert plan_of.fingerprint(folder) == before
    (folder / "IM1").write_text("x")
    added = plan_of.fingerprint(folder)
    assert added != before
    os.utime(folder / "IM0", (1, 1))
    assert plan_of.fingerprint(folder) != added


def for_snakemake(path):
    """Configs of single commands, such as that of pipeline.adapt, have sections of their own."""
    return bool({"cohorts", "train"} & set(yaml.safe_load(path.read_text())))


SHIPPED = [ROOT / "configs" / "demo.yaml", *filter(for_snakemake, sorted((ROOT / "configs").glob("*/*.yaml")))]


@pytest.mark.parametrize("path", SHIPPED, ids=[path.stem for path in SHIPPED])
def test_shipped_configs_are_valid(path, place):
    config = yaml.safe_load(path.read_text()) | {"studies": str(place / "studies"), "volumes": str(place)}
    for name in ("ct", "mr", "kspace"):
        (place / "data" / "demo" / name / "one").mkdir(parents=True)
    plan_of.load(config, place)


def schema_keys(section: str) -> set[str]:
    return set(yaml.safe_load(SCHEMA.read_text())["$defs"][section]["properties"])


def field_names(settings_class: type) -> set[str]:
    return {field.name for field in dataclasses.fields(settings_class)}


def test_schema_and_stage_settings_name_the_same_keys():
    of_ct = field_names(stage_settings.CtMeasureSettings) | field_names(stage_settings.CtMeasuredSettings)
    assert schema_keys("ct_measure") == of_ct
    assert schema_keys("mr_measure") == field_names(stage_settings.MrMeasureSettings)
    assert schema_keys("reconstruct") == field_names(stage_settings.ReconstructSettings)
    assert schema_keys("uncertainty") == field_names(stage_settings.UncertaintySettings)


def test_schema_and_training_settings_name_the_same_keys():
    from models.training import TrainingSettings

    beside = {"volumes", "out", "license", "held_out"}
    assert schema_keys("train") - beside == field_names(TrainingSettings)


def test_schema_knows_every_baseline():
    from solvers.classical.registry import CLASSICAL

    definitions = yaml.safe_load(SCHEMA.read_text())["$defs"]
    methods = {
        name
        for modality in ("ct_sections", "mr_sections")
        for name in definitions[modality]["properties"]["baselines"]["items"]["enum"]
    }
    assert methods == set(CLASSICAL)


def test_environment_and_requirements_pin_the_same():
    pins = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line}
    assert pins == set(yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"][-1]["pip"])
