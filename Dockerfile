# syntax=docker/dockerfile:1.7
# All four services: `docker build --target gateway .`. On platforms that only accept build arguments:
# `docker build --build-arg SERVICE=gateway .`.

ARG SERVICE=gateway

FROM rust:1.95.0-bookworm AS chef
WORKDIR /build
# Behind a proxy that inspects TLS, pass the trusted certificates as the build secret `ca`, and /run/secrets/ca here.
ARG CARGO_HTTP_CAINFO
RUN --mount=type=secret,id=ca cargo install cargo-chef --version 0.1.78 --locked \
    && cargo install cargo-cyclonedx --version 0.5.9 --locked \
    && rm -rf "${CARGO_HOME}/registry"

# The list of dependencies. It changes only if a manifest or the lock file changes.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

# The dependencies have their own layer. All four services are built together, because they share most compiled crates.
FROM chef AS build
ARG CARGO_HTTP_CAINFO
COPY --from=plan /build/recipe.json .
RUN --mount=type=secret,id=ca cargo chef cook --release --locked --recipe-path recipe.json \
    --package gateway --package chat-service --package notify-service --package typing-service
COPY . .
# The commit in the metric target_info: --build-arg GIT_COMMIT="$(git rev-parse HEAD)".
ARG GIT_COMMIT=unknown
RUN --mount=type=secret,id=ca GIT_COMMIT="${GIT_COMMIT}" cargo build --release --locked \
    --package gateway --package chat-service --package notify-service --package typing-service
# The programs keep their symbols, so that backtraces name functions. Line tables are separate files.
WORKDIR /build/target/release
RUN mkdir -p /out/debug \
    && for program in gateway chat-service notify-service typing-service; do \
        objcopy --only-keep-debug --compress-debug-sections "${program}" "/out/debug/${program}.debug" \
        && objcopy --strip-debug --add-gnu-debuglink="/out/debug/${program}.debug" "${program}" "/out/${program}" \
        || exit 1; \
    done
# The list of crates of each program, as CycloneDX, with the commit's timestamp.
WORKDIR /build
ARG SOURCE_DATE_EPOCH
RUN --mount=type=secret,id=ca cargo cyclonedx --format json --spec-version 1.5 --no-build-deps --quiet \
    && for program in gateway chat-service notify-service typing-service; do \
        mv "${program}/${program}.cdx.json" /out/ || exit 1; \
    done

# Line tables of all four programs. With this folder in a container, backtraces have line numbers.
FROM scratch AS debug
COPY --from=build /out/debug/ /usr/lib/debug/usr/local/bin/

FROM debian:12.11-slim AS runtime
# Certificates for NATS, Postgres and OTLP over TLS.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --chmod=755 deploy/docker/ready /usr/local/bin/ready
USER 10001:10001
ENV LOG_FORMAT=json
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["ready"]
# `cargo xtask images` adds the labels for version, revision and time: with build arguments, buildah would reuse a
# cached layer with old values.
LABEL org.opencontainers.image.vendor="Vyzio" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.base.name="docker.io/library/debian:12.11-slim"

FROM runtime AS gateway
ENV ADMIN_ADDR=0.0.0.0:9000
EXPOSE 8000 9000
COPY --from=build /out/gateway /usr/local/bin/
COPY --from=build /out/gateway.cdx.json /usr/share/sbom/
LABEL org.opencontainers.image.title="vyzio/gateway" \
    org.opencontainers.image.description="WebSockets and the HTTP API"
ENTRYPOINT ["gateway"]

FROM runtime AS chat-service
ENV ADMIN_ADDR=0.0.0.0:9001
EXPOSE 9001
COPY --from=build /out/chat-service /usr/local/bin/
COPY --from=build /out/chat-service.cdx.json /usr/share/sbom/
LABEL org.opencontainers.image.title="vyzio/chat-service" \
    org.opencontainers.image.description="Stores messages and publishes them"
ENTRYPOINT ["chat-service"]

FROM runtime AS notify-service
ENV ADMIN_ADDR=0.0.0.0:9002
EXPOSE 9002
COPY --from=build /out/notify-service /usr/local/bin/
COPY --from=build /out/notify-service.cdx.json /usr/share/sbom/
LABEL org.opencontainers.image.title="vyzio/notify-service" \
    org.opencontainers.image.description="Turns events into notifications"
ENTRYPOINT ["notify-service"]

FROM runtime AS typing-service
ENV ADMIN_ADDR=0.0.0.0:9003
EXPOSE 9003
COPY --from=build /out/typing-service /usr/local/bin/
COPY --from=build /out/typing-service.cdx.json /usr/share/sbom/
LABEL org.opencontainers.image.title="vyzio/typing-service" \
    org.opencontainers.image.description="Publishes who is typing"
ENTRYPOINT ["typing-service"]

# hadolint ignore=DL3006
FROM ${SERVICE} AS chosen
