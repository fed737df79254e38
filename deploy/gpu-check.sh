#!/usr/bin/env bash
# Checks Troupe on a host with an NVIDIA device: parity of every golden model, then benchmarks, and
# one report. `pack`, on the machine that builds, puts all that is needed into a folder; `run`, on
# the host with the device, needs neither cargo nor network.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'END_OF_USAGE'
usage: deploy/gpu-check.sh pack FOLDER     build, and gather binaries and golden models there
       FOLDER/gpu-check.sh run [options]   check and measure; writes report.md
  --out FOLDER      where the report and logs go       [.]
  --seconds N       the whole run ends after so long   [540]
  --model FOLDER    what is measured                   [a random Llama of 8B's widths]
  --layers N        of that random model               [8]
Set TROUPE_NVRTC_DIR when packing, so that kernels are embedded; else NVRTC has to be on the host.
END_OF_USAGE
}

pack() {
    local to=${1:?where to} kernels
    cd "$here/.."
    cargo build --release
    # The test binary that holds kernels and whole models against the CPU and the golden values.
    kernels=$(cargo test --release -p troupe-gpu --test kernels --no-run --message-format=json |
        sed -n 's/.*"executable":"\([^"]*kernels-[^"]*\)".*/\1/p' | tail -n 1)
    [[ -x $kernels ]] || { echo "gpu-check.sh: the test binary was not built" >&2; exit 1; }
    mkdir -p "$to"
    cp target/release/troupe "$to/troupe"
    cp "$kernels" "$to/parity"
    cp -r "${TROUPE_GOLDEN_DIR:-tests/golden}" "$to/golden"
    cp "$here/gpu-check.sh" "$to/gpu-check.sh"
    strip "$to/troupe" "$to/parity"
    du -sh "$to"
}

# PyTorch's own copies of NVIDIA's libraries, if it is installed: NVRTC, cuBLAS, NCCL.
add_libraries() {
    local folder
    folder=$(python3 - 2>/dev/null <<'END_OF_PYTHON'
import glob, os, sysconfig
folders = glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "*", "lib"))
print(":".join(folders))
END_OF_PYTHON
    ) || folder=
    [[ -z $folder ]] || export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

left() { echo $((deadline - SECONDS > 5 ? deadline - SECONDS : 5)); }

# section TITLE COMMAND...: runs it within what time is left, and puts its output into the report.
section() {
    local title=$1 status=0
    shift
    { printf '\n## %s\n\n```\n' "$title"; } >>"$report"
    timeout "$(left)" "$@" >"$log" 2>&1 || status=$?
    tail -n 200 "$log" >>"$report"
    { printf '```\n\nexit status %s, %s s since the beginning\n' "$status" "$SECONDS"; } >>"$report"
    ((status == 0)) || failed=1
    return 0
}

device() {
    nvidia-smi --query-gpu=name,driver_version,memory.total,memory.used --format=csv
    "$here/troupe" --version
}

# The golden models on the device, by our own kernels and with cuBLASLt; then those tests of the
# kernels that need no device, as a check of the pack itself.
parity() {
    TROUPE_GOLDEN_DIR=$here/golden "$here/parity" --nocapture --test-threads 1 models::a_device
}

# serve_and_measure NAME FLAGS...: one server, then requests at rising concurrency.
serve_and_measure() {
    local name=$1 port=8123 pid status=0
    shift
    "$here/troupe" serve "$model" --device cuda --port $port "$@" >"$out/serve-$name.log" 2>&1 &
    pid=$!
    for _ in $(seq 600); do
        curl -fs "http://localhost:$port/health" >/dev/null && break
        kill -0 $pid 2>/dev/null || { tail -n 50 "$out/serve-$name.log"; return 1; }
        sleep 0.5
    done
    grep "memory plan" "$out/serve-$name.log" || true
    for concurrency in 1 32 128; do
        echo "concurrency $concurrency"
        "$here/troupe" bench serve --port $port --dataset-name random --random-input-len 1000 \
            --random-output-len 200 --num-prompts $((concurrency * 2)) \
            --max-concurrency $concurrency || status=$?
    done
    kill -TERM $pid
    wait $pid || true
    return $status
}

run() {
    out=. seconds=540 model='' layers=8 failed=0
    while (($#)); do
        case $1 in
            --out | --seconds | --model | --layers)
                [[ -n ${2-} ]] || { echo "gpu-check.sh: $1 needs a value" >&2; exit 2; }
                printf -v "${1#--}" %s "$2"
                shift 2
                ;;
            *) echo "gpu-check.sh: unknown argument $1" >&2; usage >&2; exit 2 ;;
        esac
    done
    mkdir -p "$out"
    report=$out/report.md log=$out/section.log deadline=$((SECONDS + seconds))
    # Each part is run by this script again, so that it can be ended when its time is over.
    export out model layers
    add_libraries
    printf '# GPU check, %s\n' "$(date -u +%Y-%m-%dT%H:%MZ)" >"$report"
    section "Device" "$0" part device
    section "Parity" "$0" part parity
    if [[ -z $model ]]; then
        model=$out/random-8b-$layers
        section "Random model of $layers layers" "$here/troupe" bench random-model "$model" \
            --hidden-size 4096 --intermediate-size 14336 --num-hidden-layers "$layers" \
            --num-attention-heads 32 --num-key-value-heads 8 --vocab-size 128256
    fi
    section "bfloat16" "$0" part serve_and_measure bf16 --dtype bfloat16
    section "bfloat16, batch invariant" "$0" part serve_and_measure own --dtype bfloat16 \
        --batch-invariant
    section "int8" "$0" part serve_and_measure int8 --dtype bfloat16 -q int8
    cat "$report"
    exit "$failed"
}

case ${1-} in
    pack) shift && pack "$@" ;;
    run) shift && run "$@" ;;
    part) shift && "$@" ;;
    --help | -h) usage ;;
    *) usage >&2; exit 2 ;;
esac
