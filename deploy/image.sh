#!/usr/bin/env bash
# Builds Troupe's container image (and with --etcd one of etcd) from binaries on this machine.
# Nothing is downloaded: by default the base is empty, and the shared libraries that the binary
# needs are copied from here. Needs docker, and ldd.
set -euo pipefail
deploy=$(cd "$(dirname "$0")" && pwd)

usage() {
    cat <<'END'
usage: deploy/image.sh [options]
  --binary FILE   the troupe to pack        [target/release/troupe]
  --tag NAME      what to call the image    [troupe:latest]
  --base IMAGE    put the binary alone on this image, which has glibc 2.31 or newer [scratch]
  --etcd [NAME]   build an image of this machine's etcd too [troupe-etcd:latest]
END
}

binary=$deploy/../target/release/troupe tag=troupe:latest base=scratch etcd=
while (($#)); do
    case $1 in
        --binary | --tag | --base)
            [[ -n ${2-} ]] || { echo "image.sh: $1 needs a value" >&2; exit 2; }
            printf -v "${1#--}" %s "$2"
            shift 2
            ;;
        --etcd)
            etcd=troupe-etcd:latest
            shift
            [[ -z ${1-} || $1 == --* ]] || { etcd=$1 && shift; }
            ;;
        --help | -h) usage && exit ;;
        *) echo "image.sh: unknown argument $1" >&2; usage >&2; exit 2 ;;
    esac
done
for tool in docker ldd; do
    command -v "$tool" >/dev/null || { echo "image.sh: $tool is missing" >&2; exit 1; }
done
[[ -x $binary ]] || {
    echo "image.sh: there is no binary at $binary: \`make build\` makes it, --binary names another" >&2
    exit 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# build NAME BINARY DOCKERFILE PROGRAM HOME: lays out an image's files and builds it.
build() {
    local name=$1 binary=$2 dockerfile=$3 program=$4 home=$5 context=$work/$4
    mkdir -p "$context/root/usr/local/bin" "$context/home/$home"
    cp -L "$binary" "$context/root/usr/local/bin/$program"
    chmod 755 "$context/root/usr/local/bin/$program"
    # Line tables of backtraces go, function names stay.
    if command -v strip >/dev/null; then
        strip --strip-debug "$context/root/usr/local/bin/$program"
    fi
    if [[ $base == scratch ]]; then
        system "$context/root" "$binary"
    fi
    docker build --quiet --tag "$name" --build-arg "BASE=$base" --file "$deploy/$dockerfile" \
        "$context" >"$work/said" 2>&1 || { cat "$work/said" >&2; exit 1; }
    echo "built $name ($(docker image inspect --format '{{.Size}}' "$name") bytes)"
}

# What a program expects of a system: its libraries, a user, a resolver's order, roots of trust.
system() {
    local root=$1 binary=$2 library
    # Lines are `name => /path (address)`, and `/path (address)` for the loader itself.
    ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -L "$library" "$root$library"
    done
    mkdir -p "$root/etc/ssl/certs" "$root/tmp"
    chmod 1777 "$root/tmp"
    echo 'troupe:x:65532:65532::/var/lib/troupe:/sbin/nologin' >"$root/etc/passwd"
    echo 'troupe:x:65532:' >"$root/etc/group"
    echo 'hosts: files dns' >"$root/etc/nsswitch.conf"
    if [[ -f /etc/ssl/certs/ca-certificates.crt ]]; then
        cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
    fi
}

# A volume takes over what stands at its place in the image, owner included: `ca` for one.
build "$tag" "$binary" Dockerfile troupe ca
if [[ -n $etcd ]]; then
    found=$(command -v etcd) || {
        echo "image.sh: this machine has no etcd to pack (Debian: apt-get install etcd-server)" >&2
        exit 1
    }
    build "$etcd" "$found" etcd.Dockerfile etcd .
fi
