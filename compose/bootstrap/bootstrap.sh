#!/bin/sh
# Makes the keys, certificates and secrets of a stack. What exists is never overwritten, so this may run
# at every start; a certificate that ends soon, or lacks the public name, is issued again for its old key.
#
#   bootstrap.sh init [nats] [exchange] [registry-token] [mosquitto]   makes what is missing, and ends
#   bootstrap.sh renew                               keeps the registry's token fresh, until it is ended
#   bootstrap.sh rotate-exchange                     new keys for the exchange, trusted beside the old ones
#   bootstrap.sh fresh                               says by its exit code whether that token is fresh
#
# BULKHEAD_ROOT is the folder that holds keys/ (default /bulkhead), BULKHEAD_HOST the name by which tenants
# reach the brokers (default localhost).
set -eu
umask 077

root=${BULKHEAD_ROOT:-/bulkhead}
host=${BULKHEAD_HOST:-localhost}
keys=$root/keys

# How long the registry's token is good. It is renewed after two days.
token_life=168h

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 0' TERM INT

say() { echo "bootstrap: $*" >&2; }

# Puts a file in its place in one step. Copied beside it first, because the two may be on different volumes.
place() {
    cp "$1" "$2.partial"
    mv -f "$2.partial" "$2"
}

random() { head -c "$1" /dev/urandom | od -A n -v -t x1 | tr -d ' \n' && echo; }

# Makes a file from the output of a command, unless it is there.
once() {
    path=$1
    shift
    [ -e "$path" ] && return 0
    "$@" > "$work/once"
    place "$work/once" "$path"
    say "made $path"
}

# issuer NAME FOLDER: a key that signs tokens, and the key set that verifies them. One whose key was taken away is left alone.
issuer() {
    [ ! -e "$keys/public/$1.jwks.json" ] || [ -e "$keys/$2/$1.key" ] || return 0
    made=$(bulkhead --json init issuer --dir "$keys/$2" --name "$1" --jwks "$keys/public/$1.jwks.json")
    case $made in *'"made": true'*) say "made $keys/$2/$1.key and $keys/public/$1.jwks.json" ;; esac
}

# certificate FOLDER NAME COMMON_NAME HOSTS…: a key once, and a certificate for it, with an authority before the first.
# HOSTS are the service's own names; `--client` among them makes it one that clients show.
certificate() {
    folder=$keys/$1 name=$2 common_name=$3
    shift 3
    for host_of_it in "$@"; do
        shift
        case $host_of_it in
            --client) set -- "$@" --client ;;
            *) set -- "$@" --host "$host_of_it" ;;
        esac
    done
    outcome=0
    bulkhead init tls --dir "$folder" --name "$name" --common-name "$common_name" \
        --ca "$keys/public/ca.pem" --ca-key "$keys/offline/ca.key" "$@" > "$work/certificate" || outcome=$?
    grep -v ' is kept; ' "$work/certificate" | while IFS= read -r line; do say "$line"; done
    # 3: it wants ca.key back, and serves until it ends.
    [ "$outcome" -eq 0 ] || [ "$outcome" -eq 3 ] || exit 1
}

common() {
    certificate tls tls "$host" "$host" localhost nats callout mqtt zenohd registry 127.0.0.1
    certificate etcd etcd etcd etcd localhost 127.0.0.1 --client
    certificate client etcd bulkhead --client
    once "$keys/metrics/token" random 32
    once "$keys/grafana/admin.password" random 16
    once "$keys/grafana/secret.key" random 32
    # Signs tokens until your identity provider does: bulkhead.toml names both.
    issuer first issuer
    # Signs the tokens of the platform's own services.
    issuer platform platform
}

# Made in a folder of its own and moved from there, each file to whoever needs it. The keyring comes last:
# while it is missing nothing has been used, and all of it is made again.
nats() {
    [ -e "$keys/nats/keyring.json" ] && return 0
    bulkhead init nats --dir "$work/nats" --listen 0.0.0.0:4222 > /dev/null
    place "$work/nats/operator.seed" "$keys/offline/operator.seed"
    place "$work/nats/system.creds" "$keys/offline/system.creds"
    place "$work/nats/registry.creds" "$keys/registry/registry.creds"
    place "$work/nats/nats-server.conf" "$keys/nats-server/operator.conf"
    place "$work/nats/operator.jwt" "$keys/nats/operator.jwt"
    place "$work/nats/keyring.json" "$keys/nats/keyring.json"
    say "made operator, accounts and keys of NATS"
    say "take operator.seed and ca.key of the volume keys-offline to where no server is"
}

exchange() {
    # Half a pair is an error, which this says with its remedy.
    if [ ! -e "$keys/exchange/ca.key" ] || [ ! -e "$keys/exchange/tokens.key" ]; then
        bulkhead init exchange --dir "$keys/exchange" > /dev/null
        say "made the keys of the exchange"
    fi
    # Brokers get the public halves alone.
    once "$keys/public/exchange-ca.pem" cat "$keys/exchange/ca.pem"
    once "$keys/public/exchange.jwks.json" cat "$keys/exchange/tokens.jwks.json"
    # It says so if brokers would not take what tokens.key signs.
    bulkhead init issuer --dir "$keys/exchange" --name tokens --jwks "$keys/public/exchange.jwks.json" > /dev/null
}

# find's -mtime +1 is two days and more.
is_fresh() { [ -e "$keys/registry/platform.token" ] && [ -z "$(find "$keys/registry/platform.token" -mtime "+$1")" ]; }

registry_token() {
    is_fresh 1 && return 0
    bulkhead token mint --service registry --iss bulkhead:platform --key "$keys/platform/platform.key" \
        --ttl "$token_life" --out "$keys/registry/platform.token" > /dev/null
    say "signed a token for the registry"
}

# Brokers trust the new keys before anything is signed with them. What the old ones signed stays good until somebody
# takes their public halves out.
rotate_exchange() {
    bulkhead exchange rotate --dir "$keys/exchange" --client-ca-file "$keys/public/exchange-ca.pem" \
        --exchange-jwks-file "$keys/public/exchange.jwks.json" > /dev/null
    say "brokers trust new and old keys; restart the service that has the exchange, which signs with the new ones then"
}

# Certificates by which the front and the health check are known to mosquitto.
mosquitto() {
    certificate mosquitto mosquitto mosquitto mosquitto localhost 127.0.0.1
    certificate mosquitto health health --client
    certificate front front front --client
}

case ${1:-} in
    init)
        shift
        common
        for part in "$@"; do
            case $part in
                nats) nats ;;
                exchange) exchange ;;
                registry-token) registry_token ;;
                mosquitto) mosquitto ;;
                *) say "there is no part '$part'; name nats, exchange, registry-token or mosquitto" && exit 2 ;;
            esac
        done
        say "done"
        ;;
    renew)
        while :; do
            registry_token
            # A signal ends the wait, not the sleep.
            sleep 3600 &
            wait $!
        done
        ;;
    rotate-exchange) rotate_exchange ;;
    fresh) is_fresh 3 ;;
    *) say "name what to do: init, renew, rotate-exchange or fresh" && exit 2 ;;
esac
