"""The manifests of examples/engines, by the models that each platform publishes; nothing is sent.

`make test-engines` runs them in an environment with these packages and without TensorFlow.
"""

import json
import shlex

import pytest

from tests.helpers.paths import ROOT

FOLDER = ROOT / "examples" / "engines"
NAMES = {"sagemaker.json", "skypilot.yaml", "tfjob.yaml", "trainjob.yaml", "vertex.yaml"}


def _yaml(name):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def _flags(command):
    """Returns the flags of a command that starts launch.gpu_cluster."""
    assert command[:3] == ["python", "-m", "launch.gpu_cluster"]
    return dict(flag.removeprefix("--").split("=", 1) for flag in command[3:])


def _check_flags(command):
    flags = _flags(command)
    assert flags.keys() == {"flagfile", "data_dir", "model_dir"}
    assert (ROOT / flags["flagfile"]).is_file()


def test_each_is_documented():
    assert {path.name for path in FOLDER.glob("*.[jy]*")} == NAMES
    page = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    assert all(f"examples/engines/{name}" in page for name in NAMES)


def test_skypilot_takes_its_task(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # it writes there when it is imported
    sky = pytest.importorskip("sky", reason="needs skypilot: make test-engines")
    text = (FOLDER / "skypilot.yaml").read_text(encoding="utf-8")
    path = tmp_path / "task.yaml"
    path.write_text(text.replace("BUCKET", "bucket").replace("RUNS-", "runs-"), encoding="utf-8")
    task = sky.Task.from_yaml(str(path))
    assert task.num_nodes == 2
    _check_flags(shlex.split(task.run.replace("\\\n", " ")))


def test_the_training_operator_takes_its_tfjob():
    training = pytest.importorskip(
        "kubeflow.training", reason="needs kubeflow-training: make test-engines"
    )
    manifest = _yaml("tfjob.yaml")
    client = training.api_client.ApiClient()

    class Response:
        data = json.dumps(manifest)

    job = client.deserialize(Response, "KubeflowOrgV1TFJob")
    assert client.sanitize_for_serialization(job) == manifest  # no field is unknown
    assert set(job.spec.tf_replica_specs) == {"Chief", "Worker"}
    for replica in job.spec.tf_replica_specs.values():
        (container,) = replica.template.spec.containers
        assert container.name == "tensorflow"  # the operator sets TF_CONFIG in this one
        _check_flags([*container.command, *container.args])


def test_kubeflow_trainer_takes_its_trainjob():
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="needs kubeflow-trainer-api")
    manifest = _yaml("trainjob.yaml")
    job = models.TrainerV1alpha1TrainJob.from_dict(manifest)
    assert job.to_dict() == manifest
    _check_flags([*job.spec.trainer.command, *job.spec.trainer.args])


def test_vertex_takes_its_worker_pools():
    types = pytest.importorskip(
        "google.cloud.aiplatform_v1.types",
        reason="needs google-cloud-aiplatform",
    )
    json_format = pytest.importorskip("google.protobuf.json_format")
    spec = json_format.ParseDict(_yaml("vertex.yaml"), types.CustomJobSpec.pb()())
    assert [pool.replica_count for pool in spec.worker_pool_specs] == [1, 1]
    for pool in spec.worker_pool_specs:
        _check_flags([*pool.container_spec.command, *pool.container_spec.args])


def test_sagemaker_takes_its_training_job():
    session = pytest.importorskip("botocore.session", reason="needs botocore: make test-engines")
    validate = pytest.importorskip("botocore.validate")
    request = json.loads((FOLDER / "sagemaker.json").read_text(encoding="utf-8"))
    model = session.get_session().get_service_model("sagemaker")
    shape = model.operation_model("CreateTrainingJob").input_shape
    report = validate.ParamValidator().validate(request, shape)
    assert not report.has_errors(), report.generate_report()
    algorithm = request["AlgorithmSpecification"]
    _check_flags([*algorithm["ContainerEntrypoint"], *algorithm["ContainerArguments"]])
