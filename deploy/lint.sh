#!/bin/sh
# Check the image's recipe, the Compose files, the Kubernetes manifests and the shell scripts. `make lint` runs this with
# the tools of the extra `dev` in PATH. Docker Compose and kubectl check more, where they are installed; neither needs an
# engine or a cluster for it.
set -eu
cd "$(dirname "$0")/.."

hadolint Dockerfile.gpu
find deploy tools -name '*.sh' -exec shellcheck {} +
check-jsonschema --quiet --builtin-schema vendor.compose-spec compose.yaml compose.cpu.yaml compose.common.yaml

if docker compose version >/dev/null 2>&1; then
    for file in compose.yaml compose.cpu.yaml; do
        docker compose --file "$file" --profile '*' config --quiet
    done
else
    echo 'No Docker Compose here: only the schema of the Compose files was checked.'
fi

built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
cp -R deploy/kubernetes/. "$built"
cp deploy/kubernetes/secrets.example.env "$built/secrets.env"
if command -v kubectl >/dev/null; then
    kubectl kustomize "$built" >"$built/all.yaml"
else
    echo 'No kubectl here: the Kubernetes manifests were checked one by one, not as kustomize builds them.'
fi
# --no-warn: KEDA's and kustomize's own objects have no schema in Kubernetes; tests/test_kubernetes.py checks those.
kubernetes-validate --strict --quiet --no-warn "$built"/*.yaml
