# Bulkhead's images, one target each: bulkhead (the command), callout, mqtt, registry, zenohd, bootstrap.
#
#   docker build --target mqtt --tag bulkhead-mqtt:0.1.0 .
#
# It stands at the root because the workspace is its context.

FROM rust:1.95.0-slim-bookworm AS rust
# devkit/protoc takes the system's protoc, which needs nothing from the network.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libc6-dev make pkg-config protobuf-compiler libprotobuf-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src

# What is cached was built of whatever was built last, and Cargo goes by times, not by content: sources that are older than
# that would be taken for built. Dependencies are not built again.
FROM rust AS build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/target,sharing=locked \
    find . -name target -prune -o -type f -exec touch {} + \
    && cargo build --release --locked --package bulkhead --package bulkhead-auth-callout \
        --package bulkhead-mqtt-broker --package bulkhead-registry --bins \
    && mkdir /out \
    && cp target/release/bulkhead target/release/bulkhead-auth-callout target/release/bulkhead-mqtt-broker \
        target/release/bulkhead-registry /out/ \
    && strip --strip-debug /out/*

# A router loads only what was built like itself: both by the same Rust, in one stage. The plugin's lock file begins
# with zenohd's own, so they share the releases of all crates.
FROM rust AS build-zenoh
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    cargo install zenohd --version 1.10.2 --locked --root /out --target-dir /tmp/zenohd \
    && rm -rf /tmp/zenohd
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/src/zenoh-plugin/dylib/target,sharing=locked \
    find . -name target -prune -o -type f -exec touch {} + \
    && cargo build --release --locked --manifest-path zenoh-plugin/dylib/Cargo.toml --target-dir zenoh-plugin/dylib/target \
    && mkdir /out/lib \
    && cp zenoh-plugin/dylib/target/release/libzenoh_plugin_bulkhead.so /out/lib/ \
    && strip --strip-debug /out/bin/zenohd /out/lib/libzenoh_plugin_bulkhead.so

# Debian without a package manager's leftovers: a C library, and certificates of public authorities for issuers' keys.
FROM debian:bookworm-20250811-slim AS base
RUN apt-get update \
    && apt-get upgrade --yes \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/* /var/log/* \
    && groupadd --gid 65532 bulkhead \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /bulkhead --shell /usr/sbin/nologin bulkhead
COPY LICENSE /usr/share/doc/bulkhead/LICENSE
WORKDIR /bulkhead
USER 65532:65532
STOPSIGNAL SIGTERM
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
LABEL org.opencontainers.image.vendor="Bulkhead" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.source="https://github.com/bulkhead-io/bulkhead" \
    org.opencontainers.image.url="https://github.com/bulkhead-io/bulkhead" \
    org.opencontainers.image.documentation="https://github.com/bulkhead-io/bulkhead/blob/main/compose/README.md" \
    org.opencontainers.image.base.name="docker.io/library/debian:bookworm-20250811-slim" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}" \
    org.opencontainers.image.created="${CREATED}"

# With the command, by which health checks ask whether a service is ready: once, for all of its images.
FROM base AS service
COPY --from=build /out/bulkhead /usr/local/bin/

FROM service AS callout
LABEL org.opencontainers.image.title="bulkhead-callout" \
    org.opencontainers.image.description="Tenant isolation for NATS: the auth-callout service and the exchange"
COPY --from=build /out/bulkhead-auth-callout /usr/local/bin/
EXPOSE 8443 9180
ENTRYPOINT ["/usr/local/bin/bulkhead-auth-callout"]
CMD ["/bulkhead/config/bulkhead.toml"]

FROM service AS mqtt
LABEL org.opencontainers.image.title="bulkhead-mqtt" \
    org.opencontainers.image.description="An MQTT broker, or a front before another one, that keeps tenants apart"
COPY --from=build /out/bulkhead-mqtt-broker /usr/local/bin/
EXPOSE 8443 8883 8884 9180
ENTRYPOINT ["/usr/local/bin/bulkhead-mqtt-broker"]
CMD ["/bulkhead/config/bulkhead.toml"]

FROM service AS registry
LABEL org.opencontainers.image.title="bulkhead-registry" \
    org.opencontainers.image.description="Which devices are present, over NATS, MQTT and Zenoh"
COPY --from=build /out/bulkhead-registry /usr/local/bin/
EXPOSE 9180
ENTRYPOINT ["/usr/local/bin/bulkhead-registry"]
CMD ["/bulkhead/config/bulkhead.toml"]

FROM service AS zenohd
LABEL org.opencontainers.image.title="bulkhead-zenohd" \
    org.opencontainers.image.description="zenohd 1.10.2 with the gate that keeps tenants apart"
COPY --from=build-zenoh /out/bin/zenohd /usr/local/bin/
COPY --from=build-zenoh /out/lib/libzenoh_plugin_bulkhead.so /usr/local/lib/bulkhead/
EXPOSE 7447 7448/udp 9180
ENTRYPOINT ["/usr/local/bin/zenohd"]
CMD ["--config", "/bulkhead/config/zenohd.json5"]

FROM service AS bootstrap
LABEL org.opencontainers.image.title="bulkhead-bootstrap" \
    org.opencontainers.image.description="Makes the keys and secrets of a stack, once"
USER 0:0
# A new volume takes owner and mode of the folder that it is mounted on: here, and only here (`nocopy` elsewhere).
RUN set -eu; \
    for folder in keys/offline keys/public keys/tls keys/etcd keys/client keys/front keys/metrics keys/grafana keys/issuer \
        keys/platform keys/registry keys/exchange keys/nats keys/nats-server keys/mosquitto audit \
        volumes/etcd volumes/nats volumes/mqtt volumes/mosquitto volumes/prometheus volumes/grafana; do \
        install --directory --mode=0700 --owner=65532 --group=65532 "/bulkhead/$folder"; \
    done
USER 65532:65532
COPY --chmod=0755 compose/bootstrap/bootstrap.sh /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/bootstrap.sh"]
CMD ["init"]

FROM service AS bulkhead
LABEL org.opencontainers.image.title="bulkhead" \
    org.opencontainers.image.description="Tenant isolation for NATS, MQTT and Zenoh: the command"
EXPOSE 8443 9180
ENTRYPOINT ["/usr/local/bin/bulkhead"]
