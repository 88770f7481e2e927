"""`python -m launch.render_kubernetes`: JobSets that train, on GPUs unless stated otherwise."""

import re
import sys

import pytest
import yaml

from launch import render_kubernetes
from launch.kubernetes import pod_resources, pod_security, volumes
from tests.helpers import programs
from tf_lars.cluster.discovery import resolve_cluster
from tf_lars.errors import EXIT_BAD_INPUT, EXIT_PEER_FAILED, EXIT_PREEMPTED, InputError

pytest.importorskip("kubeflow_trainer_api", reason="the published models are in the extra `test`")
pytest.importorskip("kubernetes_validate", reason="the published models are in the extra `test`")
from tests.helpers import manifests

GIVEN = (
    f"--image={manifests.IMAGE}",
    "--volume=/data=pvc:imagenet:ro",
    "--volume=/runs=pvc:runs",
    "--data_dir=/data/imagenet",
    "--model_dir=/runs/first",
    "--global_batch_size=16384",
)


def _render(*flags):
    return programs.run("launch.render_kubernetes", *GIVEN, *flags)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """Manifest for eight nodes, as the program prints it."""
    recipe = tmp_path_factory.mktemp("recipes") / "some.flags"
    recipe.write_text("--epochs=50\n--learning_rate=14.9\n")
    done = _render("--nodes=8", f"--flagfile={recipe}", "--cache")
    assert done.returncode == 0, done.stderr
    return manifests.jobset(done.stdout)


def test_the_program_prints_a_jobset_that_the_published_models_accept(rendered):
    assert rendered["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    spec = manifests.replicated_jobs(rendered)["worker"]["template"]["spec"]
    assert (spec["completions"], spec["parallelism"]) == (8, 8)
    assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    container = manifests.container(rendered)
    assert container["image"] == manifests.IMAGE
    assert container["command"] == ["python", "-m", "launch.gpu_cluster"]
    assert container["resources"] == {
        "requests": {"cpu": "24", "memory": "96Gi"},
        "limits": {"memory": "96Gi", "nvidia.com/gpu": "8"},
    }
    assert manifests.pod(rendered)["restartPolicy"] == "Never"
    assert rendered["spec"]["network"] == {"enableDNSHostnames": True}


def test_pods_get_the_training_flags_that_were_given_and_no_others(rendered):
    assert sorted(manifests.container(rendered)["args"]) == [
        "--cache",
        "--data_dir=/data/imagenet",
        "--epochs=50",
        "--global_batch_size=16384",
        "--learning_rate=14.9",
        "--max_restarts=0",
        "--model_dir=/runs/first",
        "--startup_timeout=1800",
    ]


def test_synthetic_data_needs_no_folder_in_the_pods():
    done = _render("--nodes=2", "--data_dir=", "--data=synthetic:5000")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--data=synthetic:5000" in manifests.container(manifests.jobset(done.stdout))["args"]


def test_volumes_and_shared_memory_are_mounted(rendered):
    mounts = {one["mountPath"]: one for one in manifests.container(rendered)["volumeMounts"]}
    named = {one["name"]: one for one in manifests.pod(rendered)["volumes"]}
    data = named[mounts["/data"]["name"]]["persistentVolumeClaim"]
    assert data == {"claimName": "imagenet", "readOnly": True}
    assert mounts["/data"]["readOnly"]
    runs = named[mounts["/runs"]["name"]]["persistentVolumeClaim"]
    assert runs == {"claimName": "runs"}
    memory = named[mounts["/dev/shm"]["name"]]["emptyDir"]
    assert memory == {"medium": "Memory", "sizeLimit": "16Gi"}


def _environment(manifest, index):
    """Returns a pod's environment as the JobSet and Job controllers set it."""
    labels = {
        "jobset.sigs.k8s.io/jobset-name": manifest["metadata"]["name"],
        "jobset.sigs.k8s.io/replicatedjob-name": "worker",
        "jobset.sigs.k8s.io/job-index": "0",
    }
    variables = {"JOB_COMPLETION_INDEX": str(index)}
    for one in manifests.container(manifest)["env"]:
        if "value" in one:
            variables[one["name"]] = one["value"]
        else:
            path = one["valueFrom"]["fieldRef"]["fieldPath"]
            variables[one["name"]] = labels[re.fullmatch(r"metadata\.labels\['(.*)'\]", path)[1]]
    return variables


def test_the_hosts_in_a_pods_environment_are_the_pods_names_in_dns():
    manifest = manifests.gpus(nodes=3)
    pods = [f"lars-worker-0-{index}.lars:2222" for index in range(3)]
    for index in range(3):
        variables = _environment(manifest, index)
        prefix = "-".join(variables[f"JOBSET_{n}"] for n in ("NAME", "REPLICATED_JOB", "JOB_INDEX"))
        hosts = [
            f"{prefix}-{i}.{variables['JOBSET_NAME']}:{variables['JOBSET_PORT']}"
            for i in range(int(variables["JOBSET_NUM_PODS"]))
        ]
        assert hosts == pods


def test_a_pod_finds_itself_in_its_cluster():
    manifest = manifests.gpus(nodes=3)
    for index in range(3):
        cluster = resolve_cluster(_environment(manifest, index))
        assert cluster.workers == tuple(f"lars-worker-0-{i}.lars:2222" for i in range(3))
        assert cluster.rank == index


def _action(manifest, *, exit_code=1, disrupted=False, job="worker"):
    """Returns the effect of a failed pod on the JobSet, as the two controllers determine it.

    References: kubernetes pkg/controller/job/pod_failure_policy.go (rules and messages) and
    kubernetes-sigs/jobset pkg/controllers/failure_policy.go.
    """
    spec = manifests.replicated_jobs(manifest)[job]["template"]["spec"]
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
    assert _action(manifests.gpus(), **pod) == action
    slices = manifests.tpus("tpu-v4-podslice", "2x2x2")
    assert _action(slices, **pod) == action
    assert _action(slices, **pod, job="coordinator") == action


def test_restarts_are_of_all_pods_at_once():
    policy = manifests.gpus(max_restarts=4)["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 4
    assert policy["restartStrategy"] == "BlockingRecreate"
    assert manifests.pod(manifests.gpus(grace_seconds=90))["terminationGracePeriodSeconds"] == 90


def test_everything_optional_is_accepted_by_the_published_models():
    manifest = manifests.gpus(
        namespace="research",
        volumes=volumes.parse_all(["/data=gcs:imagenet:ro", "/runs=hostPath:/mnt/nfs/runs"]),
        node_selector={"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
        tolerations=({"key": "a", "operator": "Equal", "value": "b", "effect": "NoExecute"},),
        resources=pod_resources.pod_resources(8, cpu="90", memory="500Gi", cpu_limit="100"),
        user=pod_security.PodUser(4711, 100),
        priority_class="high",
        queue="gpus",
        service_account="trainer",
    )
    manifests.validate(manifest)
    metadata = manifest["metadata"]
    assert metadata["labels"] == {"kueue.x-k8s.io/queue-name": "gpus"}
    pod = manifests.replicated_jobs(manifest)["worker"]["template"]["spec"]["template"]
    assert pod["metadata"]["annotations"] == {"gke-gcsfuse/volumes": "true"}
    assert pod["spec"]["volumes"][0]["csi"]["volumeAttributes"] == {
        "bucketName": "imagenet",
        "mountOptions": "uid=4711,gid=100",
    }


def test_kubernetes_leaves_dollar_signs_in_arguments_alone():
    manifest = manifests.gpus(arguments=("--model=/models/$(HOME).py:net",))
    assert manifests.container(manifest)["args"][-1] == "--model=/models/$$(HOME).py:net"


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
        _with("comand", ["python"], at=manifests.container),
        _with("command", "python", at=manifests.container),
        _without("name", at=manifests.container),
        _without("containers", at=manifests.pod),
        _with("operator", 7, at=lambda m: _spec(m)["podFailurePolicy"]["rules"][0]["onExitCodes"]),
        _without("action", at=lambda m: _spec(m)["podFailurePolicy"]["rules"][0]),
        _with("nvidia.com/gpu", [8], at=lambda m: manifests.container(m)["resources"]["limits"]),
    ],
)
def test_the_published_models_refuse_a_broken_manifest(broken):
    manifest = manifests.gpus()
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
    with pytest.raises(InputError, match="different path"):
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
        (["--nodes=0"], "--nodes must be from 1 to"),
        (["--nodes=8", "--image="], "--image must be a container image"),
        (["--nodes=8", "--name=LARS"], "--name must be lower-case letters"),
        (
            ["--nodes=8", f"--name={'a' * 50}"],
            "Pod names, which contain --name, must have at most 63",
        ),
        (["--nodes=8", "--model=resnet51"], "resnet51"),
        (["--nodes=8", "--epochs=none"], "epochs"),
        (["--nodes=8", "--schedule=linear"], "--schedule must be one of"),
        (["--nodes=8", "--num_workers=2"], "Unknown command line flag 'num_workers'"),
        (
            ["--nodes=8", "--model_dir=/elsewhere/run"],
            "--model_dir must lie in a writable --volume",
        ),
        (["--nodes=8", "--model_dir=/data/run"], "--model_dir must lie in a writable --volume"),
        (["--nodes=8", "--data_dir=data"], "--data_dir must be an absolute path"),
        (["--nodes=8", "--recipe=none", "--baseline_batch_size=256"], "--recipe=auto"),
        (["--nodes=8", "--memory=lots"], "--memory must be a Kubernetes quantity"),
        (["--nodes=8", "--memory_limit=90Gi"], "--memory_limit must not be below what each pod"),
        (["--nodes=8", "--cpu=9", "--cpu_limit=8999m"], "Received: 8999m, with --cpu=9"),
        (["--nodes=8", "--user=trainer"], "--user must be UID or UID:GID, in numbers"),
        (["--nodes=8", "--priority_class=a\nkind: Pod"], "--priority_class must be a name of"),
        (["--nodes=8", "--toleration=a b"], "--toleration must be KEY"),
        (["--nodes=8", "--node_selector=a"], "--node_selector must be LABEL=VALUE"),
        (["--nodes=8", "--resume=never"], "Use another --model_dir to start"),
        (["--nodes=8", "--max_restarts=-1"], "--max_restarts must be from 0 to"),
        (["--nodes=8", "--output=/nowhere/x.yaml"], "--output must be a writable file"),
        ([V5E], "A TPU slice needs --tpu_accelerator and --tpu_topology"),
        ([V5E, "--tpu_topology=3x3"], "--tpu_topology for tpu-v5-lite-podslice must be one of"),
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
    assert "--recipe=auto" in manifests.container(manifest, "coordinator")["args"]
    assert len(manifests.container(manifest, "coordinator")["args"][0].split(",")) == 16


def test_a_line_break_in_a_flag_does_not_end_the_comment_with_the_command():
    done = _render("--nodes=1", "--freeze=a\nkind: Pod\u2028kind: Pod")
    assert done.returncode == 0, done.stderr
    comment, rest = done.stdout.split("\n", 1)
    assert comment.endswith(r"'--freeze=a\nkind: Pod\u2028kind: Pod'")
    assert rest.startswith("apiVersion: ")
    manifest = manifests.jobset(done.stdout)
    assert "--freeze=a\nkind: Pod\u2028kind: Pod" in manifests.container(manifest)["args"]


def test_no_character_in_a_flag_leaves_the_comment():
    shown = {"a": "b"}
    for code in (*range(0x20), *range(0x7F, 0xA1), 0x2028, 0x2029, 0xFEFF, 0xFFFE):
        flag = f"--freeze=x{chr(code)}kind: Pod{chr(code)}---{chr(code)}# "
        text = render_kubernetes._as_yaml([shown], [flag])
        assert yaml.safe_load(text) == shown, hex(code)
        assert [line[0] for line in text.splitlines()] == ["#", "a"], hex(code)


def test_data_in_no_volume_is_remarked_on():
    done = _render("--nodes=1", "--data_dir=/in_the_image")
    assert done.returncode == 0
    assert done.stderr.startswith("warning: --data_dir lies in no --volume")
    assert "'/in_the_image'" in done.stderr


def test_rendering_needs_no_tensorflow():
    check = (
        "import sys, launch.render_kubernetes as r; r.define(); "
        "sys.exit(str(found) if (found := {'tensorflow', 'keras'} & set(sys.modules)) else 0)"
    )
    done = programs.run_command([sys.executable, "-c", check])
    assert done.returncode == 0, done.stderr
