#!/usr/bin/env bash
# Installs Troupe on this machine as systemd services, or takes it away again. May be run again at
# any time: it replaces the binary and the units, and never touches settings that are there.
set -euo pipefail
deploy=$(cd "$(dirname "$0")" && pwd)
readonly roles="control node gateway etcd"

usage() {
    cat <<'END'
usage: deploy/install.sh ROLE... [options]
       deploy/install.sh --uninstall [--purge] [--prefix DIR] [--dry-run]

roles: control  controller and gateway       node  offers this host's devices
       gateway  a gateway alone              etcd  a member of etcd, from Debian's package

  --binary FILE  the troupe to install [target/release/troupe]
  --start        enable and start the services; without it, set /etc/troupe/*.env first
  --prefix DIR   install below DIR, as for a package or a chroot: no user is made, nothing started
  --dry-run      say what would be done, and do nothing
  --uninstall    stop the services and remove binary and units
  --purge        with --uninstall: settings, state and the user as well
END
}

fail() { echo "install.sh: $*" >&2; exit 1; }

binary=$deploy/../target/release/troupe prefix='' dry='' start='' action=install purge='' chosen=()
while (($#)); do
    case $1 in
        --binary | --prefix)
            [[ -n ${2-} ]] || { echo "install.sh: $1 needs a value" >&2; exit 2; }
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --dry-run) dry=1 ;;
        --start) start=1 ;;
        --uninstall) action=uninstall ;;
        --purge) purge=1 ;;
        --help | -h) usage && exit ;;
        control | node | gateway | etcd) chosen+=("$1") ;;
        *) echo "install.sh: unknown argument $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
prefix=${prefix%/}
readonly bin=$prefix/usr/local/bin etc=$prefix/etc/troupe units=$prefix/etc/systemd/system
readonly docs=$prefix/usr/local/share/doc/troupe

# do COMMAND...: does it, or says that it would.
run() { if [[ -n $dry ]]; then echo "would run: $*"; else "$@"; fi; }

# Whether this is the running system and not a folder that will be one.
is_live() { [[ -z $prefix ]]; }
has_systemd() { is_live && [[ -d /run/systemd/system ]]; }

# put MODE FROM TO: a file of ours, replacing what is there.
put() { run install -D -m "$1" "$2" "$3"; }

# keep MODE FROM TO: a file for people to change, only if there is none.
keep() { if [[ -e $3 ]]; then echo "kept $3"; else put "$1" "$2" "$3"; fi; }

need_etcd() {
    [[ -x $prefix/usr/bin/etcd ]] && return
    is_live || { echo "put etcd (Debian: etcd-server) into $prefix/usr/bin before it is started"; return; }
    command -v apt-get >/dev/null || fail "no /usr/bin/etcd and no apt-get: install etcd 3.4 or newer first"
    run apt-get update -qq
    run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends etcd-server
    # The package starts one of its own, on the same ports.
    if has_systemd; then run systemctl disable --now etcd.service; fi
}

need_user() {
    is_live || return 0
    getent passwd troupe >/dev/null && return
    run useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin troupe
}

install_all() {
    ((${#chosen[@]})) || { echo "install.sh: name at least one role: $roles" >&2; usage >&2; exit 2; }
    [[ -x $binary ]] || fail "there is no binary at $binary: \`make build\` makes it, --binary names another"
    [[ " ${chosen[*]} " != *" etcd "* ]] || need_etcd
    need_user
    put 755 "$binary" "$bin/troupe"
    for guide in "$deploy"/../docs/guide-*.md; do put 644 "$guide" "$docs/$(basename "$guide")"; done
    # Keys and tokens are in files that the units name, which are not for everybody.
    run install -d -m 750 "$etc"
    for role in "${chosen[@]}"; do
        put 644 "$deploy/systemd/troupe-$role.service" "$units/troupe-$role.service"
        keep 640 "$deploy/systemd/env/$role.env" "$etc/$role.env"
    done
    if is_live; then
        run chgrp -R troupe "$etc"
    fi
    has_systemd || { echo "installed, nothing started: ${chosen[*]}"; return; }
    run systemctl daemon-reload
    for role in "${chosen[@]}"; do
        if [[ -n $start ]]; then
            run systemctl enable --now "troupe-$role.service"
            # What ran before has the old binary.
            run systemctl try-restart "troupe-$role.service"
        else
            echo "set $etc/$role.env, then: systemctl enable --now troupe-$role"
        fi
    done
}

uninstall_all() {
    for role in $roles; do
        [[ -e $units/troupe-$role.service ]] || continue
        if has_systemd; then run systemctl disable --now "troupe-$role.service"; fi
        run rm -f "$units/troupe-$role.service"
    done
    if has_systemd; then run systemctl daemon-reload; fi
    run rm -f "$bin/troupe"
    run rm -rf "$docs"
    [[ -n $purge ]] || { echo "kept $etc and $prefix/var/lib/troupe-*: --purge removes them"; return; }
    run rm -rf "$etc"
    for role in $roles; do run rm -rf "$prefix/var/lib/troupe-$role"; done
    if is_live && getent passwd troupe >/dev/null; then run userdel troupe; fi
}

[[ -n $dry || -n $prefix ]] || ((EUID == 0)) || fail "only root may install; --dry-run shows what would be done"
"${action}_all"
