"""`python -m launch.render_kubernetes`: manifests by the published models, and what they mean."""

import re
import sys

import pytest

from launch.kubernetes import jobset, objects, tpus, volumes
from tests.helpers import programs
from tf_lars.cluster import spec
from tf_lars.cluster.spec import resolve_cluster
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, EXIT_PREEMPTED, InputError

pytest.importorskip("kubeflow_trainer_api", reason="the published models are in the extra `test`")
pytest.importorskip("kubernetes_validate", reason="the published models are in the extra `test`")
from tests.helpers import manifests

IMAGE = "example/tf-lars:1"
GIVEN = (
    f"--image={IMAGE}",
    "--volume=/data=pvc:imagenet:ro",
    "--volume=/runs=pvc:runs",
    "--data_dir=/data/imagenet",
    "--model_dir=/runs/first",
    "--global_batch_size=16384",
)


def _render(*flags):
    return programs.run("launch.render_kubernetes", *GIVEN, *flags)


def _job(**more):
    given = {"name": "lars", "image": IMAGE, "arguments": ("--epochs=50",)}
    return jobset.TrainingJob(**{**given, **more})


def _gpus(nodes=8, **more):
    made = jobset.gpu_jobset(_job(**more), nodes=nodes, gpus_per_node=8, startup_timeout=60)
    return objects.manifest(made)


def _tpus(accelerator, topology, **more):
    return objects.manifest(jobset.tpu_jobset(_job(**more), tpus.tpu_slice(accelerator, topology)))


def _replicated_jobs(manifest):
    return {one["name"]: one for one in manifest["spec"]["replicatedJobs"]}


def _pod(manifest, name="worker"):
    return _replicated_jobs(manifest)[name]["template"]["spec"]["template"]["spec"]


def _container(manifest, name="worker"):
    (container,) = _pod(manifest, name)["containers"]
    return container


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """The manifest for eight nodes, as the program prints it."""
    recipe = tmp_path_factory.mktemp("recipes") / "some.flags"
    recipe.write_text("--epochs=50\n--learning_rate=14.9\n")
    done = _render("--nodes=8", f"--flagfile={recipe}", "--cache")
    assert done.returncode == 0, done.stderr
    return manifests.jobset(done.stdout)


def test_the_program_prints_a_jobset_that_the_published_models_accept(rendered):
    assert rendered["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = _replicated_jobs(rendered)["worker"]["template"]["spec"]
    assert (spec["completions"], spec["parallelism"]) == (8, 8)
    assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    container = _container(rendered)
    assert container["image"] == IMAGE
    assert container["command"] == ["python", "-m", "launch.gpu_cluster"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
    assert _pod(rendered)["restartPolicy"] == "Never"
    assert rendered["spec"]["network"] == {"enableDNSHostnames": True}


def test_pods_get_the_training_flags_that_were_given_and_no_others(rendered):
    assert sorted(_container(rendered)["args"]) == [
        "--cache",
        "--data_dir=/data/imagenet",
        "--epochs=50",
        "--global_batch_size=16384",
        "--learning_rate=14.9",
        "--max_restarts=0",
        "--model_dir=/runs/first",
        "--startup_timeout=1800",
    ]


def test_volumes_and_shared_memory_are_mounted(rendered):
    mounts = {one["mountPath"]: one for one in _container(rendered)["volumeMounts"]}
    named = {one["name"]: one for one in _pod(rendered)["volumes"]}
    data = named[mounts["/data"]["name"]]["persistentVolumeClaim"]
    assert data == {"claimName": "imagenet", "readOnly": True}
    assert mounts["/data"]["readOnly"]
    runs = named[mounts["/runs"]["name"]]["persistentVolumeClaim"]
    assert runs == {"claimName": "runs"}
    memory = named[mounts["/dev/shm"]["name"]]["emptyDir"]
    assert memory == {"medium": "Memory", "sizeLimit": "16Gi"}


def _environment(manifest, index):
    """Returns a pod's variables as the JobSet and Job controllers make them."""
    labels = {
        "jobset.sigs.k8s.io/jobset-name": manifest["metadata"]["name"],
        "jobset.sigs.k8s.io/replicatedjob-name": "worker",
        "jobset.sigs.k8s.io/job-index": "0",
    }
    variables = {"JOB_COMPLETION_INDEX": str(index)}
    for one in _container(manifest)["env"]:
        if "value" in one:
            variables[one["name"]] = one["value"]
        else:
            path = one["valueFrom"]["fieldRef"]["fieldPath"]
            variables[one["name"]] = labels[re.fullmatch(r"metadata\.labels\['(.*)'\]", path)[1]]
    return variables


def test_the_hosts_in_a_pods_environment_are_the_pods_names_in_dns():
    manifest = _gpus(nodes=3)
    pods = [f"lars-worker-0-{index}.lars:2222" for index in range(3)]
    for index in range(3):
        variables = _environment(manifest, index)
        prefix = "-".join(variables[f"JOBSET_{n}"] for n in ("NAME", "REPLICATED_JOB", "JOB_INDEX"))
        hosts = [
            f"{prefix}-{i}.{variables['JOBSET_NAME']}:{variables['JOBSET_PORT']}"
            for i in range(int(variables["JOBSET_NUM_PODS"]))
        ]
        assert hosts == pods


@pytest.mark.skipif(not hasattr(spec, "JOBSET"), reason="clusters.resolve knows no JobSet")
def test_a_pod_finds_itself_in_its_cluster():
    manifest = _gpus(nodes=3)
    for index in range(3):
        cluster = resolve_cluster(_environment(manifest, index))
        assert cluster.workers == tuple(f"lars-worker-0-{i}.lars:2222" for i in range(3))
        assert cluster.rank == index


def _action(manifest, *, exit_code=1, disrupted=False, job="worker"):
    """Returns what a failed pod does to the JobSet, as the two controllers decide it.

    Reference: kubernetes pkg/controller/job/pod_failure_policy.go (rules and messages) and
    kubernetes-sigs/jobset pkg/controllers/failure_policy.go.
    """
    spec = _replicated_jobs(manifest)[job]["template"]["spec"]
    reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    for index, rule in enumerate(spec["podFailurePolicy"]["rules"]):
        codes = rule.get("onExitCodes")
        if codes:
            assert (codes["operator"], codes["containerName"]) == ("In", job)
        if exit_code in codes["values"] if codes else disrupted:
            reason = "PodFailurePolicy"
            what = (
                f"Container {job} for pod ns/x failed with exit code {exit_code}"
                if codes
                else "Pod ns/x has condition DisruptionTarget"
            )
            message = f"{what} matching {rule['action']} rule at index {index}"
            break
    for rule in manifest["spec"]["failurePolicy"]["rules"]:
        patterns = rule["onJobFailureMessagePatterns"]
        if reason in rule["onJobFailureReasons"] and any(re.search(p, message) for p in patterns):
            return rule["action"]
    return "RestartJobSet"


@pytest.mark.parametrize(
    ("pod", "action"),
    [
        ({"exit_code": EXIT_BAD_INPUT}, "FailJobSet"),
        ({"exit_code": EXIT_PREEMPTED}, "RestartJobSetAndIgnoreMaxRestarts"),
        ({"exit_code": 137, "disrupted": True}, "RestartJobSetAndIgnoreMaxRestarts"),
        ({"exit_code": EXIT_PEER_FAILED}, "RestartJobSet"),
        ({"exit_code": 1}, "RestartJobSet"),
        ({"exit_code": 137}, "RestartJobSet"),
    ],
)
def test_exit_codes_have_their_documented_meaning(pod, action):
    assert _action(_gpus(), **pod) == action
    slices = _tpus("tpu-v4-podslice", "2x2x2")
    assert _action(slices, **pod) == action
    assert _action(slices, **pod, job="coordinator") == action


def test_restarts_are_of_all_pods_at_once():
    policy = _gpus(max_restarts=4)["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 4
    assert policy["restartStrategy"] == "BlockingRecreate"
    assert _pod(_gpus(grace_seconds=90))["terminationGracePeriodSeconds"] == 90


def test_a_slice_of_one_host_trains_on_its_own_chips():
    manifest = _tpus("tpu-v5-lite-podslice", "2x4")
    manifests.validate(manifest)
    assert list(_replicated_jobs(manifest)) == ["worker"]
    assert _container(manifest)["command"] == ["python", "-m", "launch.tpu"]
    assert _container(manifest)["args"] == ["--tpu=local", "--epochs=50"]
    assert _container(manifest)["resources"]["limits"] == {"google.com/tpu": "8"}
    assert _pod(manifest)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "2x4",
    }


def test_a_slice_of_several_hosts_has_a_server_on_each_and_a_coordinator():
    manifest = _tpus("tpu-v5-lite-podslice", "4x4")
    manifests.validate(manifest)
    jobs = _replicated_jobs(manifest)
    assert list(jobs) == ["worker", "coordinator"]
    hosts = jobs["worker"]["template"]
    assert hosts["spec"]["completions"] == 4
    assert hosts["metadata"]["annotations"] == {
        "alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"
    }
    assert _container(manifest)["resources"]["limits"] == {"google.com/tpu": "4"}
    assert _container(manifest)["command"] == ["python", "-m", "launch.tpu_server"]
    assert _container(manifest)["readinessProbe"]["tcpSocket"]["port"] == 8470

    coordinator = _container(manifest, "coordinator")
    servers = ",".join(f"grpc://lars-worker-0-{i}.lars:8470" for i in range(4))
    assert coordinator["args"] == [f"--tpu={servers}", "--epochs=50"]
    assert {"name": "TPU_LOAD_LIBRARY", "value": "0"} in coordinator["env"]
    assert "limits" not in coordinator["resources"]
    assert "nodeSelector" not in _pod(manifest, "coordinator")
    assert jobs["coordinator"]["dependsOn"] == [{"name": "worker", "status": "Ready"}]
    assert manifest["spec"]["successPolicy"]["targetReplicatedJobs"] == ["coordinator"]


@pytest.mark.parametrize("accelerator", tpus.ACCELERATORS)
def test_every_slice_has_whole_hosts(accelerator):
    for topology in tpus.ACCELERATORS[accelerator].topologies:
        found = tpus.tpu_slice(accelerator, topology)
        sides = [int(side) for side in topology.split("x")]
        assert len(sides) == (3 if accelerator in ("tpu-v4-podslice", "tpu-v5p-slice") else 2)
        chips = 1
        for side in sides:
            chips *= side
        assert found.num_hosts * found.chips_per_host == chips
        assert found.num_replicas == chips * (2 if "-v3-" in accelerator else 1)


def test_a_slice_that_comes_on_two_kinds_of_machine_can_be_chosen():
    assert tpus.tpu_slice("tpu-v6e-slice", "2x4").num_hosts == 1
    assert tpus.tpu_slice("tpu-v6e-slice", "2x4", 4).num_hosts == 2
    assert tpus.tpu_slice("tpu-v4-podslice", "4x8x12").num_hosts == 96
    for wrong in ("4x8x6", "8x4x4", "4x4", "", "x", "4x4x4x4"):
        with pytest.raises(InputError, match="--tpu_topology"):
            tpus.tpu_slice("tpu-v4-podslice", wrong)
    with pytest.raises(InputError, match="--tpu_chips_per_host"):
        tpus.tpu_slice("tpu-v6e-slice", "4x4", 8)


def test_everything_optional_is_accepted_by_the_published_models():
    manifest = _gpus(
        namespace="research",
        volumes=volumes.parse_all(["/data=gcs:imagenet:ro", "/runs=hostPath:/mnt/nfs/runs"]),
        node_selector={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
        tolerations=(objects.Toleration(key="a", operator="Equal", value="b", effect="NoExecute"),),
        requests={"cpu": "90", "memory": "500Gi"},
        priority_class="high",
        queue="gpus",
        service_account="trainer",
    )
    manifests.validate(manifest)
    metadata = manifest["metadata"]
    assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}
    pod = _replicated_jobs(manifest)["worker"]["template"]["spec"]["template"]
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert pod["spec"]["volumes"][0]["csi"]["volumeAttributes"] == {"bucketName": "imagenet"}


def test_kubernetes_leaves_dollar_signs_in_arguments_alone():
    manifest = _gpus(arguments=("--model=/models/$(HOME).py:net",))
    assert _container(manifest)["args"][-1] == "--model=/models/$$(HOME).py:net"


def _without(path, *, at):
    def change(manifest):
        del at(manifest)[path]

    return change


def _with(key, value, *, at):
    def change(manifest):
        at(manifest)[key] = value

    return change


def _spec(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


@pytest.mark.parametrize(
    "broken",
    [
        _with("maxRestart", 3, at=lambda m: m["spec"]["failurePolicy"]),
        _with("enableDNSHostnames", "yes", at=lambda m: m["spec"]["network"]),
        _with("enableDnsHostnames", True, at=lambda m: m["spec"]["network"]),
        _with("replicas", "1", at=lambda m: m["spec"]["replicatedJobs"][0]),
        _with("completions", "8", at=_spec),
        _with("backofLimit", 0, at=_spec),
        _with("comand", ["python"], at=_container),
        _with("command", "python", at=_container),
        _without("name", at=_container),
        _without("containers", at=_pod),
        _with("operator", 7, at=lambda m: _spec(m)["podFailurePolicy"]["rules"][0]["onExitCodes"]),
        _without("action", at=lambda m: _spec(m)["podFailurePolicy"]["rules"][0]),
        _with("nvidia.com/gpu", [8], at=lambda m: _container(m)["resources"]["limits"]),
    ],
)
def test_the_published_models_refuse_a_broken_manifest(broken):
    manifest = _gpus()
    broken(manifest)
    with pytest.raises(manifests.Refused):
        manifests.validate(manifest)


@pytest.mark.parametrize(
    ("text", "kind", "source", "read_only"),
    [
        ("/data=pvc:imagenet:ro", "pvc", "imagenet", True),
        ("/data/=pvc:imagenet", "pvc", "imagenet", False),
        ("/data=hostPath:/mnt/a=b:ro", "hostPath", "/mnt/a=b", True),
        ("/data=gcs:my_bucket.example", "gcs", "my_bucket.example", False),
    ],
)
def test_a_volume_is_one_line(text, kind, source, read_only):
    volume = volumes.MountedVolume.parse(text)
    assert volume == volumes.MountedVolume("/data", kind, source, read_only)
    assert volume.holds("/data")
    assert volume.holds("/data/a/b")
    assert not volume.holds("/database")
    assert not volume.holds("/data/../runs")


@pytest.mark.parametrize(
    "text",
    ["", "/data", "data=pvc:a", "/data=a", "/data=nfs:a", "/data=pvc:", "/data=pvc:A", "/=pvc:a",
     "/data=hostPath:mnt", "/data=pvc:a:rw"],
)  # fmt: skip
def test_a_volume_of_another_form_is_refused(text):
    with pytest.raises(InputError, match=r"--volume must be PATH=pvc:CLAIM.*Received"):
        volumes.MountedVolume.parse(text)
    with pytest.raises(InputError, match="path of its own"):
        volumes.parse_all(["/data=pvc:a", "/data/=pvc:b"])


def test_bad_input_ends_in_one_sentence_and_exit_code_2(tmp_path):
    done = _render("--nodes=7", "--gpus_per_node=3", f"--output={tmp_path / 'jobset.yaml'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: The global batch must be a positive multiple")
    assert "16384 on 21 replicas" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


V5E = "--tpu_accelerator=tpu-v5-lite-podslice"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ([], "--nodes, or --tpu_accelerator and --tpu_topology, must be given"),
        (["--nodes=0"], "--nodes must be at least 1"),
        (["--nodes=8", "--image="], "--image must name a container image"),
        (["--nodes=8", "--name=LARS"], "--name must be of small letters"),
        (["--nodes=8", f"--name={'a' * 50}"], "Names of pods must have at most 63"),
        (["--nodes=8", "--model=resnet51"], "resnet51"),
        (["--nodes=8", "--epochs=none"], "epochs"),
        (["--nodes=8", "--schedule=linear"], "--schedule must be one of"),
        (["--nodes=8", "--num_workers=2"], "Unknown command line flag 'num_workers'"),
        (["--nodes=8", "--model_dir=/elsewhere/run"], "--model_dir must lie in a --volume"),
        (["--nodes=8", "--model_dir=/data/run"], "--model_dir must lie in a --volume"),
        (["--nodes=8", "--data_dir=data"], "--data_dir must be an absolute path"),
        (["--nodes=8", "--memory=lots"], "--memory must be a quantity of Kubernetes"),
        (["--nodes=8", "--toleration=a b"], "--toleration must be KEY"),
        (["--nodes=8", "--node_selector=a"], "--node_selector must be LABEL=VALUE"),
        (["--nodes=8", "--resume=never"], "Name another --model_dir instead"),
        (["--nodes=8", "--max_restarts=-1"], "--max_restarts must be at least 0"),
        (["--nodes=8", "--output=/nowhere/x.yaml"], "--output must be a file"),
        ([V5E], "A TPU slice has --tpu_accelerator and --tpu_topology"),
        ([V5E, "--tpu_topology=3x3"], "--tpu_topology of tpu-v5-lite-podslice must be one of"),
        ([V5E, "--tpu_topology=4x4", "--nodes=2"], "has 4 nodes"),
        ([V5E, "--tpu_topology=4x4", "--gpus_per_node=4"], "Pods have GPUs or TPUs"),
        (["--tpu_accelerator=v5e", "--tpu_topology=2x2"], "--tpu_accelerator must be one of"),
        ([V5E, "--tpu_topology=4x4", "--global_batch_size=100"], "100 on 16 replicas"),
    ],
)
def test_each_mistake_has_its_sentence(flags, sentence):
    done = _render(*flags)
    assert done.returncode == 2, done.stdout
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sentence in done.stderr


@pytest.mark.slow
def test_the_file_that_is_written_says_how_it_was_made(tmp_path):
    path = tmp_path / "jobset.yaml"
    done = _render(V5E, "--tpu_topology=8x8", "--recipe=auto", "--epochs=3", f"--output={path}")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    text = path.read_text()
    assert text.startswith("# python -m launch.render_kubernetes --image=")
    manifest = manifests.jobset(text)
    assert "--recipe=auto" in _container(manifest, "coordinator")["args"]
    assert len(_container(manifest, "coordinator")["args"][0].split(",")) == 16


def test_rendering_needs_no_tensorflow():
    check = (
        "import sys, launch.render_kubernetes as r; r.define(); "
        "sys.exit(str(found) if (found := {'tensorflow', 'keras'} & set(sys.modules)) else 0)"
    )
    done = programs.run_command([sys.executable, "-c", check])
    assert done.returncode == 0, done.stderr
