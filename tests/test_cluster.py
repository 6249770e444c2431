"""Every file in cluster/ is valid, and every command and path that it names exists."""

import copy
import json
import re
import shlex
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from astroray import __version__
from astroray.cli import cli
from astroray.execution.metrics import GAUGES, SUMS
from astroray.execution.workers import PROXY_MIDDLEWARES
from astroray.job_command import read_job
from tests.kuberay_schema import SPECS, object_schema
from tests.node_cluster import KEEPALIVE

ROOT = Path(__file__).parents[1]
CLUSTER = ROOT / "cluster"
KUBERNETES = sorted((CLUSTER / "kubernetes").rglob("*.yaml"))
LAUNCHERS = [CLUSTER / "aws.yaml", CLUSTER / "hosts.yaml"]
DOCS = (ROOT / "docs/cluster.md").read_text()
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
PINS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
)


def documents():
    """Every Kubernetes object, with the file that it stands in."""
    for path in KUBERNETES:
        for document in yaml.safe_load_all(path.read_text()):
            if isinstance(document, dict) and document.get("kind") != "Kustomization":
                yield pytest.param(document, id=f"{path.name}-{document['kind']}")


OBJECTS = list(documents())
OF_RAY = [item for item in OBJECTS if item.values[0]["apiVersion"] == "ray.io/v1"]


def find(value, key):
    """Every value under `key`, however deep."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name == key:
                yield item
            yield from find(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from find(item, key)


def validate(document):
    import kubernetes_validate

    kind = document["apiVersion"], document["kind"]
    if kind not in SPECS:
        kubernetes_validate.validate(document, "1.34", strict=True)
        return
    jsonschema.validate(document, object_schema(*kind))
    for number, template in enumerate(find(document["spec"], "template")):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{number}"}} | template
        pod["metadata"] = {"name": f"p{number}"} | template.get("metadata", {})
        kubernetes_validate.validate(pod, "1.34", strict=True)


@pytest.mark.parametrize("document", OBJECTS)
def test_every_object_is_valid(document):
    validate(document)


@pytest.mark.parametrize("document", OBJECTS)
def test_a_typo_anywhere_in_a_specification_is_found(document):
    broken = copy.deepcopy(document)
    place = broken.get("spec", broken)
    place["suspendd"] = True
    with pytest.raises(Exception, match="suspendd"):
        validate(broken)


def test_a_typo_in_a_pod_of_a_ray_cluster_is_found():
    document = OF_RAY[0].values[0]
    broken = copy.deepcopy(document)
    next(find(broken, "containers"))[0]["imagee"] = "x"
    with pytest.raises(Exception, match="imagee"):
        validate(broken)


@pytest.mark.parametrize("document", OF_RAY)
def test_ray_clusters_ask_for_a_token_and_run_the_pinned_version_on_one_image(document):
    assert list(find(document, "rayVersion")) == [PINS["ray"]]
    assert [options["mode"] for options in find(document, "authOptions")] == ["token"]
    images = {item["image"] for containers in find(document, "containers") for item in containers}
    assert images == {f"astroray:{__version__}"}
    assert all(params["num-cpus"] == "0" for params in heads(document)), "the head does no work"


def heads(document):
    return [group["rayStartParams"] for group in find(document, "headGroupSpec")]


@pytest.mark.parametrize("document", OF_RAY)
def test_the_job_of_an_entrypoint_exists_and_takes_its_arguments(document):
    job = {"scan": "scan.py", "nightly": "nightly.py"}.get(document["metadata"]["name"])
    for entrypoint in find(document, "entrypoint"):
        python, script, *arguments = shlex.split(entrypoint)
        assert (python, script) == ("python", f"jobs/{job}")
        config, out = read_job(ROOT / script, arguments)
        assert config.survey.startswith("s3://")
        assert out.startswith("s3://")
        workers = next(iter(find(document, "workerGroupSpecs")))
        assert int(config.workers.partition("..")[0]) <= 4 * workers[0]["minReplicas"]


def test_the_scan_is_the_first_version_that_the_nights_go_on_from():
    read = []
    for name in ("scan", "nightly-rayjob"):
        job = yaml.safe_load((CLUSTER / f"kubernetes/base/{name}.yaml").read_text())
        _, script, *arguments = shlex.split(job["spec"]["entrypoint"])
        read.append(read_job(ROOT / script, arguments))
    (scan, first), (night, folder) = read
    assert scan.survey == night.survey
    assert first.rpartition("/")[0] == folder


def test_the_night_of_the_cron_job_and_its_alternative_are_the_same_job():
    night = yaml.safe_load((CLUSTER / "kubernetes/base/nightly-rayjob.yaml").read_text())
    other = yaml.safe_load((CLUSTER / "kubernetes/nightly-raycronjob.yaml").read_text())
    assert other["spec"]["jobTemplate"] == night["spec"]


def test_the_ray_service_serves_the_application_of_the_serve_config_with_room_and_tokens():
    path = CLUSTER / "kubernetes/serve.yaml"
    service = next(yaml.safe_load_all(path.read_text()))
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config == yaml.safe_load((CLUSTER / "serve.yaml").read_text())
    args = config["applications"][0]["args"]
    (workers,) = find(service, "workerGroupSpecs")
    cpus = int(workers[0]["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    for end in ("min", "max"):
        parts = (args["web"], args["encoder"])
        need = sum(part["num_cpus"] * part[f"{end}_replicas"] for part in parts)
        assert need <= cpus * workers[0][f"{end}Replicas"]
    folder = str(Path(args["tokens"]).parent)
    for containers in find(service, "containers"):
        (container,) = containers
        assert folder in [mount["mountPath"] for mount in container["volumeMounts"]]
        ports = [port["containerPort"] for port in container["ports"]]
        assert config["http_options"]["port"] in ports


def test_a_late_night_forbids_the_next_one():
    cron = next(yaml.safe_load_all((CLUSTER / "kubernetes/base/nightly.yaml").read_text()))
    assert cron["spec"]["concurrencyPolicy"] == "Forbid"
    pod = cron["spec"]["jobTemplate"]["spec"]
    night = yaml.safe_load((CLUSTER / "kubernetes/base/nightly-rayjob.yaml").read_text())
    assert pod["activeDeadlineSeconds"] > night["spec"]["activeDeadlineSeconds"]
    for name in ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"):
        assert cron["spec"][name] > 0
    role = next(
        d
        for d in yaml.safe_load_all((CLUSTER / "kubernetes/base/nightly.yaml").read_text())
        if d["kind"] == "Role"
    )
    used = {word for step in pod["template"]["spec"]["initContainers"] for word in step["command"]}
    assert {"delete", "create"} <= used & set(role["rules"][0]["verbs"])


@pytest.mark.parametrize("document", OBJECTS)
def test_a_role_is_bound_to_an_account_in_the_namespace_of_all(document):
    base = yaml.safe_load((CLUSTER / "kubernetes/base/kustomization.yaml").read_text())
    for subject in document.get("subjects", []):  # the server refuses an account without one
        assert subject["namespace"] == base["namespace"]


@pytest.mark.parametrize("variant", ["base", "cpu", "gpu"])
def test_what_a_kustomization_names_exists(variant):
    folder = CLUSTER / "kubernetes" / variant
    customization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    allowed = {"apiVersion", "kind", "namespace", "resources", "images", "patches"}
    assert customization.keys() <= allowed | {"configMapGenerator", "generatorOptions"}
    named = [*customization["resources"]]
    named += [patch["path"] for patch in customization.get("patches", [])]
    for generator in customization.get("configMapGenerator", []):
        named += [text.rpartition("=")[2] for text in generator["files"]]
    assert all((folder / name).exists() for name in named), named
    for image in customization.get("images", []):
        assert image["name"] == "astroray"
        assert image["newTag"].removesuffix("-gpu") == __version__


def test_the_patch_for_gpus_fits_the_scan():
    scan = yaml.safe_load((CLUSTER / "kubernetes/base/scan.yaml").read_text())
    for change in yaml.safe_load((CLUSTER / "kubernetes/gpu/workers.yaml").read_text()):
        assert change["op"] == "add"
        place = scan
        *path, last = change["path"].strip("/").split("/")
        for key in path:
            place = place[int(key) if isinstance(place, list) else key]
        place[last.replace("~1", "/")] = change["value"]
    validate(scan)
    assert list(find(scan, "nvidia.com/gpu")) == [1]


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_ray_s_launcher_takes_its_files(path):
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load(path.read_text())
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout"):
        validate_config(prepare_config(config | {"idle_timeout": 5}))


def test_on_aws_only_the_head_is_on_demand_and_s3_comes_by_role():
    kinds = yaml.safe_load((CLUSTER / "aws.yaml").read_text())["available_node_types"]
    spot = {name for name, kind in kinds.items() if "InstanceMarketOptions" in kind["node_config"]}
    assert spot == kinds.keys() - {"head"}
    assert kinds["head"]["resources"]["CPU"] == 0
    profiles = {
        name: kind["node_config"]["IamInstanceProfile"]["Name"] for name, kind in kinds.items()
    }
    assert profiles["head"] != profiles["spot"], "only the head may start and end machines"


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.stem)
def test_every_flag_of_ray_start_exists(path):
    from ray.scripts.scripts import start

    known = {option for param in start.params for option in param.opts}
    config = yaml.safe_load(path.read_text())
    lines = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    flags = {flag for line in lines for flag in re.findall(r"(--[\w-]+)", line)}
    assert flags
    assert flags <= known


def test_the_dashboard_shows_series_that_exist():
    text = (CLUSTER / "monitoring/grafana.json").read_text()
    known = {f"ray_{name}_total" for name in SUMS} | {f"ray_{name}" for name in GAUGES}
    assert set(re.findall(r"ray_astroray_\w+", text)) == known
    for panel in json.loads(text)["panels"]:
        assert panel["targets"][0]["expr"].count("(") == panel["targets"][0]["expr"].count(")")


def test_the_image_is_built_from_what_is_there_as_the_tests_install_it():
    for words in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        for name in words.split()[:-1]:
            assert (ROOT / name).exists(), name
            top = name.split("/")[0]
            assert f"!{top}\n" in (ROOT / ".dockerignore").read_text()
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", bases[0]), "a pinned base"
    assert "--constraint" in DOCKERFILE
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cpu", "gpu", "cluster"} <= extras["optional-dependencies"].keys()
    assert DOCKERFILE.rindex("USER ray") < DOCKERFILE.rindex("CMD"), "not as root"


@pytest.mark.parametrize("name", ["Dockerfile", "hosts.yaml"])
def test_every_node_knows_the_settings_of_the_nodes_of_the_tests(name):
    text = (CLUSTER / name).read_text()
    starts = 1 if name == "Dockerfile" else text.count("ray start --")
    proxy = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": PROXY_MIDDLEWARES}
    for setting, value in {**KEEPALIVE, **proxy}.items():
        assert text.count(f"{setting}={value}") == starts


def test_the_image_has_the_programs_that_ray_s_launcher_and_kuberay_call_in_it():
    """Ray copies files by `rsync -e "docker exec"`; its head starts workers by ssh and rsync."""
    from ray.autoscaler._private import command_runner

    called = {"openssh-client": "ssh", "rsync": "rsync"}
    source = Path(command_runner.__file__).read_text()
    assert all(f'"{program}"' in source for program in called.values())
    (installed,) = re.findall(r"apt-get install .*(libgomp1.*) \\\n", DOCKERFILE)
    assert {*called, "wget"} <= set(installed.split())


def test_every_run_of_the_image_ends_at_the_first_failure_and_leaves_no_cache():
    steps = re.findall(r"^RUN (.+?)(?<!\\)$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    assert len(steps) == 4
    for step in steps:
        assert ";" not in step, "`&&` stops at the first failure"
        if "apt-get install" in step:
            assert "--no-install-recommends" in step
            assert "rm -rf /var/lib/apt/lists/*" in step
        if "pip" in step:
            assert "--no-cache-dir" in step


def test_every_path_and_series_of_the_page_exists():
    for path in re.findall(r"(?<![\w/])((?:cluster|jobs)/[\w./-]+\w)", DOCS):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"`make ([\w-]+)`", DOCS):
        assert f"\n{target}:" in (ROOT / "Makefile").read_text()
    known = {f"ray_{name}_total" for name in SUMS} | {f"ray_{name}" for name in GAUGES}
    assert set(re.findall(r"ray_astroray_\w+", DOCS)) == known


def test_every_command_of_the_page_exists():
    from ray.scripts.scripts import cli as ray_cli

    blocks = "".join(re.findall(r"^```\n(.*?)^```", DOCS, re.DOTALL | re.MULTILINE))
    lines = [shlex.split(line) for line in blocks.splitlines()]
    verbs = {"astroray": cli, "ray": ray_cli}
    seen = set()
    for line in lines:
        words = [word for word in line if not re.fullmatch(r"[A-Z_]+=\S+", word)]
        if words[0] not in verbs:
            continue
        command = verbs[words[0]]
        words = words[1 : words.index("--") if "--" in words else None]
        while hasattr(command, "commands"):
            command = command.commands[words[0]]
            words = words[1:]
        known = {option for param in command.params for option in param.opts}
        known |= {"--survey", "--out"} if command.name == "submit" else set()
        flags = {word.partition("=")[0] for word in words if word.startswith("--")}
        assert flags <= known, line
        seen.add(command.name)
    assert {"submit", "status", "cancel", "up", "start"} <= seen
