"""Who trains with whom: read from TF_CONFIG and from the variables that a real Slurm (22.05) gave its tasks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from job_controller import action

from trainer.distributed.addresses import Cluster, split_address
from trainer.distributed.cluster import discover, source
from trainer.errors import UsageError
from trainer.runtime.signals import EXIT_STOPPED

ROOT = Path(__file__).resolve().parents[2]

# what the third of five tasks saw: srun -N3 -n5 in a job
THIRD_OF_FIVE = {
    "SLURMD_NODENAME": "node1",
    "SLURM_DISTRIBUTION": "block",
    "SLURM_JOBID": "2",
    "SLURM_JOB_ID": "2",
    "SLURM_LOCALID": "2",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "5",
    "SLURM_PROCID": "2",
    "SLURM_STEPID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "node[1-2,10]",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_TASKS_PER_NODE": "3,1(x2)",
    "SLURM_TASKS_PER_NODE": "3,1(x2)",
}
# the batch script of the same kind of job
BATCH = {
    "SLURM_JOB_ID": "10",
    "SLURM_JOB_NODELIST": "node[1-2]",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "0",
    "SLURM_TASKS_PER_NODE": "2,1",
}


def tf_config(cluster: object, **task: object) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps({"cluster": cluster, "task": task})}


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def step(job: int, step: int, restarts: int | None = None) -> dict[str, str]:
    again = {} if restarts is None else {"SLURM_RESTART_COUNT": str(restarts)}
    return {**THIRD_OF_FIVE, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step), **again}


def ports(environ: dict[str, str]) -> set[int]:
    cluster = discover(environ)
    assert cluster is not None
    return {port_of(address) for address in cluster.workers}


def test_without_a_cluster_in_the_environment_a_process_works_alone() -> None:
    assert discover({"HOME": "/root"}) is None


def test_a_batch_script_and_a_step_of_one_task_work_alone() -> None:
    assert discover(BATCH) is None
    assert discover({**BATCH, "SLURM_STEP_ID": "4294967290", "SLURM_STEP_NUM_TASKS": "1"}) is None


def test_ranks_under_slurm_are_procid_and_hosts_are_in_the_order_of_the_node_list() -> None:
    cluster = discover(THIRD_OF_FIVE)
    assert cluster is not None
    assert cluster.rank == 2
    hosts = [address.rpartition(":")[0] for address in cluster.workers]
    assert hosts == ["node1", "node1", "node1", "node2", "node10"]
    assert len(set(cluster.workers)) == 5


def test_all_tasks_of_a_step_find_the_same_workers() -> None:
    places = [("0", "0", "0"), ("1", "0", "1"), ("2", "0", "2"), ("3", "1", "0"), ("4", "2", "0")]
    found = [
        discover({**THIRD_OF_FIVE, "SLURM_PROCID": rank, "SLURM_NODEID": node, "SLURM_LOCALID": local})
        for rank, node, local in places
    ]
    assert [cluster.rank for cluster in found if cluster is not None] == [0, 1, 2, 3, 4]
    assert len({cluster.workers for cluster in found if cluster is not None}) == 1


def test_one_task_a_node_is_called_cyclic_by_slurm_and_accepted() -> None:
    cluster = discover(
        {
            **THIRD_OF_FIVE,
            "SLURM_DISTRIBUTION": "cyclic",
            "SLURM_STEP_NODELIST": "node[1-2]",
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_PROCID": "1",
            "SLURM_NODEID": "1",
            "SLURM_LOCALID": "0",
        }
    )
    assert cluster is not None
    assert cluster.rank == 1
    assert [address.split(":")[0] for address in cluster.workers] == ["node1", "node2"]


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        # as scontrol show hostnames prints them
        ("node1", ["node1"]),
        ("gpu1,node[08-10,3],x", ["gpu1", "node08", "node09", "node10", "node3", "x"]),
        ("a[1-2]b[08-09,3]", ["a1b08", "a1b09", "a1b3", "a2b08", "a2b09", "a2b3"]),
        ("n-1", ["n-1"]),
        ("node[9-11]", ["node9", "node10", "node11"]),
    ],
)
def test_node_lists_are_expanded(text: str, hosts: list[str]) -> None:
    count = len(hosts)
    cluster = discover(
        {
            **THIRD_OF_FIVE,
            "SLURM_STEP_NODELIST": text,
            "SLURM_STEP_NUM_TASKS": str(2 * count),
            "SLURM_STEP_TASKS_PER_NODE": f"2(x{count})" if count > 1 else "2",
            "SLURM_PROCID": "1",
            "SLURM_NODEID": "0",
            "SLURM_LOCALID": "1",
        }
    )
    assert cluster is not None
    assert [address.rpartition(":")[0] for address in cluster.workers[::2]] == hosts


def test_ports_are_below_the_ephemeral_ones_and_apart_between_tasks_steps_jobs_and_restarts() -> None:
    many = [step(job, number) for job in range(4_000_000, 4_000_156) for number in range(8)]
    seen = [ports(environ) for environ in many]
    assert all(len(found) == 3 for found in seen), "three tasks on the first node"
    assert len(set().union(*seen)) == 3 * len(many)
    assert min(min(found) for found in seen) >= 12000
    assert max(max(found) for found in seen) < 32768
    assert ports(step(7, 0)).isdisjoint(ports(step(7, 0, restarts=1)))


def test_ports_that_srun_reserved_are_used() -> None:
    assert ports({**THIRD_OF_FIVE, "SLURM_STEP_RESV_PORTS": "12003-12006"}) == {12003, 12004, 12005}
    assert ports({**THIRD_OF_FIVE, "SLURM_STEP_RESV_PORTS": "12003,12009-12010"}) == {12003, 12009, 12010}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"SLURM_STEP_NODELIST": "node[1-4]"}, ["SLURM_STEP_NODELIST=node[1-4]", "SLURM_STEP_TASKS_PER_NODE=3,1(x2)"]),
        ({"SLURM_STEP_NUM_TASKS": "6"}, ["SLURM_STEP_NUM_TASKS=6", "SLURM_STEP_TASKS_PER_NODE=3,1(x2)"]),
        ({"SLURM_PROCID": "5"}, ["SLURM_PROCID=5", "SLURM_STEP_NUM_TASKS=5"]),
        ({"SLURM_PROCID": "x"}, ["SLURM_PROCID=x"]),
        ({"SLURM_LOCALID": "1"}, ["SLURM_LOCALID=1", "SLURM_PROCID=2"]),
        ({"SLURM_STEP_NODELIST": "node[1-2"}, ["SLURM_STEP_NODELIST=node[1-2"]),
        ({"SLURM_STEP_NODELIST": "node[1-2,]"}, ["SLURM_STEP_NODELIST=node[1-2,]"]),
        ({"SLURM_STEP_NODELIST": ""}, ["SLURM_STEP_NODELIST="]),
        ({"SLURM_STEP_TASKS_PER_NODE": "3,1(x2"}, ["SLURM_STEP_TASKS_PER_NODE=3,1(x2"]),
        ({"SLURM_DISTRIBUTION": "cyclic"}, ["SLURM_DISTRIBUTION=cyclic", "--distribution=block"]),
        ({"SLURM_DISTRIBUTION": "plane"}, ["SLURM_DISTRIBUTION=plane"]),
        ({"SLURM_STEP_RESV_PORTS": "12001-12002"}, ["SLURM_STEP_RESV_PORTS=12001-12002", "--resv-ports=3"]),
        ({"SLURM_STEP_RESV_PORTS": "(null)"}, ["SLURM_STEP_RESV_PORTS=(null)"]),
        ({"SLURM_STEP_RESV_PORTS": "0-2"}, ["SLURM_STEP_RESV_PORTS=0-2"]),
        ({"SLURM_STEP_RESV_PORTS": "65534-65537"}, ["SLURM_STEP_RESV_PORTS=65534-65537"]),
    ],
)
def test_what_does_not_add_up_under_slurm_is_refused_with_variables_and_values(
    change: dict[str, str], named: list[str]
) -> None:
    with pytest.raises(UsageError) as refused:
        discover({**THIRD_OF_FIVE, **change})
    for text in named:
        assert text in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["SLURM_PROCID", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_JOB_ID"]
    + [f"SLURM_STEP_{part}" for part in ("NUM_TASKS", "NODELIST", "TASKS_PER_NODE")],
)
def test_a_missing_variable_is_named(name: str) -> None:
    environ = {key: value for key, value in THIRD_OF_FIVE.items() if key != name}
    with pytest.raises(UsageError, match=f"{name} is not set"):
        discover(environ)


def test_many_tasks_on_one_node_need_reserved_ports() -> None:
    environ = {
        **THIRD_OF_FIVE,
        "SLURM_STEP_NODELIST": "big",
        "SLURM_STEP_NUM_TASKS": "17",
        "SLURM_STEP_TASKS_PER_NODE": "17",
    }
    with pytest.raises(UsageError, match="srun --resv-ports=17"):
        discover(environ)
    assert len(ports({**environ, "SLURM_STEP_RESV_PORTS": "12000-12017"})) == 17


def test_tf_config_puts_the_chief_first_and_the_workers_by_index() -> None:
    jobs = {"worker": ["b:2222", "10.0.0.3:2222"], "chief": ["a.svc:2222"]}
    workers = ("a.svc:2222", "b:2222", "10.0.0.3:2222")
    assert discover(tf_config(jobs, type="chief", index=0)) == Cluster(workers, 0)
    assert discover(tf_config(jobs, type="worker", index=1)) == Cluster(workers, 2)


def test_tf_config_without_a_chief_begins_with_worker_0() -> None:
    environ = tf_config({"worker": ["a:1", "b:1"]}, type="worker", index=1)
    assert discover(environ) == Cluster(("a:1", "b:1"), 1)


def test_tf_config_takes_ipv6_addresses_in_brackets() -> None:
    workers = ("[::1]:2222", "[2001:db8::7]:2222", "[fe80::1%eth0]:2222")
    environ = tf_config({"worker": workers}, type="worker", index=1)
    assert discover(environ) == Cluster(workers, 1)
    assert [split_address(each)[0] for each in workers] == ["::1", "2001:db8::7", "fe80::1%eth0"]


def test_a_tf_config_of_one_task_works_alone() -> None:
    assert discover(tf_config({"worker": ["a:1"]}, type="worker", index=0)) is None


def test_what_a_cloud_adds_to_tf_config_does_not_matter() -> None:
    config = {
        "cluster": {"chief": ["a:1"], "worker": ["b:1"]},
        "environment": "cloud",
        "job": {"worker_count": 1},
        "task": {"type": "worker", "index": 0, "trial": ""},
    }
    assert discover({"TF_CONFIG": json.dumps(config)}) == Cluster(("a:1", "b:1"), 1)


def test_tf_config_comes_before_slurm() -> None:
    environ = {**THIRD_OF_FIVE, **tf_config({"worker": ["a:1", "b:1"]}, type="worker", index=0)}
    assert discover(environ) == Cluster(("a:1", "b:1"), 0)


TWO: dict[str, Any] = {"worker": ["a:1", "b:1"]}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TF_CONFIG": ""}, "is not JSON"),
        ({"TF_CONFIG": '{"cluster": '}, "is not JSON"),
        ({"TF_CONFIG": "[]"}, "has no section cluster"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1"]}}'}, "has no section task"),
        (tf_config(TWO, type="worker"), "has no task.index"),
        (tf_config(TWO, index=0), "has no task.type"),
        (tf_config(TWO, type="worker", index=2), "this task is worker 2, and lists 2 of these"),
        (tf_config(TWO, type="worker", index=-1), "this task is worker -1"),
        (tf_config(TWO, type="worker", index="0"), "this task is worker '0'"),
        (tf_config(TWO, type="worker", index=True), "this task is worker True"),
        (tf_config(TWO, type="chief", index=0), "this task is chief 0, and lists 0 of these"),
        (tf_config(TWO, type="evaluator", index=0), "this task is 'evaluator'"),
        (tf_config(TWO, type=["worker"], index=0), r"this task is \['worker'\]"),
        (tf_config({**TWO, "ps": ["c:1"]}, type="worker", index=0), "has the job ps"),
        (tf_config({**TWO, "chief": ["c:1", "d:1"]}, type="worker", index=0), "names 2 chiefs"),
        (tf_config({"worker": ["a:1", "a:1"]}, type="worker", index=0), "has the address a:1 twice"),
        (tf_config({"worker": ["a:1", "b"]}, type="worker", index=0), "cluster.worker must be a list of addresses"),
        (tf_config({"worker": ["a:1", "b:0"]}, type="worker", index=0), "'b:0': a port is a number from 1 to 65535"),
        (tf_config({"worker": ["a:1", "b:99999"]}, type="worker", index=0), "'b:99999': a port is a number from 1"),
        (tf_config({"worker": ["http://a:1", "b:1"]}, type="worker", index=0), "'http://a:1': leave out the scheme"),
        (tf_config({"worker": ["a/x:1", "b:1"]}, type="worker", index=0), "'a/x:1': it is not host:port"),
        (tf_config({"worker": ["a..b:1", "b:1"]}, type="worker", index=0), "no host can have this name"),
        (tf_config({"worker": [f"{'a' * 64}:1", "b:1"]}, type="worker", index=0), "no host can have this name"),
        (tf_config({"worker": ["::1:2222", "b:1"]}, type="worker", index=0), "write an IPv6 address in brackets"),
        (tf_config({"worker": ["[::x]:2222", "b:1"]}, type="worker", index=0), "is not an IPv6 address"),
        (tf_config(TWO, type="worker", index="1"), "task.index must be a number, such as 0, without quotes"),
        (tf_config({"worker": {"0": "a:1"}}, type="worker", index=0), "cluster.worker must be a list of addresses"),
    ],
)
def test_what_does_not_add_up_in_tf_config_is_refused(environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        discover(environ)


def manifest() -> Any:
    """The Indexed Job of the documentation."""
    text = (ROOT / "docs" / "cluster.md").read_text()
    (block,) = re.findall("```yaml\n(.*?)```", text, re.DOTALL)
    _, job = yaml.safe_load_all(block)
    return job


def test_by_the_manifest_only_failures_of_a_pod_itself_count_and_what_cannot_succeed_ends_the_job() -> None:
    spec = manifest()["spec"]
    rules = spec["podFailurePolicy"]["rules"]
    assert action(rules, 137, {"DisruptionTarget"}) == "Ignore"
    assert action(rules, EXIT_STOPPED, {"DisruptionTarget"}) == "Ignore"
    assert action(rules, EXIT_STOPPED, set()) == "Ignore", "of a pod whose peer was disrupted, any number of times"
    assert {action(rules, status, set()) for status in (1, 2, 3, 4)} == {"FailJob"}
    assert {action(rules, status, set()) for status in (5, 137, 139)} == {"Count"}
    # the others would be started for ever beside an index that has used up its attempts
    assert spec["backoffLimitPerIndex"] > 0
    assert spec["maxFailedIndexes"] == 0
    (container,) = spec["template"]["spec"]["containers"]
    names = {rule["onExitCodes"]["containerName"] for rule in rules if "onExitCodes" in rule}
    assert names == {container["name"]}


def environment_of(spec: dict[str, Any]) -> dict[str, str]:
    """What the manifest sets in a container."""
    (container,) = spec["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def test_the_manifest_in_the_documentation_names_the_processes_that_its_pods_are() -> None:
    job = manifest()
    names, completions = environment_of(job["spec"]["template"]["spec"]), job["spec"]["completions"]
    subdomain, job_name = job["spec"]["template"]["spec"]["subdomain"], job["metadata"]["name"]
    pods = tuple(f"{job_name}-{index}.{subdomain}:2222" for index in range(completions))
    for index in range(completions):
        assert discover({**names, "JOB_COMPLETION_INDEX": str(index)}) == Cluster(pods, index)


def test_the_jobset_in_the_documentation_names_the_processes_that_its_pods_are() -> None:
    """Its pods are JOBSET-REPLICATEDJOB-JOBINDEX-PODINDEX.SUBDOMAIN (JobSet's documentation)."""
    jobset = yaml.safe_load((ROOT / "docs" / "cluster" / "jobset.yaml").read_text())
    (group,) = jobset["spec"]["replicatedJobs"]
    assert group["replicas"] == 1
    job = group["template"]["spec"]
    assert job["completionMode"] == "Indexed"
    names = environment_of(job["template"]["spec"])
    prefix, subdomain = f"{jobset['metadata']['name']}-{group['name']}-0", jobset["spec"]["network"]["subdomain"]
    pods = tuple(f"{prefix}-{index}.{subdomain}:2222" for index in range(job["completions"]))
    assert job["parallelism"] == job["completions"] == 2
    for index in range(2):
        assert discover({**names, "JOB_COMPLETION_INDEX": str(index)}) == Cluster(pods, index)
    alone = manifest()["spec"]
    for part in ("podFailurePolicy", "successPolicy", "backoffLimitPerIndex", "maxFailedIndexes"):
        assert job[part] == alone[part], "as of the Job in docs/cluster.md"


def test_the_trainjob_in_the_documentation_names_the_processes_that_its_pods_are() -> None:
    """Kubeflow makes a JobSet of the runtime with the name of the TrainJob, as many pods as it has nodes."""
    runtime, job = yaml.safe_load_all((ROOT / "docs" / "cluster" / "trainjob.yaml").read_text())
    asked = job["spec"]["trainer"]
    assert job["spec"]["runtimeRef"] == {"name": runtime["metadata"]["name"], "kind": runtime["kind"]}
    assert set(runtime["spec"]["mlPolicy"]) == {"numNodes"}, "plain ML"
    (group,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    (container,) = group["template"]["spec"]["template"]["spec"]["containers"]
    assert group["name"] == container["name"] == "node", "the names that Kubeflow looks for"
    name = job["metadata"]["name"]
    pods = tuple(f"{name}-node-0-{index}.{name}:2222" for index in range(asked["numNodes"]))
    names = {each["name"]: each["value"] for each in asked["env"]}
    for index in range(asked["numNodes"]):
        assert discover({**names, "JOB_COMPLETION_INDEX": str(index)}) == Cluster(pods, index)
    spec, alone = group["template"]["spec"], manifest()["spec"]
    for part in ("successPolicy", "backoffLimitPerIndex", "maxFailedIndexes"):
        assert spec[part] == alone[part], "as of the Job in docs/cluster.md"
    assert json.dumps(spec["podFailurePolicy"]).replace('"node"', '"trainer"') == json.dumps(alone["podFailurePolicy"])


def test_the_queue_in_the_documentation_lets_the_jobset_in() -> None:
    place = ROOT / "docs" / "cluster"
    _, queue, local = yaml.safe_load_all((place / "kueue.yaml").read_text())
    (group,) = yaml.safe_load((place / "jobset.yaml").read_text())["spec"]["replicatedJobs"]
    job = group["template"]["spec"]
    (resources,) = queue["spec"]["resourceGroups"]
    (given,) = resources["flavors"][0]["resources"]
    (wanted,) = (each["resources"]["limits"] for each in job["template"]["spec"]["containers"])
    assert set(wanted) == set(resources["coveredResources"]) == {given["name"]}
    assert wanted[given["name"]] * job["completions"] <= given["nominalQuota"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]


def test_a_task_of_skypilot_has_a_process_on_each_node() -> None:
    seen = {"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.7\n", "SKYPILOT_NUM_NODES": "2", "SLURM_STEP_ID": "0"}
    for rank in range(2):
        found = discover({**seen, "SKYPILOT_NODE_RANK": str(rank)})
        assert found == Cluster(("10.0.0.4:12000", "10.0.0.7:12000"), rank)
    assert source(seen) == "SKYPILOT_NODE_IPS"
    assert discover({"SKYPILOT_NODE_IPS": "10.0.0.4\n", "SKYPILOT_NODE_RANK": "0"}) is None
    task = yaml.safe_load((ROOT / "docs" / "cluster" / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [EXIT_STOPPED]
    version_6 = discover({"SKYPILOT_NODE_IPS": "fd00::1\nfd00::2", "SKYPILOT_NODE_RANK": "1"})
    assert version_6 == Cluster(("[fd00::1]:12000", "[fd00::2]:12000"), 1)


POD = {"JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"TRAINER_WORKERS": "a-[0-.b:2222", **POD}, "TRAINER_WORKERS=a-[0-.b:2222 cannot be understood"),
        ({"TRAINER_WORKERS": "a-[0-1].b", **POD}, "has a-0.b: it is not host:port"),
        ({"TRAINER_WORKERS": "a:1,a:1", **POD}, "has a:1 is there twice"),
        ({"TRAINER_WORKERS": "a-[0-1].b:2222"}, "JOB_COMPLETION_INDEX='' does not say which this is"),
        ({"TRAINER_WORKERS": "a-[0-1].b:2222", "JOB_COMPLETION_INDEX": "2"}, "names 2 processes, 0 to 1"),
        ({"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.4", "SKYPILOT_NODE_RANK": "0"}, "10.0.0.4,10.0.0.4 is no list"),
        ({"SKYPILOT_NODE_IPS": "", "SKYPILOT_NODE_RANK": "0"}, "SKYPILOT_NODE_IPS= is no list"),
        ({"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5"}, "SKYPILOT_NODE_RANK='' is none of the 2 nodes"),
        ({"SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5", "SKYPILOT_NODE_RANK": "2"}, "RANK='2' is none of the 2 nodes"),
    ],
)
def test_what_does_not_add_up_in_a_pod_or_on_a_node_of_skypilot_is_refused(environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        discover(environ)


def test_one_named_process_works_alone_and_tf_config_comes_first() -> None:
    assert discover({"TRAINER_WORKERS": "a:2222"}) is None
    both = {**tf_config({"worker": ["x:1", "y:1"]}, type="worker", index=1), "TRAINER_WORKERS": "a:1,b:1", **POD}
    assert discover(both) == Cluster(("x:1", "y:1"), 1)
    assert source(both) == "TF_CONFIG"
