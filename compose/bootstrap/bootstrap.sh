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
day=86400

# How long certificates and the registry's token are good, in days. A token is renewed after two.
ca_days=3650
cert_days=397
token_days=7

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 0' TERM INT

say() { echo "bootstrap: $*" >&2; }

# Puts a file in its place in one step. Copied beside it first, because the two may be on different volumes.
place() {
    cp "$1" "$2.partial"
    mv -f "$2.partial" "$2"
}

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# Makes a file from the output of a command, unless it is there.
once() {
    path=$1
    shift
    [ -e "$path" ] && return 0
    "$@" > "$work/once"
    place "$work/once" "$path"
    say "made $path"
}

ed25519_key() { openssl genpkey -algorithm ed25519; }
ec_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256; }

# The 32 bytes of an Ed25519 public key stand at the end of its DER form (RFC 8410, section 4).
ed25519_public() { openssl pkey -in "$1" -pubout -outform DER | tail -c 32 | base64url; }

# The key set that verifies what an Ed25519 key signs (RFC 8037, section 2).
jwks() {
    x=$(ed25519_public "$1")
    printf '{"keys":[{"kty":"OKP","crv":"Ed25519","use":"sig","alg":"EdDSA","kid":"%s","x":"%s"}]}\n' \
        "$(key_id "$x")" "$x"
}

# As `bulkhead token mint` names a key: the first nine bytes of its public half.
key_id() { printf '%s' "$1" | cut -c 1-12; }

# Without its key, which may be kept elsewhere, there is an authority as long as its certificate is there.
authority() {
    [ -e "$keys/public/ca.pem" ] && return 0
    once "$keys/offline/ca.key" ec_key
    openssl req -x509 -new -key "$keys/offline/ca.key" -days "$ca_days" -subj "/CN=Bulkhead transport authority" \
        -addext "basicConstraints=critical,CA:TRUE,pathlen:0" -addext "keyUsage=critical,keyCertSign,cRLSign" \
        -out "$work/ca.pem"
    place "$work/ca.pem" "$keys/public/ca.pem"
    say "made $keys/public/ca.pem"
}

# Whether a certificate is there, lives another month, is for this name and belongs to this authority.
is_good() {
    [ -e "$1" ] || return 1
    openssl x509 -in "$1" -noout -checkend "$((30 * day))" > /dev/null || return 1
    openssl verify -CAfile "$keys/public/ca.pem" "$1" > /dev/null 2>&1 || return 1
    [ -z "$2" ] || case $(openssl x509 -in "$1" -noout -checkhost "$2") in
        *"does match"*) ;;
        *) return 1 ;;
    esac
}

# certificate FOLDER/NAME COMMON_NAME USAGES HOSTS: a key once, and a certificate for it. HOSTS are the
# service's own names; the first has to stand in the certificate, or it is issued again.
certificate() {
    once "$1.key" ec_key
    is_good "$1.pem" "${4%% *}" && return 0
    if [ ! -e "$keys/offline/ca.key" ]; then
        say "$1.pem has to be issued (again): put ca.key back into the volume keys-offline"
        # One that has not ended yet still serves.
        openssl x509 -in "$1.pem" -noout -checkend 0 > /dev/null 2>&1 && return 0
        exit 1
    fi
    names=""
    for name in $4; do
        case $name in
            *[!0-9.]*) names="$names,DNS:$name" ;;
            *) names="$names,IP:$name" ;;
        esac
    done
    {
        echo "basicConstraints=critical,CA:FALSE"
        echo "keyUsage=critical,digitalSignature"
        echo "extendedKeyUsage=$3"
        [ -z "$names" ] || echo "subjectAltName=${names#,}"
    } > "$work/extensions"
    openssl req -new -key "$1.key" -subj "/CN=$2" -out "$work/request"
    openssl x509 -req -in "$work/request" -CA "$keys/public/ca.pem" -CAkey "$keys/offline/ca.key" \
        -set_serial "0x$(openssl rand -hex 16)" -days "$cert_days" -extfile "$work/extensions" \
        -out "$work/certificate" 2> "$work/log" || { cat "$work/log" >&2; exit 1; }
    place "$work/certificate" "$1.pem"
    say "issued $1.pem"
}

common() {
    authority
    certificate "$keys/tls/tls" "$host" serverAuth "$host localhost nats callout mqtt zenohd registry 127.0.0.1"
    certificate "$keys/etcd/etcd" etcd "serverAuth,clientAuth" "etcd localhost 127.0.0.1"
    certificate "$keys/client/etcd" bulkhead clientAuth ""
    once "$keys/metrics/token" openssl rand -hex 32
    once "$keys/grafana/admin.password" openssl rand -hex 16
    once "$keys/grafana/secret.key" openssl rand -hex 32
    # Signs tokens until your identity provider does: bulkhead.toml names both.
    once "$keys/issuer/first.key" ed25519_key
    once "$keys/public/first.jwks.json" jwks "$keys/issuer/first.key"
    # Signs the tokens of the platform's own services.
    once "$keys/platform/platform.key" ed25519_key
    once "$keys/public/platform.jwks.json" jwks "$keys/platform/platform.key"
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
    if ! grep -qF -e "$(ed25519_public "$keys/exchange/tokens.key")" "$keys/public/exchange.jwks.json"; then
        say "brokers do not trust keys/exchange/tokens.key: add its public half to keys/public/exchange.jwks.json"
        exit 1
    fi
}

# A token of the issuer `platform`, for the registry (RFC 7519, RFC 8037).
platform_token() {
    key=$keys/platform/platform.key
    now=$(date +%s)
    header=$(printf '{"alg":"EdDSA","typ":"JWT","kid":"%s"}' "$(key_id "$(ed25519_public "$key")")" | base64url)
    claims=$(printf '{"iss":"bulkhead:platform","aud":"bulkhead","sub":"registry","role":"service","iat":%d,"exp":%d,"jti":"%s"}' \
        "$now" "$((now + token_days * day))" "$(openssl rand -hex 16)" | base64url)
    printf '%s.%s' "$header" "$claims" > "$work/signed"
    printf '%s.%s' "$header.$claims" "$(openssl pkeyutl -sign -rawin -inkey "$key" -in "$work/signed" | base64url)"
}

# find's -mtime +1 is two days and more.
is_fresh() { [ -e "$keys/registry/platform.token" ] && [ -z "$(find "$keys/registry/platform.token" -mtime "+$1")" ]; }

registry_token() {
    is_fresh 1 && return 0
    platform_token > "$work/token"
    place "$work/token" "$keys/registry/platform.token"
    say "signed a token for the registry"
}

# The keys of two key sets in one, those of the first before those of the second.
both_key_sets() {
    printf '{"keys":[%s,%s]}\n' "$(tr -d '\n' < "$1" | sed 's/^{"keys":\[//; s/\]}$//')" \
        "$(tr -d '\n' < "$2" | sed 's/^{"keys":\[//; s/\]}$//')"
}

# Brokers trust the new keys before anything is signed with them. What the old ones signed stays good until somebody
# takes their public halves out.
rotate_exchange() {
    bulkhead init exchange --dir "$work/next" > /dev/null
    cat "$keys/public/exchange-ca.pem" "$work/next/ca.pem" > "$work/public-ca"
    both_key_sets "$keys/public/exchange.jwks.json" "$work/next/tokens.jwks.json" > "$work/public-jwks"
    cat "$work/next/ca.pem" "$keys/exchange/ca.pem" > "$work/own-ca"
    both_key_sets "$work/next/tokens.jwks.json" "$keys/exchange/tokens.jwks.json" > "$work/own-jwks"
    place "$work/public-ca" "$keys/public/exchange-ca.pem"
    place "$work/public-jwks" "$keys/public/exchange.jwks.json"
    place "$work/own-ca" "$keys/exchange/ca.pem"
    place "$work/next/ca.key" "$keys/exchange/ca.key"
    place "$work/own-jwks" "$keys/exchange/tokens.jwks.json"
    place "$work/next/tokens.key" "$keys/exchange/tokens.key"
    say "brokers trust new and old keys; restart the service that has the exchange, which signs with the new ones then"
}

# Certificates by which the front and the health check are known to mosquitto.
mosquitto() {
    certificate "$keys/mosquitto/mosquitto" mosquitto serverAuth "mosquitto localhost 127.0.0.1"
    certificate "$keys/mosquitto/health" health clientAuth ""
    certificate "$keys/front/front" front clientAuth ""
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
