"""Brings the schemas against which the chart is tested to a folder: Kubernetes' own, and those of what is added to it.

Kubernetes' come in a wheel that has those of many versions, as JSON; others as the CustomResourceDefinitions in the Go
modules of their projects. What can't be had is said and, outside CI, left out.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "kubernetes-validate==1.37.0"
HASH = "sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9"
WITHIN = "kubernetes_validate/kubernetes-json-schema/"
# The oldest that the chart takes, the newest that there is, and those between at which something changed for it.
VERSIONS = ("1.27.0", "1.30.0", "1.33.0", "1.37.0")
MODULES = {
    "sigs.k8s.io/gateway-api@v1.4.1": ("config/crd/standard/gateway.networking.k8s.io_grpcroutes.yaml",),
    "github.com/kedacore/keda/v2@v2.17.2": ("config/crd/bases/keda.sh_scaledobjects.yaml",),
    "github.com/cert-manager/cert-manager@v1.18.2": ("deploy/crds/crd-certificates.yaml",),
    "github.com/prometheus-operator/prometheus-operator@v0.85.0": (
        "example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    ),
}


def kubernetes(folder: Path) -> None:
    """Unpacks the strict schemas of each version."""
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place, "wanted.txt")
        wanted.write_text(f"{WHEEL} --hash={HASH}\n")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps")
        subprocess.run([*pip, "--require-hashes", f"--requirement={wanted}", f"--dest={place}"], check=True)
        (wheel,) = Path(place).glob("*.whl")
        starts = tuple(f"{WITHIN}v{version}-local-strict/" for version in VERSIONS)
        with zipfile.ZipFile(wheel) as packed:
            for name in packed.namelist():
                if name.startswith(starts) and name.endswith(".json"):
                    path = folder / name.removeprefix(WITHIN)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(local(packed.read(name).decode()))


def local(text: str) -> str:
    """A schema whose references lead to a file beside it, not to where it says that it comes from."""
    schema = json.loads(text.replace('"/api/_definitions.json', '"_definitions.json'))
    schema.pop("$id", None)
    return json.dumps(schema)


def definitions(folder: Path) -> None:
    """Copies the CustomResourceDefinitions."""
    if shutil.which("go") is None:
        sys.stderr.write("SKIPPED schemas of custom resources: go is not here to fetch them\n")
        if os.environ.get("CI"):
            sys.exit(1)
        return
    for module, names in MODULES.items():
        command = ["go", "mod", "download", "-json", module]
        # Away from any module of ours, and without its sums: the proxy's are checked by their database.
        told = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tempfile.gettempdir())
        root = Path(json.loads(told.stdout)["Dir"])
        for name in names:
            shutil.copyfile(root / name, folder / Path(name).name)


def main(target: str) -> None:
    """Does both, in a folder that is not there until all is."""
    folder = Path(target)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        made = Path(place, "made")
        (made / "definitions").mkdir(parents=True)
        kubernetes(made)
        definitions(made / "definitions")
        made.rename(folder)
    print(f"schemas of Kubernetes {', '.join(VERSIONS)}")


if __name__ == "__main__":
    main(sys.argv[1])
