#!/usr/bin/env bash
# A cluster on hosts of its own, on one machine, to try things on: network namespaces on a bridge,
# each with its address; three run etcd, one is the control host, the others are nodes.
#
#   tests/hosts/cluster.sh up 3                  control host and three nodes; prints what to ask
#   tests/hosts/cluster.sh cut node-2            pulls node-2's cable; `mend` plugs it in again
#   tests/hosts/cluster.sh kill node-2           kills what runs there; `start` starts it again
#   tests/hosts/cluster.sh exec control bash     a shell on a host
#   tests/hosts/cluster.sh status | log HOST | down
#   tests/hosts/cluster.sh first-token           two fresh hosts to a first token, timed; leaves nothing
#
# Needs root, ip (iproute2), etcd, and target/release/troupe (TROUPE names another). The tests make
# such networks by themselves (tests/support/hosts.rs), on other addresses than this one's.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
readonly net=198.18.255 space=troupe-bench state=${TMPDIR:-/tmp}/troupe-bench
troupe=${TROUPE:-$root/target/release/troupe}
etcds=(etcd-1 etcd-2 etcd-3)

fail() { echo "cluster.sh: $*" >&2; exit 1; }
on() { local host=$1; shift; ip netns exec "$space-$host" "$@"; }
address() { cat "$state/$1/address" 2>/dev/null || fail "there is no host $1: \`up\` makes them"; }
running() { [[ -s $state/$1/pid ]] && kill -0 "$(<"$state/$1/pid")" 2>/dev/null; }

# host NAME: one more host, plugged into the switch.
host() {
    local name=$1 last=$(($(find "$state" -name address | wc -l) + 1))
    mkdir -p "$state/$name"
    ip netns add "$space-$name"
    ip -n "$space-switch" link add name "$name" type veth peer name eth0 netns "$space-$name"
    ip -n "$space-switch" link set dev "$name" master bridge up
    ip -n "$space-$name" link set lo up
    ip -n "$space-$name" address add "$net.$last/24" dev eth0
    ip -n "$space-$name" link set eth0 up
    echo "$net.$last" >"$state/$name/address"
}

# run HOST COMMAND...: in the background, its words in the host's log.
run() {
    local name=$1
    shift
    ip netns exec "$space-$name" "$@" >>"$state/$name/log" 2>&1 </dev/null &
    echo $! >"$state/$name/pid"
    disown # So that nothing is said of its end.
}

etcd_urls() { for etcd in "${etcds[@]}"; do printf ',http://%s:2379' "$(address "$etcd")"; done | cut -c2-; }
etcd_peers() { for etcd in "${etcds[@]}"; do printf ',%s=http://%s:2380' "$etcd" "$(address "$etcd")"; done | cut -c2-; }

token() { "$troupe" token create -o token --context "$state/control/data/operator"; }

start() {
    local name=$1 here cluster words=()
    here=$(address "$name")
    running "$name" && fail "$name runs already"
    case $name in
        etcd-*)
            cluster=$(etcd_peers)
            run "$1" etcd --name "$1" --data-dir "$state/$1/data" --initial-cluster "$cluster" \
                --listen-client-urls "http://$here:2379" --advertise-client-urls "http://$here:2379" \
                --listen-peer-urls "http://$here:2380" --initial-advertise-peer-urls "http://$here:2380"
            ;;
        control)
            run control "$troupe" up --roles controller,gateway --etcd "$(etcd_urls)" --listen "$here" \
                --data-dir "$state/control/data" -f "$state/demo.yaml"
            ;;
        *)
            # Once it has joined, its data directory says who it is.
            [[ -e $state/$name/data ]] || words=("$(address control)" --token "$(token)")
            run "$name" "$troupe" join "${words[@]}" --name "$name" --data-dir "$state/$name/data"
            ;;
    esac
}

# until SECONDS WHAT COMMAND...
until_holds() {
    local begin=$SECONDS limit=$1 what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS - begin < limit)) || fail "not within $limit s: $what (see $state/*/log)"
        sleep 0.1
    done
}

# The network, with an etcd of three members and a specification, and no host with troupe yet.
ground() {
    local name
    [[ ! -e $state ]] || fail "a cluster is up already: \`down\` ends it"
    [[ -x $troupe ]] || fail "there is no $troupe: \`make build\` makes it"
    mkdir -p "$state"
    trap 'status=$?; ((status == 0)) || down' EXIT
    sed "s|file:///models/demo|file://$root/deploy/demo-model/model|; s/replicas: 2/replicas: 1/" \
        "$root/deploy/specs/demo.yaml" >"$state/demo.yaml"
    ip netns add "$space-switch"
    ip -n "$space-switch" link add bridge type bridge
    ip -n "$space-switch" link set bridge up
    ip link add "$space" type veth peer name here netns "$space-switch"
    ip -n "$space-switch" link set here master bridge up
    ip address add "$net.254/24" dev "$space"
    ip link set "$space" up
    for name in "${etcds[@]}"; do host "$name"; done
    for name in "${etcds[@]}"; do start "$name"; done
}

up() {
    local count=$1 here
    ground
    host control
    start control
    here=$(address control)
    until_holds 60 "the control host answers" "$troupe" health --url "http://$here:8000"
    for ((i = 1; i <= count; i++)); do
        host "node-$i"
        start "node-$i"
    done
    until_holds 60 "the demo model is served" "$troupe" health --ready --url "http://$here:8000"
    cat <<END
$count nodes serve the demo model in two stages. Ask it something:

  $troupe chat --url http://$here:8000 "What is the capital of France?"

and take it down with: $0 down
END
}

# Three commands on two fresh hosts: `up`, the line that it prints, a request. The hosts share this
# machine's disk and name, so each is told a data directory and a name; nothing else is typed.
first_token() {
    local begin here line url
    ground
    host first
    host second
    here=$(address first)
    url=http://$here:8000
    for etcd in "${etcds[@]}"; do
        until_holds 60 "$etcd answers" curl -sf "http://$(address "$etcd"):2379/health"
    done
    begin=$EPOCHREALTIME
    run first "$troupe" up --etcd "$(etcd_urls)" -f "$state/demo.yaml" \
        --name first --data-dir "$state/first/data"
    until_holds 60 "the first host says how to join" grep -q "troupe join" "$state/first/log"
    since "$begin" "the first host says how to join it"
    line=$(grep -m 1 -o "troupe join.*" "$state/first/log")
    read -ra words <<<"${line#troupe }"
    run second "$troupe" "${words[@]}" --name second --data-dir "$state/second/data"
    # It waits until the group has formed, as any request does.
    curl -sfN --max-time 60 "$url/v1/completions" -H "content-type: application/json" \
        -d '{"model": "troupe-demo", "prompt": "Once", "max_tokens": 1, "stream": true}' |
        grep -q -m 1 "^data: {" || fail "no token came (see $state/*/log)"
    since "$begin" "the first token, from two stages on two hosts"
    down
}

since() { awk -v a="$1" -v b="$EPOCHREALTIME" -v what="$2" 'BEGIN { printf "%.2f s: %s\n", b - a, what }'; }

down() {
    local name
    for name in $(ip netns list | grep -o "^$space-[^ ]*"); do
        ip netns pids "$name" | xargs -r kill -KILL 2>/dev/null || true
        ip netns delete "$name"
    done
    rm -rf "$state"
}

status() {
    local name
    for name in "$state"/*/; do
        name=$(basename "$name")
        printf '%-10s %-16s %s\n' "$name" "$(address "$name")" \
            "$(running "$name" && echo "runs as $(<"$state/$name/pid")" || echo stopped)"
    done
}

((EUID == 0)) || fail "only root may make network namespaces"
for tool in ip etcd; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian: iproute2, etcd-server)"
done
case ${1-} in
    up) up "${2:-3}" ;;
    first-token) first_token ;;
    down | status) "$1" ;;
    start) start "${2:?which host}" ;;
    cut) ip -n "$space-switch" link set dev "${2:?which host}" down ;;
    mend) ip -n "$space-switch" link set dev "${2:?which host}" up ;;
    kill) kill -KILL "$(<"$state/${2:?which host}/pid")" ;;
    log) cat "$state/${2:?which host}/log" ;;
    exec) shift && on "$@" ;;
    *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
